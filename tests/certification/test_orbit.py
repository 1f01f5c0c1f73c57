import pytest
import torch
from certified import noise
from hypothesis import given
from hypothesis import strategies as st

from maps import cases
from shiftproof.certification.orbit import closest_shift, largest_difference
from shiftproof.ops import circular_shift


@given(cases(dtypes=(torch.float64,)))
def test_a_shift_of_each_sample_is_found(case):
    nothing = torch.zeros(len(case.x))
    shift, difference = closest_shift(case.x, case.moved, nothing)
    assert torch.equal(circular_shift(case.x, shift), case.moved)
    assert not difference.any()


@given(cases(dtypes=(torch.float64,)), st.integers(0, 2**16))
def test_control_other_maps_are_not_matched(case, seed):
    other = case.moved + 0.1 * torch.randn(
        case.x.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    _, difference = closest_shift(case.x, other, torch.zeros(len(case.x)))
    assert bool((difference > 0).all())


def test_a_hint_is_enough_and_a_wrong_one_does_no_harm():
    x = noise(2, 3, 6, 4)
    shift = torch.tensor([[1, 2], [5, 0]])
    for hint in (shift, torch.tensor([[3, 3], [5, 0]]), shift - 12):
        found, _ = closest_shift(x, circular_shift(x, shift), torch.zeros(2), [hint])
        assert torch.equal(found, shift)


def test_the_remaining_difference_is_reported():
    x = noise(1, 1, 4, 4).double()
    moved = circular_shift(x, (1, 2))
    moved[0, 0, 0, 0] += 1e-6
    shift, difference = closest_shift(x, moved, torch.tensor([0.0]))
    assert shift.tolist() == [[1, 2]]
    assert difference.item() == pytest.approx(1e-6)


def test_infinities_and_not_a_number():
    x = torch.tensor([[1.0, torch.inf], [1.0, torch.inf], [1.0, torch.nan]])
    y = torch.tensor([[1.0, torch.inf], [1.0, -torch.inf], [1.0, torch.nan]])
    assert largest_difference(x, y).tolist() == [0, torch.inf, torch.inf]


def test_a_channel_of_small_values_counts_too():
    x = noise(1, 20, 4, 4).double()
    x[:, 3] *= 1e-6
    moved = circular_shift(x, (1, 1))
    moved[:, 3] = x[:, 3]
    _, difference = closest_shift(x, moved, torch.tensor([1e-9]))
    assert difference.item() > 1e-7
