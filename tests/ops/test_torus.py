import math

import pytest
import torch

from shiftproof.ops.torus import TAPERS, fold, positions, taper, torus_peak, torus_scores


def bump(size: int, at: list[float], period: int | None = None) -> torch.Tensor:
    """A narrow bump on a map, or on a torus."""
    grid = torch.ones(())
    for place in at:
        apart = torch.arange(size, dtype=torch.float64) - place
        apart = fold(apart, period) if period else apart
        grid = grid[..., None] * torch.exp(-apart.square() / 8)
    return grid[None]


@pytest.mark.parametrize("kind", TAPERS)
def test_tapers_are_symmetric_and_at_most_one(kind) -> None:
    weights = taper(kind, 63, torch.zeros((), dtype=torch.float64))
    torch.testing.assert_close(weights, weights.flip(0))
    assert weights.max() <= 1
    assert (weights[0] < 0.05) == (kind != "none")


def test_an_unknown_taper_is_refused() -> None:
    with pytest.raises(ValueError, match="kind must be one of sine"):
        taper("box", 8, torch.zeros(()))


def test_fold_keeps_the_upper_end() -> None:
    found = fold(torch.tensor([-4.0, -3.9, 0.0, 4.0, 4.5, 12.0]), 8)
    torch.testing.assert_close(found, torch.tensor([4.0, -3.9, 0.0, 4.0, -3.5, 4.0]))


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_the_place_of_a_bump_is_found_to_a_fraction(dims: int) -> None:
    at = [21.3, 17.75, 19.1][:dims]
    salience = bump(40, at)
    scores = torus_scores(salience, 16, kind="none")
    offset, gap = torus_peak(scores, 16)
    expected = [fold(torch.tensor(place), 16).item() for place in at]
    assert offset[0].tolist() == pytest.approx(expected, abs=0.02)
    assert 0.2 < gap[0] <= 1


def test_the_origin_is_place_zero() -> None:
    salience = bump(40, [21.3, 17.75])
    plain = torus_peak(torus_scores(salience, 16), 16).offset
    moved = torus_peak(torus_scores(salience, 16, origin=(4.0, 4.5)), 16).offset
    torch.testing.assert_close(moved, fold(plain - torch.tensor([4.0, 4.5]), 16))


def test_rolled_scores_give_a_rolled_place() -> None:
    scores = torch.rand(5, 32, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    offset, gap = torus_peak(scores, (8, 4))
    rolled, other = torus_peak(scores.roll((5, 3), (1, 2)), (8, 4))
    apart = rolled - offset - torch.tensor([5 / 4, 3 / 4])
    assert fold(apart[:, 0], 8).abs().max() < 1e-12
    assert fold(apart[:, 1], 4).abs().max() < 1e-12
    torch.testing.assert_close(gap, other)


def test_control_the_brute_force_maximum() -> None:
    scores = torch.rand(7, 12, 20, generator=torch.Generator().manual_seed(1))
    offset, _ = torus_peak(scores, (3, 5))
    for row, found in zip(scores, offset, strict=True):
        y, x = divmod(int(row.argmax()), 20)
        for place, value, period in zip((y / 4, x / 4), found, (3, 5), strict=True):
            apart = (float(value) - place + period / 2) % period - period / 2
            assert abs(apart) <= 0.125 + 1e-5


def test_nothing_to_see_moves_nothing() -> None:
    offset, gap = torus_peak(torch.zeros(2, 16, 16), 4)
    assert offset.tolist() == [[0, 0], [0, 0]]
    assert gap.tolist() == [0, 0]


def test_of_tied_places_the_nearest_wins() -> None:
    scores = torch.zeros(1, 32)
    scores[0, [6, 20, 29]] = 1.0
    assert torus_peak(scores, 8).offset.item() == pytest.approx(-0.75)
    assert torus_peak(scores, 8).gap.item() == 0


def test_content_moves_the_place_and_the_taper_hardly() -> None:
    places = positions(64, torch.zeros((), dtype=torch.float64))
    content = torch.sin(2 * math.pi * places / 8 + 1) + 1
    offsets = [
        torus_peak(torus_scores(part[None], 8), 8).offset.item()
        for part in (content, content.roll(3))
    ]
    assert (offsets[1] - offsets[0] - 3 + 4) % 8 - 4 == pytest.approx(0, abs=0.02)
