import dataclasses

import pytest
from training_runs import (
    CONFIG,
    Broken,
    Interrupting,
    events,
    fit,
    five_layers,
    images,
    linear,
    momentum,
    same_tensors,
    timeless,
    trainer,
)

from shiftproof.training import ModelConfig
from shiftproof.training.checkpoint import load_checkpoint, save_checkpoint

LAST = "checkpoint.pt"

# Three steps of two batches per epoch, three batches per validation.
INTERRUPTIONS = {
    "first batch of a step": ("train", 3),
    "second batch of a step": ("train", 10),
    "last step of an epoch": ("train", 12),
    "first step of the run": ("train", 1),
    "validation": ("val", 2),
    "last batch of a validation": ("val", 6),
}


def equal(actual, expected):
    states = (made.model.state_dict() for made in (actual, expected))
    return (
        same_tensors(*(state.values() for state in states))
        and same_tensors(momentum(actual), momentum(expected))
        and timeless(actual.progress.history) == timeless(expected.progress.history)
    )


def test_what_a_killed_run_was_saving_is_removed(tmp_path):
    (tmp_path / f".{LAST}.a1b2c3d4.partial").write_bytes(b"half")
    (tmp_path / ".hidden").write_text("kept")
    fit(tmp_path)
    assert [path.name for path in tmp_path.glob(".*")] == [".hidden"]


def test_a_resumed_run_still_names_what_it_was_trained_without(tmp_path):
    config = dataclasses.replace(CONFIG, epochs=1)
    fit(tmp_path, config, train=Broken(images(), {3}))
    assert load_checkpoint(tmp_path / LAST)["unreadable"] == ["3.png"]
    resumed, _ = fit(tmp_path, resume=tmp_path / LAST)
    assert resumed.unreadable.over_all_processes() == ("3.png",)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    made, reached_the_end = fit(folder)
    assert reached_the_end
    return made, folder


@pytest.mark.parametrize(("split", "batch"), INTERRUPTIONS.values(), ids=INTERRUPTIONS)
def test_a_run_stopped_by_a_signal_goes_on_as_if_nothing_had_happened(
    tmp_path, capsys, uninterrupted, split, batch
):
    data = {"train": images(), "val": images(10, seed=1)}
    stopped, reached_the_end = fit(tmp_path, **{**data, split: Interrupting(data[split], batch)})
    assert not reached_the_end
    assert f"resume from {tmp_path / LAST}" in capsys.readouterr().out
    steps = stopped.progress.epoch * 3 + stopped.progress.step
    assert steps == (-(-batch // 2) if split == "train" else 3 * -(-batch // 3))
    resumed, reached_the_end = fit(tmp_path, model=five_layers(7), resume=tmp_path / LAST)
    assert reached_the_end
    expected, folder = uninterrupted
    assert equal(resumed, expected)
    assert events(tmp_path) == events(folder)
    saved, uncut = (load_checkpoint(path / LAST) for path in (tmp_path, folder))
    assert same_tensors(saved["model"].values(), uncut["model"].values())


def test_a_run_can_be_prolonged(tmp_path, uninterrupted):
    fit(tmp_path, dataclasses.replace(CONFIG, epochs=1))
    resumed, _ = fit(tmp_path, resume=tmp_path / LAST)
    assert equal(resumed, uninterrupted[0])
    assert events(tmp_path) == events(uninterrupted[1])


def test_a_finished_run_is_left_as_it_is(tmp_path):
    fit(tmp_path)
    before = (tmp_path / LAST).read_bytes(), events(tmp_path)
    seen = []
    made, reached_the_end = fit(tmp_path, resume=tmp_path / LAST, on_epoch=seen.append)
    assert reached_the_end
    assert seen == [made.progress.history]
    assert len(seen[0]) == 3
    assert ((tmp_path / LAST).read_bytes(), events(tmp_path)) == before


@pytest.mark.parametrize("lost", ["momentum", "step", "weights", "seed"])
def test_control_a_run_that_forgets_something_ends_elsewhere(tmp_path, uninterrupted, lost):
    fit(tmp_path, train=Interrupting(images(), 9))
    state = load_checkpoint(tmp_path / LAST)
    for name in ("schema", "versions"):
        del state[name]
    config = CONFIG
    if lost == "momentum":
        state["optimizer"]["state"] = {}
    elif lost == "step":
        state["step"] -= 1
    elif lost == "weights":
        state["model"] = five_layers(7).state_dict()
    else:
        config = dataclasses.replace(CONFIG, seed=1)
        state["plan"]["seed"] = 1
    save_checkpoint(tmp_path / LAST, state)
    resumed, _ = fit(tmp_path, config, resume=tmp_path / LAST)
    assert not equal(resumed, uninterrupted[0])


@pytest.mark.parametrize(
    ("changes", "data", "message"),
    [
        ({"model": ModelConfig("six layers", 3)}, {}, "model name 'five layers', now 'six layers'"),
        ({"seed": 1}, {}, "seed 0, now 1"),
        ({"batch_size": 5}, {}, "images per batch 4, now 5"),
        ({"accumulate": 1}, {}, "batches per step 2, now 1"),
        ({}, {"train": images(21)}, "training images 22, now 21"),
        (
            {"seed": 1, "batch_size": 5},
            {},
            "images per batch 4, now 5; seed 0, now 1",
        ),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path, changes, data, message):
    fit(tmp_path, dataclasses.replace(CONFIG, epochs=1))
    before = (tmp_path / LAST).read_bytes()
    with (
        trainer(tmp_path, dataclasses.replace(CONFIG, **changes), **data) as made,
        pytest.raises(ValueError, match=rf"was (trained|started), got {message} in .*{LAST}"),
    ):
        made.fit(tmp_path / LAST)
    assert same_tensors(made.model.parameters(), five_layers().parameters())
    assert (tmp_path / LAST).read_bytes() == before


@pytest.mark.parametrize("key", ["model", "optimizer", "epoch", "step", "plan"])
def test_a_checkpoint_that_lacks_something_is_refused(tmp_path, key):
    state = {"model": {}, "optimizer": {}, "epoch": 0, "step": 0, "plan": {}}
    del state[key]
    save_checkpoint(tmp_path / "other.pt", state)
    with (
        trainer(tmp_path) as made,
        pytest.raises(ValueError, match=rf"its own checkpoint, got .*other\.pt without {key}; "),
    ):
        made.fit(tmp_path / "other.pt")


def test_a_missing_checkpoint_is_an_error(tmp_path):
    with (
        trainer(tmp_path) as made,
        pytest.raises(RuntimeError, match=r"must be a file, got .*nowhere\.pt, which is missing"),
    ):
        made.fit(tmp_path / "nowhere.pt")


def test_learning_rate_momentum_and_decay_are_those_of_the_resumed_command(tmp_path):
    fit(tmp_path, dataclasses.replace(CONFIG, epochs=1), model=linear())
    changed = dataclasses.replace(CONFIG, epochs=2, lr=0.01, momentum=0.5, weight_decay=0.25)
    resumed, _ = fit(tmp_path, changed, model=linear(), resume=tmp_path / LAST)
    (group,) = resumed.optimizer.param_groups
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.01, 0.5, 0.25)
    assert load_checkpoint(tmp_path / LAST)["config"]["weight_decay"] == 0.25
