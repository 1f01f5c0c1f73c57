import copy
import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from maps import cases, distinct_map, whole_map
from shiftproof import nn, ops

ADAPTIVE = [
    nn.LargestNorm(1),
    nn.LargestNorm(2),
    nn.LargestNorm(math.inf),
    nn.SmallestNorm(1),
    nn.SmallestNorm(2),
    nn.SmallestNorm(math.inf),
    nn.LargestValue(),
    nn.DarkestPhase(),
]


def chosen(selector, x, stride):
    return ops.select_phase(x, stride, selector(x, stride))


@given(cases(), st.sampled_from(ADAPTIVE))
def test_scores_permute_with_the_components(device, case, selector):
    case = case.to(device)
    before, after = selector(case.x, case.stride), selector(case.moved, case.stride)
    for p in range(before.shape[1]):
        q, _ = ops.shift_phase(torch.full_like(case.phase, p), case.shift, case.stride)
        assert torch.equal(after[torch.arange(len(q)), q], before[:, p])


@given(cases(), st.sampled_from(ADAPTIVE))
def test_the_choice_moves_with_the_map(device, case, selector):
    case = case.to(device)
    scores = selector(case.x, case.stride)
    assume((scores == scores.amax(1, keepdim=True)).sum() == len(scores))
    before = chosen(selector, case.x, case.stride)
    expected, _ = ops.shift_phase(before, case.shift, case.stride)
    assert torch.equal(chosen(selector, case.moved, case.stride), expected)


def test_control_the_first_phase_stays():
    x, selector = distinct_map(1, 1, 4, 4), nn.FirstPhase()
    assert chosen(selector, x, 2) == chosen(selector, ops.circular_shift(x, (1, 1)), 2) == 0


@pytest.mark.parametrize("selector", ADAPTIVE, ids=repr)
def test_control_equal_components_leave_the_choice_where_it_is(selector):
    x = torch.ones(1, 2, 4, 4)
    assert chosen(selector, x, 2) == chosen(selector, ops.circular_shift(x, (1, 1)), 2)


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        (nn.FirstPhase(), 0),
        (nn.LargestNorm(1), 1),
        (nn.LargestNorm(2), 2),
        (nn.LargestNorm(math.inf), 2),
        (nn.SmallestNorm(1), 0),
        (nn.SmallestNorm(2), 0),
        (nn.SmallestNorm(math.inf), 0),
        (nn.LargestValue(), 3),
        (nn.DarkestPhase(), 2),
    ],
    ids=repr,
)
def test_each_selector_has_its_own_criterion(selector, expected):
    components = torch.tensor([[0.0, 1, 1, 1], [5, 5, 5, 5], [-9, 8, 0, 0], [0, 0, 8.5, 7]])
    x = ops.polyphase_merge(components.view(1, 1, 4, 2, 2), 2)
    assert chosen(selector, x, 2).item() == expected


@pytest.mark.parametrize("order", [1, 2, math.inf])
def test_the_smallest_norm_is_the_negative_of_the_largest(order):
    x = whole_map(2, 3, 4, 6)
    assert torch.equal(nn.SmallestNorm(order)(x, 2), -nn.LargestNorm(order)(x, 2))


def test_a_selector_has_no_state_and_shows_its_order():
    selector = nn.SmallestNorm(1)
    assert repr(selector) == "SmallestNorm(order=1)"
    assert not selector.state_dict()
    assert copy.deepcopy(selector).order == 1


@pytest.mark.parametrize("kind", [nn.LargestNorm, nn.SmallestNorm])
def test_an_order_is_one_two_or_infinity(kind):
    with pytest.raises(ValueError, match=f"{kind.__name__}: order must be 1, 2 or infinity, got 3"):
        kind(3)


@pytest.mark.parametrize("selector", ADAPTIVE[:-1], ids=repr)
def test_a_stride_must_divide_the_map_that_is_scored(selector):
    with pytest.raises(ValueError, match="each spatial size must be a multiple of stride=2"):
        selector(torch.zeros(1, 1, 4, 5), 2)


def test_the_darkest_phase_takes_any_size():
    x = torch.ones(1, 1, 7, 9)
    x[..., 4, 7] = 0
    assert nn.DarkestPhase()(x, (3, 4)).argmax(1).tolist() == [1 * 4 + 3]
