import pytest
import torch
import torch.nn.functional as F

from shiftproof import nn
from shiftproof.ops.smoothing import Smoother
from shiftproof.ops.torus import along, places, taper

SELECTORS = [nn.CornerStrength(), nn.DifferenceOfGaussians(), nn.Energy(1), nn.Energy(2)]


def images(*sizes: int) -> torch.Tensor:
    return torch.rand(2, 3, *sizes, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("selector", SELECTORS)
@pytest.mark.parametrize("sizes", [(32,), (24, 16), (8, 16, 8)])
def test_scores_permute_with_the_components(selector, sizes) -> None:
    x = images(*sizes)
    shift = (1, 3, 2)[: len(sizes)]
    dims = tuple(range(1, 1 + len(sizes)))
    moved = x.roll(shift, [d + 1 for d in dims])
    shape = (2, *[4] * len(sizes))
    before, after = (selector(part, 4).reshape(shape) for part in (x, moved))
    torch.testing.assert_close(after, before.roll(shift, dims))


@pytest.mark.parametrize("selector", [nn.LargestNorm(), nn.SmallestNorm(), nn.LargestValue()])
@pytest.mark.parametrize("taper", ["sine", "hann", "triangle", "tukey"])
def test_a_taper_fits_every_selector(selector, taper) -> None:
    x = images(32, 32)
    tapered = nn.Tapered(selector, taper)
    assert tapered(x, 4).shape == (2, 16)
    assert not torch.equal(tapered(x, 4), selector(x, 4))
    assert torch.equal(nn.Tapered(selector, "none")(x, 4), selector(x, 4))
    assert taper in repr(tapered)


def test_a_taper_keeps_the_choice_with_the_content() -> None:
    x = F.interpolate(images(40, 40), (160, 160), mode="bicubic").expand(2, -1, -1, -1)
    windows = [x[..., 16 : 16 + 96, s : s + 96] for s in range(16, 48)]

    def kept(selector: torch.nn.Module) -> int:
        phases = torch.stack([selector(window, 2).argmax(1) for window in windows])
        columns = (phases % 2 + torch.arange(len(windows))[:, None]) % 2
        return int((columns[1:] == columns[:-1]).sum())

    assert kept(nn.Tapered(nn.LargestNorm())) > kept(nn.LargestNorm())


def test_corners_are_where_corners_are() -> None:
    x = torch.zeros(1, 1, 40, 40)
    x[..., :21, :17] = 1.0
    place = divmod(int(nn.CornerStrength().salience(x).argmax()), 40)
    distances = [
        max(abs(place[0] - y), abs(place[1] - x)) for y in (0, 20, 40) for x in (0, 16, 40)
    ]
    assert min(distances) <= 2
    edges = nn.CornerStrength().salience(x)[0, 10, 17]
    assert edges < 1e-3


@pytest.mark.parametrize("selector", SELECTORS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_every_dtype(selector, dtype) -> None:
    found = selector.salience(images(16, 16).to(dtype))
    assert found.shape == (2, 16, 16)
    assert found.isfinite().all()
    assert found.dtype == torch.float32


@pytest.mark.parametrize("selector", SELECTORS)
def test_nothing_to_see(selector) -> None:
    assert torch.equal(selector.salience(torch.zeros(1, 3, 8, 8)), torch.zeros(1, 8, 8))


def test_smoothing_keeps_the_sum_and_slopes_have_none() -> None:
    x = images(40, 48)[:, 0]
    smooth = Smoother(x.shape[1:], wraps=True)
    torch.testing.assert_close(smooth(x, 2.0).sum((1, 2)), x.sum((1, 2)))
    assert smooth(x, 2.0, slope_axis=0).sum((1, 2)).abs().max() < 1e-9


def test_an_order_that_is_none() -> None:
    with pytest.raises(ValueError, match="order must be 1 or 2"):
        nn.Energy(3)
    with pytest.raises(ValueError, match="kind must be one of sine"):
        nn.Tapered(None, "box")


def test_long_axes_are_smoothed_in_parts() -> None:
    x = torch.rand(2, 700, 60, generator=torch.Generator().manual_seed(0))
    counts = [467, 40]
    for source, slope_axis in ((None, None), (None, 0), (counts, None)):
        smooth = Smoother((700, 60), source, counts, wraps=False)
        y = x if source is None else x[:, :467, :40]
        whole = along(y, smooth._matrix(y, 0, 2.0, slope_axis == 0), 1)
        whole = along(whole, smooth._matrix(y, 1, 2.0, False), 2)
        torch.testing.assert_close(smooth(y, 2.0, slope_axis), whole, rtol=1e-4, atol=1e-5)


def test_coarser_places_show_the_same() -> None:
    x = F.interpolate(images(24, 30), (96, 120), mode="bicubic")
    centres = []
    for pitch, shape in ((1.0, (96, 120)), (1.5, (64, 80)), (0.5, (192, 240))):
        salience = nn.CornerStrength().salience(x, pitch=pitch)
        assert salience.shape == (2, *shape)
        fading = [taper("hann", n, x) for n in shape]
        weights = salience * fading[0][:, None] * fading[1]
        weights = weights / weights.sum((1, 2), keepdim=True)
        at = [places(n, size, x) for n, size in zip(shape, x.shape[2:], strict=True)]
        centres.append(torch.stack([weights.sum(2) @ at[0], weights.sum(1) @ at[1]]))
    for found in centres[1:]:
        torch.testing.assert_close(found, centres[0], rtol=0, atol=0.005)
