import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

import reference
from maps import DTYPES, cases, distinct_map, laid_out, num_phases, random_map
from shiftproof import ops

NORMS = (1, 2, math.inf)


def permuted(scores, shift, stride):
    """The scores that a map shifted by ``shift``, one row per sample, must have."""
    expected = torch.empty_like(scores)
    for p in range(scores.shape[1]):
        q, _ = ops.shift_phase(torch.full((len(scores),), p), shift, stride)
        expected[torch.arange(len(q)), q] = scores[:, p]
    return expected


@given(cases(), st.sampled_from(NORMS))
def test_phase_scores_are_proportional_to_the_reference(case, norm):
    actual = ops.phase_scores(case.x, case.stride, norm).double().numpy()
    expected = reference.scores(reference.as_numpy(case.x), case.stride, norm)
    if norm == math.inf:
        assert np.array_equal(actual, expected)
        return
    precise = torch.float64 if case.x.dtype == torch.float64 else torch.float32
    np.testing.assert_allclose(
        actual / actual.sum(1, keepdims=True),
        expected / expected.sum(1, keepdims=True),
        rtol=0,
        atol=reference.TOLERANCES[precise],
    )


@given(cases())
def test_largest_values_match_the_reference(case):
    actual = ops.largest_values(case.x, case.stride).double().numpy()
    expected = reference.largest_values(reference.as_numpy(case.x), case.stride)
    assert np.array_equal(actual, expected)


@given(cases(), st.sampled_from(NORMS))
def test_phase_scores_permute_with_the_components(device, case, norm):
    case = case.to(device)
    before = ops.phase_scores(case.x, case.stride, norm)
    after = ops.phase_scores(case.moved, case.stride, norm)
    assert torch.equal(after, permuted(before, case.shift, case.stride))


@given(cases())
def test_largest_values_permute_with_the_components(device, case):
    case = case.to(device)
    before = ops.largest_values(case.x, case.stride)
    after = ops.largest_values(case.moved, case.stride)
    assert torch.equal(after, permuted(before, case.shift, case.stride))


@pytest.mark.parametrize("width", [10, 14, 28, 50])
@pytest.mark.parametrize("channels", [1, 2, 3, 5, 16, 64])
@pytest.mark.parametrize("channels_last", [False, True])
def test_scores_permute_at_widths_that_fill_no_vector(device, width, channels, channels_last):
    shift = torch.tensor([[1, 1], [3, 7]], device=device)
    for dtype in DTYPES:
        x = laid_out(random_map(2, channels, 4, width, dtype=dtype).to(device), channels_last)
        for norm in (1, 2):
            before = ops.phase_scores(x, 2, norm)
            after = ops.phase_scores(ops.circular_shift(x, shift), 2, norm)
            assert torch.equal(after, permuted(before, shift, (2, 2)))


@given(cases())
def test_the_choice_moves_with_the_map(device, case):
    case = case.to(device)
    scores = ops.phase_scores(case.x, case.stride)
    winners = scores == scores.amax(1, keepdim=True)
    assume(winners.sum() == len(scores))
    before = ops.select_phase(case.x, case.stride)
    expected, _ = ops.shift_phase(before, case.shift, case.stride)
    assert torch.equal(before, winners.int().argmax(1))
    assert torch.equal(ops.select_phase(case.moved, case.stride), expected)


def test_the_choice_follows_the_scores_it_is_given():
    x, scores = torch.zeros(2, 1, 4, 4), torch.tensor([[0, 3, 2, 1], [5, 1, 7, 6]])
    assert ops.select_phase(x, 2, scores).tolist() == [1, 2]


def test_control_the_first_phase_does_not_move_with_the_map():
    x, shift = distinct_map(2, 1, 4, 4), torch.tensor([[1, 1], [0, 1]])
    before = ops.first_phase(x, 2)
    after = ops.first_phase(ops.circular_shift(x, shift), 2)
    assert before.tolist() == [[1, 0, 0, 0]] * 2
    assert not torch.equal(after, permuted(before, shift, (2, 2)))


def test_control_a_stride_that_does_not_divide_permutes_no_components():
    x = distinct_map(1, 1, 5)
    before = {x[0, 0, p::2].square().sum().item() for p in range(2)}
    moved = ops.circular_shift(x, (1,))
    after = {moved[0, 0, p::2].square().sum().item() for p in range(2)}
    assert before != after


def test_control_the_norm_in_the_dtype_of_the_map_changes_the_choice():
    x, shift = random_map(256, 16, 12, 12, dtype=torch.bfloat16), torch.tensor([[1, 3]] * 256)
    moved = ops.circular_shift(x, shift)

    def follows(score):
        expected, _ = ops.shift_phase(score(x).argmax(1), shift, (2, 2))
        return (score(moved).argmax(1) == expected).float().mean()

    assert follows(lambda x: ops.polyphase_split(x, 2).square().sum((1, 3, 4))) < 0.98
    assert follows(lambda x: ops.phase_scores(x, 2)) == 1


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_pixel_that_is_not_finite_is_the_strongest(value, dtype, norm, channels_last):
    x = laid_out(100 * random_map(1, 3, 4, 4, dtype=dtype), channels_last)
    x[0, 1, 2, 3] = value
    scores = ops.phase_scores(x, 2, norm)
    assert scores.argmax(1).item() == 1
    assert not scores.isnan().any()
    assert torch.equal(ops.select_phase(ops.circular_shift(x, (1, 0)), 2), torch.tensor([3]))


def test_largest_values_count_nan_as_infinity_and_minus_infinity_as_least():
    x = torch.tensor([[[1.0, math.nan, 2.0, 3.0]], [[-math.inf, 1.0, -math.inf, 2.0]]])
    assert ops.largest_values(x, 2).tolist() == [[2.0, math.inf], [-math.inf, 2.0]]


@pytest.mark.parametrize("norm", [1, 2])
@pytest.mark.parametrize("dtype", DTYPES)
def test_scores_are_whole_numbers_below_the_limit_of_float64(dtype, norm):
    scores = ops.phase_scores(random_map(2, 3, 4, 6, dtype=dtype), 2, norm)
    assert scores.dtype == torch.float64
    assert torch.equal(scores, scores.round())
    assert scores.max() < 2**53


@pytest.mark.parametrize("norm", NORMS)
def test_scores_carry_no_gradient(norm):
    x = random_map(1, 2, 4, 4).requires_grad_()
    assert not ops.phase_scores(x, 2, norm).requires_grad
    assert not ops.largest_values(x, 2).requires_grad


@pytest.mark.parametrize("score", [ops.phase_scores, ops.largest_values, ops.select_phase])
def test_a_stride_must_divide_the_map_that_is_scored(score):
    message = f"{score.__name__}: each spatial size must be a multiple of stride=2, got 4x5"
    with pytest.raises(ValueError, match=message):
        score(torch.zeros(1, 1, 4, 5), 2)


@pytest.mark.parametrize("norm", [0, 3, -math.inf])
def test_a_norm_is_one_two_or_infinity(norm):
    with pytest.raises(ValueError, match="phase_scores: norm must be 1, 2 or infinity, got"):
        ops.phase_scores(torch.zeros(1, 1, 4), 2, norm)


@pytest.mark.parametrize("shape", [(1, 4), (2, 3), (2,)])
def test_scores_are_one_per_sample_and_phase(shape):
    with pytest.raises(ValueError, match=r"select_phase: scores must have shape \(2, 4\)"):
        ops.select_phase(torch.zeros(2, 1, 4, 4), 2, torch.zeros(shape))


def test_first_phase_counts_every_phase():
    scores = ops.first_phase(torch.zeros(2, 1, 6, 6), (2, 3))
    assert scores.shape == (2, num_phases((2, 3)))
