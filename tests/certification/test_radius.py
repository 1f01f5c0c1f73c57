"""How far a scene may move: certified, and attacked at its border."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from shiftproof import nn
from shiftproof.certification import certified_radius, certify
from shiftproof.motion import lock_grid

SIZE = 72
SELECTORS = {
    "corners": nn.CornerStrength(margin=15),
    "blobs": nn.DifferenceOfGaussians(margin=9),
    "energy": nn.Energy(2),
    "energy with a margin": nn.Energy(1, margin=6),
}


def scenes(num: int = 4, size: int = SIZE, channels: int = 3, seed: int = 0) -> Tensor:
    """Soft patches of many sizes, as photographs have them."""
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(num, channels, size, size)
    for cells in (3, 7, 18):
        noise = torch.rand(num, channels, cells, cells, generator=generator)
        total += F.interpolate(noise, (size, size), mode="bicubic", align_corners=True)
    return (total / 3).clamp(0, 1)


def spots(num: int = 4, seed: int = 0) -> Tensor:
    """A bright patch on black, whose energy outweighs what may enter."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.zeros(num, 3, SIZE, SIZE)
    for image in images:
        row, column = torch.randint(24, 46, (2,), generator=generator).tolist()
        image[:, row : row + 4, column : column + 3] = 1.0
    return images


def borders(shape: tuple[int, ...], generator: torch.Generator) -> list[Tensor]:
    """What an adversary may show: noise, extremes, edges, corners of all sizes."""
    rows = torch.arange(shape[-2])[:, None].expand(shape[-2:])
    columns = torch.arange(shape[-1])[None].expand(shape[-2:])
    boards = [((rows // n + columns // n) % 2).float().expand(shape) for n in (1, 2, 3, 5, 8)]
    stripes = [(rows // n % 2).float().expand(shape) for n in (2, 4)]
    noise = torch.rand(shape, generator=generator)
    return [torch.zeros(shape), torch.ones(shape), noise, noise.round(), *boards, *stripes]


def moved(image: Tensor, shift: tuple[int, int], border: Tensor) -> Tensor:
    """The frame of a camera that moved by a shift, with a border where it sees what is new."""
    dy, dx = shift
    height, width = image.shape[-2:]
    frame = border.clone()
    rows = slice(max(0, -dy), height - max(0, dy))
    columns = slice(max(0, -dx), width - max(0, dx))
    seen = image[..., max(0, dy) : height + min(0, dy), max(0, dx) : width + min(0, dx)]
    frame[..., rows, columns] = seen
    return frame


def drift(lock: torch.nn.Module, image: Tensor, frames: Tensor, shifts: Tensor) -> Tensor:
    """By how many pixels the grid moved in the scene, ``(N,)``."""
    stride = torch.tensor(lock.stride)
    start, after = lock.offset(image[None]), lock.offset(frames)
    if isinstance(lock.interpolation, nn.WholePixels):
        start, after = (start + 0.5).floor(), (after + 0.5).floor()
    apart = after + shifts - start
    return ((apart + stride / 2) % stride - stride / 2).abs().amax(1)


def attack(lock: torch.nn.Module, image: Tensor, radius: int, generator: torch.Generator) -> Tensor:
    """The largest drift that any border gives, at shifts of this size and smaller ones."""
    sides = [s for s in itertools.product((-radius, 0, radius), repeat=2) if any(s)]
    shown = borders(tuple(image.shape), generator)
    frames = torch.stack([moved(image, s, b) for s in sides for b in shown])
    shifts = torch.tensor([s for s in sides for _ in shown])
    found = drift(lock, image, frames, shifts)
    worst = int(found.argmax())  # from there the adversary searches
    best, border, shift = found.max(), frames[worst], sides[worst // len(shown)]
    for _ in range(3):
        flips = (torch.rand(8, *image.shape, generator=generator) < 0.2).float()
        tried = border + flips * (torch.rand(flips.shape, generator=generator) - border)
        frames = torch.stack([moved(image, shift, t) for t in tried])
        found = drift(lock, image, frames, torch.tensor([shift] * len(tried)))
        if found.max() > best:
            best, border = found.max(), frames[int(found.argmax())]
    return best


CASES = {
    **{name: (8, selector, 0.5) for name, selector in SELECTORS.items() if selector.margin},
    "energy": (16, SELECTORS["energy"], 2.0),
}


def case(name: str, *, whole: bool = False) -> tuple[torch.nn.Module, Tensor, float]:
    """A lock, images for it, and by how much its grid may move."""
    stride, selector, tolerance = CASES[name]
    lock = nn.GridLock2d(stride, selector, nn.WholePixels() if whole else None)
    return lock, spots() if name == "energy" else scenes(), tolerance


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_nothing_that_enters_moves_the_grid_within_the_radius(name: str, whole: bool) -> None:
    lock, images, tolerance = case(name, whole=whole)
    generator = torch.Generator().manual_seed(1)
    radii = certified_radius(lock, images, tolerance=tolerance)
    assert radii.dtype == torch.int64
    assert int(radii.max()) >= (0 if whole and name == "energy" else 1)
    for image, radius in zip(images, radii.tolist(), strict=True):
        for distance in {1, radius} if radius else ():
            worst = attack(lock, image, distance, generator)
            assert worst == 0 if whole else worst <= tolerance


@pytest.mark.parametrize("name", ["corners", "energy"])
def test_control_beyond_the_radius_some_border_moves_the_grid(name: str) -> None:
    lock, images, tolerance = case(name)
    generator = torch.Generator().manual_seed(1)
    radii = certified_radius(lock, images, tolerance=tolerance).tolist()
    beyond = [attack(lock, i, r + 12, generator) for i, r in zip(images, radii, strict=True)]
    assert max(beyond) > tolerance


def test_control_without_a_margin_a_corner_that_enters_moves_the_grid() -> None:
    generator = torch.Generator().manual_seed(1)
    lock = nn.GridLock2d(8)
    images = scenes()
    assert certified_radius(lock, images).tolist() == [0] * len(images)
    assert max(attack(lock, image, 4, generator) for image in images) > 0.5


@pytest.mark.parametrize("dims", [1, 3])
def test_signals_and_volumes(dims: int) -> None:
    kind = {1: nn.GridLock1d, 3: nn.GridLock3d}[dims]
    size = {1: 128, 3: 44}[dims]
    x = torch.zeros(1, 1, *[size] * dims)
    x[(..., *[slice(size // 2 - 1, size // 2 + 2)] * dims)] = 1.0
    radius = int(certified_radius(kind(4, nn.CornerStrength(margin=13)), x))
    assert radius == 2  # as far as the margin is larger than the reach of 11


def test_a_margin_is_worth_as_much_as_it_is_larger_than_the_reach() -> None:
    x = torch.zeros(1, 1, 96, 96)
    x[..., 44:52, 45:53] = 1.0
    for extra in (0, 1, 3):
        selector = nn.CornerStrength(margin=11 + extra)
        assert selector.reach == 11
        assert certified_radius(nn.GridLock2d(16, selector), x).tolist() == [extra]


def test_the_reach_is_what_salience_reads() -> None:
    for selector in (nn.CornerStrength(margin=16), nn.DifferenceOfGaussians(margin=16)):
        x = scenes(1, 65).double()
        other = torch.rand_like(x)
        near = slice(32 - selector.reach, 33 + selector.reach)
        other[..., near, near] = x[..., near, near]
        at = selector._strength(x.mean(1), 1.0, False)
        same = selector._strength(other.mean(1), 1.0, False)
        assert torch.equal(at[0, 32, 32], same[0, 32, 32])
        inner = slice(33 - selector.reach, 32 + selector.reach)
        closer = torch.rand_like(x)
        closer[..., inner, inner] = x[..., inner, inner]
        assert not torch.equal(
            selector._strength(closer.mean(1), 1.0, False)[0, 32, 32], at[0, 32, 32]
        )


def test_an_even_image_is_certain_of_nothing() -> None:
    lock = nn.GridLock2d(8, nn.CornerStrength(margin=15))
    assert certified_radius(lock, torch.full((2, 3, 64, 64), 0.5)).tolist() == [0, 0]


def test_a_wider_range_certifies_less() -> None:
    lock, images, tolerance = case("energy")
    narrow = certified_radius(lock, images, tolerance=tolerance)
    wide = certified_radius(lock, images, value_range=[(-4, 4)] * 3, tolerance=tolerance)
    assert (wide <= narrow).all()
    assert int(wide.sum()) < int(narrow.sum())


def test_a_locked_network_is_certified_with_its_radius() -> None:
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, 2, 1), torch.nn.MaxPool2d(4))
    x = scenes(3)
    locked = lock_grid(net, x, selector=nn.CornerStrength(margin=15))
    radii = certified_radius(locked, x)
    assert torch.equal(radii, certified_radius(locked.lock, x))
    notes = certify(locked, x).notes
    shown = f"{int(radii.min())} to {int(radii.max())} pixels"
    assert any("holds its grid" in note and shown in note for note in notes)


def test_what_is_refused() -> None:
    lock = nn.GridLock2d(8, nn.Energy(2))
    with pytest.raises(ValueError, match=r"must lie within value_range, got .* in channel 1"):
        certified_radius(lock, scenes(), value_range=[(0, 1), (0.3, 0.4), (0, 1)])
    with pytest.raises(ValueError, match="or one such pair for each of the 3 channels"):
        certified_radius(lock, scenes(), value_range=[(0, 1)] * 2)
    with pytest.raises(ValueError, match="tolerance must be above an eighth of a pixel"):
        certified_radius(lock, scenes(), tolerance=0.1)
    with pytest.raises(TypeError, match="lock must be a GridLock or hold one, got Linear"):
        certified_radius(torch.nn.Linear(2, 2), scenes())
    with pytest.raises(TypeError, match="must have a salience with bounds, got Tapered"):
        certified_radius(nn.GridLock2d(8, nn.Tapered()), scenes())
    with pytest.raises(ValueError, match="margin must be a whole number of pixels, got -1"):
        nn.CornerStrength(margin=-1)
    with pytest.raises(ValueError, match="larger than twice the margin of 40 pixels, got 72"):
        nn.GridLock2d(8, nn.CornerStrength(margin=40))(scenes())
