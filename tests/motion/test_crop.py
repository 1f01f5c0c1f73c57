import copy
import pickle

import numpy as np
import pytest
import torch
from torch import Tensor

from shiftproof.motion import LockedCrop, locked

image_module = pytest.importorskip("PIL.Image")
v2 = pytest.importorskip("torchvision.transforms.v2")
datasets = pytest.importorskip("sklearn.datasets")


class Nothing(torch.nn.Module):
    """Sees nothing, so that nothing moves."""

    def salience(self, x: Tensor, pitch: float) -> Tensor:
        return x.new_zeros(len(x), *x.shape[2:])


@pytest.fixture(scope="module")
def photograph():
    return image_module.fromarray(datasets.load_sample_image("china.jpg"))


@pytest.fixture(scope="module")
def frames(photograph) -> Tensor:
    """A pan of two pixels of the camera, which is one at the network's scale of 160."""
    pixels = torch.from_numpy(np.array(photograph)).permute(2, 0, 1)
    return torch.stack([pixels[:, 40:360, s : s + 400] for s in range(100, 116, 2)])


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_without_content_it_is_resize_and_center_crop(photograph, interpolation) -> None:
    mode = v2.InterpolationMode(interpolation)
    photograph = photograph.crop((100, 0, 500, 400))
    plain = v2.Compose([v2.Resize(160, interpolation=mode), v2.CenterCrop(128)])
    crop = LockedCrop(128, 32, interpolation=interpolation, selector=Nothing())
    assert crop.offset(photograph).tolist() == [[0, 0]]
    found, expected = (np.asarray(t(photograph), dtype=float) for t in (crop, plain))
    assert np.abs(found - expected).max() <= 1


def test_the_window_moves_with_the_content(frames) -> None:
    crop = LockedCrop(128, 32)
    offset = crop.offset(frames)
    slips = (offset[1:] - offset[:-1] + torch.tensor([0.0, 1.0]) + 16).remainder(32) - 16
    assert slips.norm(dim=1).median() < 0.05
    windows = crop(frames).float()
    plain = LockedCrop(128, 32, selector=Nothing())(frames).float()
    changes = [(w[1:] - w[:-1]).abs().flatten(1).mean(1) for w in (windows, plain)]
    assert changes[0].median() < changes[1].median() / 4  # a jump of the place is rare


def test_images_and_tensors_give_the_same(photograph, frames) -> None:
    crop = LockedCrop(128, 32)
    pixels = torch.from_numpy(np.array(photograph)).permute(2, 0, 1)
    image = crop(photograph)
    assert (image.mode, image.size) == ("RGB", (128, 128))
    assert torch.equal(torch.from_numpy(np.array(image)).permute(2, 0, 1), crop(pixels))
    assert crop(pixels).dtype == torch.uint8
    together = crop(frames.reshape(2, 4, *frames.shape[1:]))
    assert together.shape == (2, 4, 3, 128, 128)
    apart = (together[1, 2].int() - crop(frames[6]).int()).abs()
    assert apart.max() <= 1
    wide = crop(frames.float() / 255)
    torch.testing.assert_close(wide[0], crop(frames)[0] / 255, rtol=0, atol=0.05)


def test_tensors_of_torchvision(frames) -> None:
    tensors = pytest.importorskip("torchvision.tv_tensors")
    crop = LockedCrop(128, 32, interpolation=v2.InterpolationMode.BILINEAR)
    window = crop(tensors.Image(frames[0]))
    assert type(window) is tensors.Image
    assert torch.equal(window, crop(frames[0]))
    with pytest.raises(TypeError, match="must be an image, got Mask"):
        crop(tensors.Mask(frames[0, :1]))


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_modes_of_images(photograph, mode) -> None:
    assert LockedCrop(64, 16)(photograph.convert(mode)).mode == mode


def test_a_palette_is_refused(photograph) -> None:
    with pytest.raises(ValueError, match=r"call image\.convert"):
        LockedCrop(64, 16)(photograph.convert("P"))
    with pytest.raises(TypeError, match="must be a PIL image or a tensor"):
        LockedCrop(64, 16)([1, 2])
    with pytest.raises(ValueError, match="add the channel axis"):
        LockedCrop(64, 16)(torch.zeros(100, 100))


@pytest.mark.parametrize("size", [(300, 500), (500, 300), (64, 64), (40, 30)])
def test_frames_of_any_size(size) -> None:
    x = torch.rand(3, *size, generator=torch.Generator().manual_seed(0))
    for resize in (64, 72, 96, (64, 96)):
        assert LockedCrop(64, 16, resize_size=resize)(x).shape == (3, 64, 64)


def test_the_transforms_of_torchvision(photograph) -> None:
    models = pytest.importorskip("torchvision.models")
    for weights in (models.ResNet18_Weights.DEFAULT, models.EfficientNet_B0_Weights.DEFAULT):
        plain = weights.transforms()
        found = locked(plain, 32, Nothing())(photograph)
        expected = plain(photograph)
        assert found.shape == expected.shape
        # torchvision rounds the longer side and the corner to whole pixels.
        assert (found - expected).abs().mean() < 0.2
        assert not torch.equal(locked(plain, 32)(photograph), found)


def test_the_transforms_of_timm(photograph) -> None:
    data = pytest.importorskip("timm.data")
    plain = data.create_transform((3, 128, 128), interpolation="bicubic", crop_pct=0.8)
    found, expected = locked(plain, 32, Nothing())(photograph), plain(photograph)
    assert found.shape == expected.shape
    assert (found - expected).abs().mean() < 0.2


def test_any_compose_and_what_is_none(photograph) -> None:
    plain = v2.Compose([v2.Resize(160), v2.CenterCrop(128), v2.PILToTensor()])
    transforms = locked(plain, 32)
    assert transforms(photograph).shape == (3, 128, 128)
    twin = pickle.loads(pickle.dumps(copy.deepcopy(transforms)))
    assert torch.equal(twin(photograph), transforms(photograph))
    with pytest.raises(ValueError, match="got Resize PILToTensor"):
        locked(v2.Compose([v2.Resize(160), v2.PILToTensor()]), 32)


def test_frames_without_room_are_named() -> None:
    tight = v2.Compose([v2.Resize(232), v2.CenterCrop(224)])
    with pytest.warns(UserWarning, match="frames leave 8 pixels of room"):
        locked(tight, 32)
    with pytest.raises(ValueError, match="must be antialiased"):
        locked(v2.Compose([v2.Resize(256, antialias=False), v2.CenterCrop(224)]), 32)


def test_what_a_crop_refuses() -> None:
    with pytest.raises(ValueError, match="interpolation must be one of bilinear, bicubic"):
        LockedCrop(64, 16, interpolation="lanczos")
