import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import shiftproof
from shiftproof.nn import FirstPhase, WholePixels


class Segmenter(nn.Module):
    """Classes per pixel, at full and at half resolution, and a label for the whole image."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 8, 3, 2, 1)
        self.deep = nn.Conv2d(8, 8, 3, 2, 1)
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.down(x).relu()
        z = self.head(self.deep(y).relu())
        full = F.interpolate(z, size=x.shape[2:], mode="bilinear")
        return {"out": full, "mask": full.argmax(1), "half": y, "label": z.mean((2, 3))}


def images(size: int = 64, num: int = 2) -> Tensor:
    x = torch.rand(num, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    return F.interpolate(x, (size, size), mode="bicubic", align_corners=True)


def made(cls: type[nn.Module] = Segmenter) -> nn.Module:
    torch.manual_seed(0)
    return cls().eval()


def test_the_model_inside_is_the_users() -> None:
    model = made()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    locked = shiftproof.lock_grid(model, images())
    assert locked.model is model
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert set(vars(model)) == set(vars(made()))


def test_the_stride_and_the_outputs_are_found() -> None:
    summary = shiftproof.lock_grid(made(), images()).summary
    assert summary.stride == (4, 4)
    assert [(o.index, o.dims, *map(int, o.steps)) for o in summary.outputs] == [
        (0, (2, 3), 1, 1),
        (1, (1, 2), 1, 1),
        (2, (2, 3), 2, 2),
    ]
    assert "modulo 4x4 pixels (found by analysis)" in str(summary)


def test_where_nothing_moves_the_outputs_are_the_plain_ones() -> None:
    model = made()
    locked = shiftproof.lock_grid(model, images(), selector=FirstPhase())
    plain, found = model(images()), locked(images())
    assert all(torch.equal(plain[name], found[name]) for name in plain)


def test_outputs_are_moved_back() -> None:
    model = made()
    locked = shiftproof.lock_grid(model, images(), interpolation=WholePixels())
    offset = torch.tensor([[2.0, -1.0], [1.0, 2.0]])
    locked.lock.offset = lambda x: offset
    found = locked(images())
    for index, (row, column) in enumerate(offset.int().tolist()):
        moved = images().roll((-row, -column), (2, 3))
        expected = model(moved)
        inner = (slice(20, -20), slice(20, -20))
        back = expected["out"].roll((row, column), (2, 3))
        torch.testing.assert_close(
            found["out"][index][(slice(None), *inner)], back[index][(slice(None), *inner)]
        )
        mask = expected["mask"].roll((row, column), (1, 2))
        assert torch.equal(found["mask"][index][inner], mask[index][inner])
    torch.testing.assert_close(found["half"][0, :, 8:-8, 8:-8].shape, torch.Size([8, 16, 16]))


def test_outputs_are_moved_back_by_the_whole_pixels_that_the_image_was_moved() -> None:
    model = nn.Conv2d(3, 4, 1).eval()
    locked = shiftproof.lock_grid(model, images(), stride=4, interpolation=WholePixels())
    locked.lock.offset = lambda x: torch.tensor([[1.7, -0.6], [0.4, 1.2]])
    inner = (..., slice(8, -8), slice(8, -8))
    torch.testing.assert_close(locked(images())[inner], model(images())[inner])


def test_a_locked_network_flickers_less() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(
        *(nn.Conv2d(3, 16, 7, 4, 3), nn.ReLU(), nn.Conv2d(16, 8, 5, 4, 2), nn.AdaptiveMaxPool2d(1))
    ).eval()
    locked = shiftproof.lock_grid(model, images(128), margin=16)
    wide = images(256, 1)
    frames = torch.cat([wide[..., 40:184, s : s + 144] for s in range(40, 56)])
    with torch.no_grad():
        plain, found = model(frames[..., 8:-8, 8:-8]), locked(frames)
    changes = [(y[1:] - y[:-1]).abs().flatten(1).mean(1).median() for y in (plain, found)]
    assert changes[1] < changes[0] / 2


@pytest.mark.parametrize(
    ("name", "size", "stride"),
    [
        ("resnet18", 64, 32),
        ("vit_b_32", 224, 32),
        ("squeezenet1_1", 64, 16),
        ("swin_t", 224, 32),
        ("maxvit_t", 224, 32),
    ],
)
def test_networks_of_torchvision(name: str, size: int, stride: int) -> None:
    models = pytest.importorskip("torchvision.models")
    model = models.get_model(name, weights=None).eval()
    assert shiftproof.lock_grid(model, images(size)).summary.stride == (stride, stride)


def test_sizes_that_strides_do_not_divide() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.MaxPool2d(2)).eval()
    assert shiftproof.lock_grid(model, images(50)).summary.stride == (4, 4)


def test_other_arguments_are_passed_on() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, 2, 1)

        def forward(self, x: Tensor, scale: float, *, shift: Tensor) -> Tensor:
            return self.conv(x).mean((2, 3)) * scale + shift

    model = made(Scaled)
    shift = torch.ones(2, 4)
    locked = shiftproof.lock_grid(model, (images(), 2.0), {"shift": shift}, selector=FirstPhase())
    assert torch.equal(locked(images(), 2.0, shift=shift), model(images(), 2.0, shift=shift))


def test_what_cannot_be_followed_needs_a_stride() -> None:
    class Reading(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x) if float(x.detach().numpy().max()) > -1 else x

    with pytest.raises(ValueError, match=r"lock_grid: .* pass stride="):
        shiftproof.lock_grid(made(Reading), images())
    locked = shiftproof.lock_grid(made(Reading), images(), stride=2)
    assert locked(images()).shape == (2, 4, 32, 32)
    assert "outputs are not moved back" in str(locked.summary)


def test_images_that_are_too_small_are_refused_at_once() -> None:
    with pytest.raises(ValueError, match="the image must be larger than what is shown"):
        shiftproof.lock_grid(nn.Conv2d(3, 4, 8, 32), images(16))


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="must sample its maps by a stride"):
        shiftproof.lock_grid(nn.Conv2d(3, 4, 3, padding=1), images())
    with pytest.raises(ValueError, match="1 to 3 spatial axes"):
        shiftproof.lock_grid(nn.Linear(3, 4), torch.rand(2, 3))


def test_a_locked_network_exports() -> None:
    locked = shiftproof.lock_grid(made(), images())
    program = torch.export.export(locked, (images(),))
    for name, value in locked(images()).items():
        torch.testing.assert_close(program.module()(images())[name], value)
