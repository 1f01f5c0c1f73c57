import pickle

import pytest
import torch
import torchvision.transforms.functional as TF
from torch import Generator, Tensor

from shiftproof.data.transforms import (
    CenterCrop,
    CircularAugment,
    Compose,
    EraseSquare,
    FlipBothAxes,
    Normalize,
    RandomCrop,
    RandomHorizontalFlip,
)
from shiftproof.ops.shift import circular_shift


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def bytes_of(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=seeded(99))


ALL = (
    Normalize(),
    RandomHorizontalFlip(),
    RandomCrop(2),
    CircularAugment(3),
    FlipBothAxes(),
    EraseSquare(3),
    CenterCrop(5),
    Compose((RandomCrop(1), RandomHorizontalFlip(), Normalize(), CircularAugment(2))),
)


@pytest.mark.parametrize("transform", ALL, ids=lambda t: type(t).__name__)
def test_a_transform_depends_on_its_generator_alone_and_spares_its_input(transform):
    images = bytes_of(6, 3, 8, 9)
    kept, state = images.clone(), torch.get_rng_state()
    first = transform(images, seeded(5))
    assert torch.equal(transform(images, seeded(5)), first)
    assert torch.equal(images, kept)
    assert torch.equal(torch.get_rng_state(), state)
    assert pickle.loads(pickle.dumps(transform)) == transform


@pytest.mark.parametrize("transform", [ALL[i] for i in (1, 2, 3, 5, 7)], ids=repr)
def test_a_random_transform_does_depend_on_its_generator(transform):
    images = bytes_of(6, 3, 8, 9)
    first = transform(images, seeded(0))
    assert any(not torch.equal(transform(images, seeded(i)), first) for i in range(1, 6))


def test_normalize_is_torchvisions():
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    images = bytes_of(2, 3, 4, 5)
    expected = TF.normalize(TF.convert_image_dtype(images, torch.float32), mean, std)
    assert torch.equal(Normalize(mean, std)(images, seeded()), expected)
    plain = Normalize()(images, seeded())
    assert torch.equal(plain, images / 255)
    assert plain.dtype == torch.float32


def test_normalize_refuses_floats_and_wrong_channels():
    with pytest.raises(TypeError, match=r"images must be uint8, got torch\.float32"):
        Normalize()(torch.zeros(1, 3, 2, 2), seeded())
    with pytest.raises(ValueError, match="mean and std must have 1 or 1 values, got 3 and 1"):
        Normalize((0.0, 0.0, 0.0))(bytes_of(1, 1, 2, 2), seeded())


def test_horizontal_flip_mirrors_some_images_whole():
    images = bytes_of(64, 3, 4, 5)
    flipped = RandomHorizontalFlip()(images, seeded())
    mirrored = [bool(torch.equal(a, b.flip(-1))) for a, b in zip(flipped, images, strict=True)]
    same = [bool(torch.equal(a, b)) for a, b in zip(flipped, images, strict=True)]
    assert all(m != s for m, s in zip(mirrored, same, strict=True))
    assert 10 < sum(mirrored) < 54
    assert torch.equal(RandomHorizontalFlip(1.0)(images, seeded()), images.flip(-1))
    assert torch.equal(RandomHorizontalFlip(0.0)(images, seeded()), images)


def test_random_crop_shifts_each_image_and_fills_with_zeros():
    images = torch.ones(200, 1, 4, 5, dtype=torch.uint8)
    cropped = RandomCrop(2)(images, seeded())
    assert cropped.shape == images.shape
    assert cropped.dtype == torch.uint8
    windows = {tuple(map(tuple, image[0].tolist())): int(image.sum()) for image in cropped.unbind()}
    assert len(windows) == 25, "all 5 x 5 places occur, each image has its own"
    assert min(windows.values()) == 2 * 3
    assert torch.equal(RandomCrop(0)(images, seeded()), images)


def test_circular_augment_is_one_shift_in_the_papers_range():
    images = bytes_of(3, 2, 8, 9)
    shifts = [(dy, dx) for dy in range(-2, 2) for dx in range(-2, 2)]
    candidates = {shift: circular_shift(images, shift) for shift in shifts}
    drawn = set()
    for seed in range(150):
        shifted = CircularAugment(2)(images, seeded(seed))
        found = [shift for shift, c in candidates.items() if torch.equal(c, shifted)]
        assert len(found) == 1
        drawn.update(found)
    assert drawn == set(shifts)


def test_flip_both_axes_is_half_a_turn():
    images = bytes_of(2, 3, 4, 5)
    assert torch.equal(FlipBothAxes()(images, seeded()), images.rot90(2, (2, 3)))


def test_erase_square_zeroes_one_place_of_the_batch_within_the_papers_range():
    corners = set()
    for seed in range(100):
        erased = EraseSquare(3)(torch.ones(2, 3, 9, 8), seeded(seed))
        assert torch.equal(erased, erased[:1, :1].expand_as(erased))
        rows, columns = (erased[0, 0] == 0).nonzero(as_tuple=True)
        top, left = int(rows.min()), int(columns.min())
        assert int((erased[0, 0] == 0).sum()) == 9
        assert int(rows.max() - rows.min()) == int(columns.max() - columns.min()) == 2
        corners.add((top, left))
    assert corners == {(y, x) for y in range(3) for x in range(2)}


def test_center_crop_is_torchvisions():
    images = bytes_of(2, 3, 9, 12)
    for size in range(1, 10):
        expected = TF.center_crop(images, [size, size])
        assert torch.equal(CenterCrop(size)(images, seeded()), expected)


def test_compose_applies_in_order():
    images = bytes_of(2, 3, 8, 8)
    erase_last = Compose((Normalize((0.5,), (0.5,)), EraseSquare(3)))(images, seeded())
    erase_first = Compose((EraseSquare(3), Normalize((0.5,), (0.5,))))(images, seeded())
    assert int((erase_last == 0).sum()) == 2 * 3 * 9
    assert torch.equal(erase_first, torch.where(erase_last == 0, -1.0, erase_last))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandomCrop(-1), "RandomCrop: padding must be at least 0, got -1"),
        (lambda: CircularAugment(0), "CircularAugment: max_shift must be at least 1, got 0"),
        (lambda: EraseSquare(0), "EraseSquare: patch must be at least 1, got 0"),
        (lambda: CenterCrop(0), "CenterCrop: size must be at least 1, got 0"),
    ],
)
def test_senseless_sizes_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_erase_square_and_center_crop_need_room():
    EraseSquare(3)(torch.ones(1, 1, 7, 7), seeded())
    with pytest.raises(ValueError, match="at least 7 pixels high and wide for patch=3, got 6x9"):
        EraseSquare(3)(torch.ones(1, 1, 6, 9), seeded())
    with pytest.raises(ValueError, match="at most the images' 6x9, got 7"):
        CenterCrop(7)(torch.ones(1, 1, 6, 9), seeded())
