import time

import pytest
import torch

from benchmarks import equivariance
from benchmarks.entry import Candidate, Entry, Prepared, Setup
from benchmarks.measure import FEWEST_ROUNDS, SHORTEST_SAMPLE, interleave, measure, sampler
from benchmarks.memory import peak_bytes
from shiftproof import ops


def noise(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_each_round_draws_one_sample_of_each_in_changing_order():
    calls = []
    samples = [lambda name=name: calls.append(name) or float(name) for name in range(4)]
    found = interleave(samples, 10)
    assert found == [[float(name)] * 10 for name in range(4)]
    rounds = [tuple(calls[start : start + 4]) for start in range(0, 40, 4)]
    assert all(sorted(order) == [0, 1, 2, 3] for order in rounds)
    assert len(set(rounds)) > 1


def test_time_runs_out_only_after_the_fewest_rounds():
    assert len(interleave([lambda: 0.0], 10, seconds=0.0)[0]) == FEWEST_ROUNDS
    assert len(interleave([lambda: 0.0], 2, seconds=0.0)[0]) == 2


def test_short_work_is_repeated_within_a_sample():
    calls = []

    def work():
        calls.append(0)
        time.sleep(0.001)

    sample = sampler(work, "cpu")
    calls.clear()
    assert sample() > 0.001
    assert 2 <= len(calls) <= SHORTEST_SAMPLE / 0.001


def test_peak_counts_what_is_alive_at_once_and_not_what_came_before():
    x = torch.zeros(100_000)

    def three_maps_two_alive():
        y = x + 1
        z = y * 2
        del y
        return z.relu()

    peak = peak_bytes(three_maps_two_alive, "cpu")
    assert 2 * x.nbytes <= peak < 2 * x.nbytes + 1000
    assert peak_bytes(lambda: x.add_(1), "cpu") < 1000


def test_measure_fills_a_row_for_each_candidate_and_closes_it():
    closed = []

    def prepare(seconds):
        return Prepared(lambda: None, lambda: 0.5, lambda: seconds, lambda: closed.append(seconds))

    candidates = tuple(
        Candidate(name, "", lambda seconds=seconds: prepare(seconds))
        for name, seconds in (("plain", 2.0), ("ours", 3.0))
    )
    entry = Entry("a/b", "work", candidates, "plain", (), map_bytes=1000, floor_bytes=500)
    measured = measure(entry, Setup(rounds=4))
    assert closed == [2.0, 3.0]
    assert [row.seconds for row in measured.rows] == [[2.0] * 4, [3.0] * 4]
    assert [row.error for row in measured.rows] == [0.5, 0.5]
    assert len(measured.copy_seconds) == 4


@pytest.mark.parametrize(("shift", "step", "moves"), [(4, 2, [2]), (5, 2, [2, 3]), (5, 1, [4, 6])])
def test_the_law_leaves_these_moves(shift, step, moves):
    assert equivariance._lawful(shift, step) == moves


def test_error_of_maps_tells_what_keeps_the_law():
    x, phase = noise(4, 3, 8, 12), torch.arange(4)

    def chosen(x, phase):
        return ops.take_phase(x, ops.select_phase(x, 2), 2)

    assert equivariance.map_error(chosen, x, phase, 2) == 0
    assert equivariance.map_error(lambda x, phase: ops.align_phase(x, phase, 2), x, phase, 1) == 0
    assert equivariance.map_error(lambda x, phase: x[..., ::2, ::2], x, phase, 2) > 0.5
    assert equivariance.map_error(lambda x, phase: x.clone(), x, phase, 1) > 0.5


def test_error_of_scores_and_logits_tells_what_keeps_the_law():
    x, phase = noise(4, 3, 8, 12), torch.arange(4)
    assert equivariance.scores_error(lambda x, phase: ops.phase_scores(x, 2), x, phase) == 0
    fixed = torch.arange(16.0).view(4, 4)
    assert equivariance.scores_error(lambda x, phase: fixed, x, phase) > 0.1
    assert equivariance.logits_error(lambda x: x.amax((2, 3)), x) == 0
    assert equivariance.logits_error(lambda x: x[:, :, 0, 0], x) > 0.5
