import pytest
import torch
import torch.nn.functional as F

from shiftproof.metrics import PROTOCOLS, CircularShifts, Crops, PaddedCrops, protocol
from shiftproof.ops.shift import circular_shift


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def coordinates(num_images, height, width):
    """Images whose pixels say where they are, from 1 on; zero means padding."""
    image = torch.arange(1.0, height * width + 1).reshape(1, 1, height, width)
    return image.expand(num_images, 2, -1, -1).contiguous()


def circular_shifts_of(images, view):
    """The shift of each image, in ``[0, height) x [0, width)``, and that it is one."""
    height, width = images.shape[2:]
    first = view[:, 0, 0, 0].long() - 1
    rows, columns = (-(first // width)) % height, (-(first % width)) % width
    shifts = torch.stack([rows, columns], dim=1)
    assert torch.equal(view, circular_shift(images, shifts))
    return shifts


def signed(shift, size):
    return (shift + size // 2) % size - size // 2


@pytest.mark.parametrize(
    ("name", "max_shift", "num_views", "unshifted"),
    [
        ("aps-imagenet", 32, 2, False),
        ("aps-cifar-test", 3, 2, False),
        ("aps-cifar-val", 3, 2, True),
    ],
)
def test_published_circular_protocols(name, max_shift, num_views, unshifted):
    size = 4 * max_shift
    images = coordinates(3, size, size)
    source = generator()
    seen = set()
    for _ in range(300):
        views = PROTOCOLS[name].views(images, source)
        assert len(views) == num_views
        assert torch.equal(views[0], images) or not unshifted
        for view in views[unshifted:]:
            shifts = circular_shifts_of(images, view)
            assert (shifts == shifts[0]).all(), "one shift per batch"
            seen |= {int(signed(part, size)) for part in shifts[0]}
    assert min(seen) == -max_shift
    assert max(seen) == max_shift - 1


def test_views_of_a_pair_are_drawn_independently():
    images = coordinates(1, 64, 64)
    first, second = PROTOCOLS["aps-imagenet"].views(images, generator())
    assert not torch.equal(first, second)


def test_circular_takes_every_position_for_each_image():
    images = coordinates(2000, 3, 5)
    unshifted, view = PROTOCOLS["circular"].views(images, generator())
    assert torch.equal(unshifted, images)
    positions, counts = circular_shifts_of(images, view).unique(dim=0, return_counts=True)
    assert len(positions) == 15
    # 2000 / 15 = 133 expected, standard deviation 11: five of them on either side.
    assert counts.min() > 77
    assert counts.max() < 189


def test_aps_cifar_crop_cuts_windows_of_the_padded_image():
    images = coordinates(2, 8, 10)
    padded = F.pad(images, (3, 3, 3, 3))
    windows = {
        (dy, dx): padded[:, :, 3 + dy : 11 + dy, 3 + dx : 13 + dx]
        for dy in range(-3, 3)
        for dx in range(-3, 3)
    }
    source = generator()
    seen = set()
    for _ in range(300):
        views = PROTOCOLS["aps-cifar-crop"].views(images, source)
        assert len(views) == 2
        for view in views:
            found = [shift for shift, window in windows.items() if torch.equal(view, window)]
            assert len(found) == 1
            seen.add(found[0])
    assert seen == set(windows)


@pytest.mark.parametrize("per_image", [True, False])
@pytest.mark.parametrize("name", ["crop", "aps-cifar-crop"])
def test_windows_are_of_each_image_where_asked_for(name, per_image):
    images = torch.arange(40 * 40.0).reshape(1, 1, 40, 40).expand(9, -1, -1, -1)
    views = protocol(name, per_image=per_image).views(images, generator())
    for view in views:
        middles = view[:, 0, 4, 4].unique()
        assert (len(middles) > 1) == per_image


def test_crop_cuts_224_of_256():
    images = coordinates(2, 256, 256)
    source = generator()
    seen = set()
    for _ in range(60):
        views = PROTOCOLS["crop"].views(images, source)
        assert [tuple(view.shape) for view in views] == [(2, 2, 224, 224)] * 2
        for view in views:
            first = view[:, 0, 0, 0].long() - 1
            row, column = int(first[0]) // 256, int(first[0]) % 256
            assert torch.equal(view, images[:, :, row : row + 224, column : column + 224])
            seen |= {row, column}
    assert min(seen) == 0
    assert max(seen) == 31


@pytest.mark.parametrize("name", sorted(PROTOCOLS))
def test_views_follow_the_generator(name):
    images = coordinates(4, 65, 66)
    first, again, *others = (
        torch.stack(tuple(PROTOCOLS[name].views(images, generator(seed))))
        for seed in (0, 0, 1, 2, 3)
    )
    assert torch.equal(first, again)
    assert all(torch.equal(first, other) for other in others) == (name == "adversarial")
    assert PROTOCOLS[name].name == name


@pytest.mark.parametrize("name", sorted(PROTOCOLS))
@pytest.mark.parametrize("num_dims", [1, 3])
def test_other_numbers_of_dimensions(name, num_dims):
    chosen = protocol(name, **({"max_shift": 3} if name == "adversarial" else {}))
    views = chosen.views(torch.rand(2, 1, *(34,) * num_dims), generator())
    assert len({view.shape for view in views}) == 1


def test_protocol_by_name():
    assert protocol("crop") is PROTOCOLS["crop"]
    assert protocol("crop", margin=32) is PROTOCOLS["crop"]
    wider = protocol("aps-cifar-crop", max_shift=5)
    assert wider == PaddedCrops("aps-cifar-crop(max_shift=5)", 5)
    small = protocol("circular", max_shift=2, per_image=True)
    assert small == CircularShifts("circular(max_shift=2)", 2, 1, True, True)


def test_unknown_name_lists_the_nearest():
    with pytest.raises(ValueError, match=r"got 'aps-imagnet'; the nearest are aps-imagenet,"):
        protocol("aps-imagnet")


def test_unknown_field():
    with pytest.raises(ValueError, match=r"crop must be .* got max_shift; choose from margin"):
        protocol("crop", margin=8, max_shift=3)


@pytest.mark.parametrize("name", ["circular", "aps-imagenet", "aps-cifar-crop"])
def test_max_shift_must_be_positive(name):
    with pytest.raises(ValueError, match="max_shift must be at least 1, got 0"):
        protocol(name, max_shift=0)


def test_nothing_to_compare():
    with pytest.raises(ValueError, match="must be compared"):
        CircularShifts("alone", 3, num_shifted=1)
    with pytest.raises(ValueError, match="must be compared"):
        CircularShifts("unshifted", 3, num_shifted=0, include_unshifted=True)


def test_margin_must_be_positive():
    with pytest.raises(ValueError, match="margin must be at least 1, got 0"):
        Crops("crop", 0)


def test_images_must_exceed_the_margin():
    with pytest.raises(ValueError, match="must be larger than margin=32, got 40x32"):
        PROTOCOLS["crop"].views(torch.rand(1, 3, 40, 32), generator())
