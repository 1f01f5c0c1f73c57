import pytest
import torch

from shiftproof.data.plan import Batch, EvalPlan, TrainPlan, mix_seed


def epoch_of(plan: TrainPlan, epoch: int = 0, start_step: int = 0) -> list[Batch]:
    plan.set_epoch(epoch, start_step)
    batches = list(plan)
    assert len(batches) == len(plan)
    return batches


def test_mix_seed_is_pinned_so_that_old_runs_can_be_repeated():
    assert mix_seed(0, 1, 2) == 4727102316523150270
    assert mix_seed(-1, 2**100) == 7453815199834793747
    assert all(0 <= mix_seed(i) < 2**63 for i in range(100))


def test_mix_seed_tells_its_arguments_apart():
    assert len({mix_seed(1, 23), mix_seed(12, 3), mix_seed(123), mix_seed(3, 12)}) == 4


@pytest.mark.parametrize(("ranks", "accumulate"), [(2, 1), (1, 2), (3, 2), (2, 3), (6, 1)])
@pytest.mark.parametrize("num_samples", [6, 7, 48, 50, 53, 59, 95])
def test_processes_and_accumulation_see_the_same_batches(ranks, accumulate, num_samples):
    slots = ranks * accumulate
    per_rank = [
        epoch_of(
            TrainPlan(num_samples, 4, seed=3, rank=r, world_size=ranks, accumulate=accumulate), 1
        )
        for r in range(ranks)
    ]
    together = [batch for group in zip(*per_rank, strict=True) for batch in group]
    assert together == epoch_of(TrainPlan(num_samples, 4, seed=3, accumulate=slots), 1)


def test_other_grouping_gives_other_batches():
    plain = epoch_of(TrainPlan(40, 4, seed=3))
    assert plain != epoch_of(TrainPlan(40, 4, seed=4))
    assert plain != epoch_of(TrainPlan(40, 4, seed=3), 1)
    assert [b.step_size for b in plain] != [
        b.step_size for b in epoch_of(TrainPlan(40, 4, seed=3, accumulate=2))
    ]


@pytest.mark.parametrize("num_samples", range(4, 40))
@pytest.mark.parametrize(("batch_size", "accumulate"), [(1, 1), (4, 1), (3, 4), (1, 4)])
def test_an_epoch_holds_each_image_once_but_for_the_dropped(num_samples, batch_size, accumulate):
    plan = TrainPlan(num_samples, batch_size, seed=0, accumulate=accumulate)
    batches = epoch_of(plan)
    seen = [i for batch in batches for i in batch.indices]
    assert len(set(seen)) == len(seen) == num_samples - plan.num_dropped
    assert set(seen) <= set(range(num_samples))
    is_whole = num_samples >= batch_size * accumulate
    least = min(2, batch_size) if is_whole else 1
    assert plan.num_dropped < least * accumulate
    assert len({batch.seed for batch in batches}) == len(batches)
    steps = [batches[i : i + accumulate] for i in range(0, len(batches), accumulate)]
    assert len(steps) == plan.steps_per_epoch
    for step in steps:
        sizes = [len(batch.indices) for batch in step]
        assert least <= min(sizes) <= max(sizes) <= min(batch_size, min(sizes) + 1)
        assert {batch.step_size for batch in step} == {sum(sizes)}


def test_too_small_a_rest_is_dropped_and_changes_from_epoch_to_epoch():
    plan = TrainPlan(19, 3, seed=0, accumulate=4)
    assert (plan.steps_per_epoch, plan.num_dropped) == (1, 7)
    seen = {i for epoch in range(9) for batch in epoch_of(plan, epoch) for i in batch.indices}
    assert seen == set(range(19))


def test_a_later_start_yields_the_tail_of_the_epoch():
    for start in range(4):
        for rank in range(2):
            plan = TrainPlan(53, 4, seed=7, rank=rank, world_size=2, accumulate=2)
            whole = epoch_of(plan, 5)
            assert epoch_of(plan, 5, start) == whole[2 * start :]
    assert epoch_of(plan, 5, plan.steps_per_epoch) == []


def test_the_plan_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    epoch_of(TrainPlan(20, 4, seed=0))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("world_size", range(1, 9))
@pytest.mark.parametrize("num_samples", [1, 4, 5, 23, 24])
def test_evaluation_sees_each_image_once_in_any_number_of_processes(world_size, num_samples):
    per_rank = []
    for rank in range(world_size):
        plan = EvalPlan(num_samples, 4, seed=1, rank=rank, world_size=world_size)
        per_rank.append(list(plan))
        assert len(plan) == len(per_rank[-1])
    alone = list(EvalPlan(num_samples, 4, seed=1))
    assert [i for batch in alone for i in batch.indices] == list(range(num_samples))
    # Batches and seeds are those of one process, whoever evaluates them.
    assert sorted((b for rank in per_rank for b in rank), key=lambda b: b.indices) == alone
    assert [b.seed for b in alone] != [b.seed for b in EvalPlan(num_samples, 4, seed=2)]


@pytest.mark.parametrize("name", ["num_samples", "batch_size", "world_size", "accumulate"])
def test_counts_below_one_are_refused(name):
    counts = {"num_samples": 8, "batch_size": 2, "world_size": 1, "accumulate": 1, name: 0}
    with pytest.raises(ValueError, match=f"TrainPlan: {name} must be at least 1, got 0"):
        TrainPlan(**counts, seed=0)
    if name != "accumulate":
        del counts["accumulate"]
        with pytest.raises(ValueError, match=f"EvalPlan: {name} must be at least 1, got 0"):
            EvalPlan(**counts)


@pytest.mark.parametrize("rank", [-1, 2])
def test_a_rank_outside_the_group_is_refused(rank):
    with pytest.raises(ValueError, match=r"TrainPlan: rank must be in \[0, world_size=2\)"):
        TrainPlan(8, 2, seed=0, rank=rank, world_size=2)
    with pytest.raises(ValueError, match=r"EvalPlan: rank must be in \[0, world_size=2\)"):
        EvalPlan(8, 2, rank=rank, world_size=2)


def test_fewer_images_than_batches_in_a_step_are_refused():
    with pytest.raises(ValueError, match=r"world_size \* accumulate = 6, got 5"):
        TrainPlan(5, 2, seed=0, world_size=2, accumulate=3)


def test_a_senseless_position_is_refused():
    plan = TrainPlan(10, 4, seed=0)
    with pytest.raises(ValueError, match="epoch must be at least 0, got -1"):
        plan.set_epoch(-1)
    for start_step in (-1, 4):
        with pytest.raises(ValueError, match=r"start_step must be in \[0, 3\]"):
            plan.set_epoch(0, start_step)
