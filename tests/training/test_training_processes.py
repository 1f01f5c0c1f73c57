import dataclasses
import time
import types
import warnings

import pytest
import torch
from training_runs import (
    ALONE,
    CONFIG,
    Broken,
    Interrupting,
    events,
    fit,
    five_layers,
    images,
    same_tensors,
    timeless,
    trainer,
)

from processes import run_together
from shiftproof.metrics import protocol
from shiftproof.training import RunFiles, evaluate, loop
from shiftproof.training.checkpoint import copy_checkpoint
from shiftproof.training.unreadable import Unreadable
from threads import one_thread

ROUNDING = {"rtol": 1e-5, "atol": 1e-6}
"""Each process sums the gradients of its own half, and half a batch may take other kernels."""

# Two processes share these batches; one process that accumulates over two sees the same halves.
SHARED = dataclasses.replace(CONFIG, epochs=2, batch_size=8, accumulate=1, amp="off")
ACCUMULATING = dataclasses.replace(SHARED, batch_size=4, accumulate=2)

BROKEN = {1, 6}


def measured(process, count=23):
    """What a process finds on images some of which each process cannot read."""
    unreadable = Unreadable(200)
    found = evaluate(
        five_layers(),
        Broken(images(count), BROKEN),
        process=process,
        batch_size=4,
        seed=0,
        consistency=CONFIG.consistency,
        unreadable=unreadable,
    )
    return found, unreadable.over_all_processes()


def validated(process, folder, processes_per_node=1, eval_batch_size=4):
    """What a trainer finds whose batch is divided over its processes, but not for measuring."""
    config = dataclasses.replace(
        SHARED,
        consistency=protocol("aps-cifar-test", max_shift=3),
        eval_batch_size=eval_batch_size,
    )
    options = {"processes_per_node": processes_per_node, "process": process}
    with trainer(folder, config, val=images(30, seed=1), **options) as made:
        return repr(made._validate(types.SimpleNamespace(requested=False)))


def saved_with_too_many_unreadable(process, folder):
    """What a save says when each process has met as many broken files as all may."""
    with trainer(folder, SHARED, processes_per_node=2, process=process) as made:
        made.unreadable.paths = {f"{process.rank}.png": None}
        with pytest.raises(RuntimeError) as raised:
            made._save("last.pt")
    return str(raised.value), [path.name for path in folder.rglob("*.pt")]


def copy_slowly(source, target):
    time.sleep(0.5)
    copy_checkpoint(source, target)


def train_together(process, folder):
    """What each of two processes does; all that it finds goes into a file of its own."""
    warnings.simplefilter("error")
    # Whatever the second process wrote would be found in a folder that is its own.
    own = folder / f"rank {process.rank}"
    seen = []

    def run(name, **options):
        place = own / name
        place.mkdir(parents=True)
        options = {"config": SHARED, "processes_per_node": 2, "process": process, **options}
        options["files"] = RunFiles(place)
        return fit(place, on_epoch=lambda history: seen.append(len(history)), **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "copy_checkpoint", copy_slowly)
        run("short", config=dataclasses.replace(SHARED, epochs=1))
    found_at_the_end = (folder / "rank 0" / "short" / "best.pt").is_file()
    whole, _ = run("whole")
    data = Interrupting(images(), 4) if process.rank == 1 else images()
    stopped, reached_the_end = run("stopped", train=data)
    resume = folder / "rank 0" / "stopped" / "checkpoint.pt"
    resumed, _ = run("resumed", model=five_layers(7), resume=resume)
    torch.save(
        {
            "whole": whole.model.state_dict(),
            "resumed": resumed.model.state_dict(),
            "stopped": (reached_the_end, stopped.progress.epoch, stopped.progress.step),
            "best found": found_at_the_end,
            "epochs seen": seen,
            "history": repr(timeless(whole.progress.history)),
            "resumed history": repr(timeless(resumed.progress.history)),
            "measured": repr(measured(process)),
            "measured on one batch": repr(measured(process, 3)),
            "validated": validated(process, own, 2),
            "too many": saved_with_too_many_unreadable(process, own / "too many"),
        },
        folder / f"{process.rank}.pt",
    )
    return timeless(whole.progress.history)


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    folder = tmp_path_factory.mktemp("together")
    history = run_together(train_together, folder)
    return folder, history, [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    made, _ = fit(tmp_path_factory.mktemp("alone"), ACCUMULATING)
    return made


def test_two_processes_learn_what_one_learns_that_accumulates(together, alone):
    _, _, found = together
    for name, value in alone.model.named_parameters():
        torch.testing.assert_close(found[0]["whole"][name], value, **ROUNDING)
    start = five_layers().state_dict()
    assert not torch.allclose(found[0]["whole"]["0.weight"], start["0.weight"], **ROUNDING)


def test_both_processes_end_with_the_same_weights_and_statistics(together):
    for name in ("whole", "resumed"):
        assert same_tensors(*(found[name].values() for found in together[2]))


def test_control_the_statistics_are_those_of_one_half(together, alone):
    mean = together[2][0]["whole"]["1.running_mean"]
    assert not torch.allclose(mean, alone.model[1].running_mean, **ROUNDING)


def test_the_training_numbers_are_over_all_images(together, alone):
    for ours, theirs in zip(together[1], timeless(alone.progress.history), strict=True):
        assert ours.train_loss == pytest.approx(theirs.train_loss, rel=1e-5)
        assert ours.train_top1 == theirs.train_top1
        assert ours.val_rates["top-1"].n == theirs.val_rates["top-1"].n
    assert together[2][0]["history"] == together[2][1]["history"]


def test_an_evaluation_does_not_depend_on_the_number_of_processes(together):
    with one_thread():
        expected, one_batch = measured(ALONE), measured(ALONE, 3)
    assert expected[1] == ("1.png", "6.png")
    for found in together[2]:
        assert found["measured"] == repr(expected)
        assert found["measured on one batch"] == repr(one_batch)


def test_a_validation_does_not_depend_on_the_batch_of_a_process(together, tmp_path):
    expected = validated(ALONE, tmp_path)
    assert [found["validated"] for found in together[2]] == [expected] * 2
    # Control: which images share a shift does matter.
    assert validated(ALONE, tmp_path, eval_batch_size=8) != expected


def test_the_limit_of_broken_files_is_one_for_all_processes(together):
    message = "train: at most 1 images may be unreadable, got 2: 0.png, 1.png; replace or delete"
    for found in together[2]:
        text, written = found["too many"]
        assert text.startswith(message)
        assert written == []


def test_a_signal_to_one_process_stops_both_after_the_same_step(together):
    assert [found["stopped"] for found in together[2]] == [(False, 1, 1)] * 2


def test_a_resumed_run_of_two_processes_equals_an_uninterrupted_one(together):
    folder, _, found = together
    assert same_tensors(found[0]["resumed"].values(), found[0]["whole"].values())
    assert found[0]["resumed history"] == found[0]["history"]
    assert events(folder / "rank 0" / "whole") != events(folder / "rank 0" / "stopped")


def test_only_the_first_process_writes_and_the_others_wait_for_it(together):
    folder, _, found = together
    first, second = (
        {path.name for path in (folder / f"rank {rank}" / "whole").iterdir()} for rank in range(2)
    )
    assert first == {"best.pt", "checkpoint.pt", "log.jsonl"}
    assert second == set()
    assert [found[rank]["epochs seen"] for rank in range(2)] == [[1, 1, 2, 1, 1, 2], []]
    assert [found[rank]["best found"] for rank in range(2)] == [True, True]
