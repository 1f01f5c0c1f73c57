import dataclasses
import signal

import pytest
from recipe_runs import ALONE, alone, names

from shiftproof.data.digits import load_digits
from shiftproof.recipes import digits as recipe
from shiftproof.recipes.digits import MODELS, digits, run_demo, run_digits
from shiftproof.results import load_result
from shiftproof.training.loop import Trainer


@pytest.fixture(autouse=True)
def few_small_digits(monkeypatch):
    def load(*, train, size):
        assert size == 32
        return load_digits(train=train, size=8).subset(range(40))

    monkeypatch.setattr(recipe, "load_digits", load)


def test_a_run_leaves_its_files(tmp_path):
    config = digits("cifar_resnet20_pa", tmp_path / "run", epochs=1)
    result = alone(run_digits, config, ALONE)
    assert names(tmp_path / "run") == {
        "best.pt",
        "checkpoint.pt",
        "log.jsonl",
        "result.json",
        "tensorboard",
    }
    assert load_result(tmp_path / "run" / "result.json") == result
    assert result.values["total stride"] == 4
    at_shifts = [f"top-1 at shift ({dy}, {dx})" for dy in range(4) for dx in range(4)]
    assert list(result.rates) == [
        *("test top-1", "test top-5", "test consistency (circular)", "test worst-shift accuracy"),
        *at_shifts,
    ]
    assert all(rate.n == 40 for rate in result.rates.values())
    # What is invariant is as good at each shift as at the worst.
    assert result.rates["test consistency (circular)"].value == 1.0
    accuracy = result.rates["test top-1"].successes
    assert {result.rates[name].successes for name in at_shifts} == {accuracy}
    assert result.rates["test worst-shift accuracy"].successes == accuracy


def test_the_configuration_is_complete():
    config = digits("cifar_resnet20", "run", epochs=3, seed=5).train
    assert (config.model.in_channels, config.epochs, config.seed) == (1, 3, 5)
    assert config.schedule.lr(1.0, 3) == 0.0
    assert config.consistency.name == "circular"


def test_a_second_process_writes_nothing(tmp_path):
    second = dataclasses.replace(ALONE, rank=1, world_size=2)
    alone(run_digits, digits("cifar_resnet20", tmp_path, epochs=1), second)
    assert names(tmp_path) == set()


def test_a_signal_ends_the_demonstration_after_the_networks_that_are_done(tmp_path, monkeypatch):
    step, seen = Trainer._step, []

    def interrupted(trainer, *arguments):
        seen.append(trainer)
        if len(seen) == 2:
            signal.raise_signal(signal.SIGTERM)
        return step(trainer, *arguments)

    monkeypatch.setattr(Trainer, "_step", interrupted)
    results = alone(lambda: run_demo(tmp_path, ALONE, MODELS[:3], epochs=1))
    assert [result.model for result in results] == [MODELS[0]]
    assert names(tmp_path) == set(MODELS[:2])
    assert not (tmp_path / MODELS[1] / "result.json").exists()
