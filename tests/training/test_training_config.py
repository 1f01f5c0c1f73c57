import dataclasses
import sys
from pathlib import Path

import pytest
import torch

from shiftproof.nn import LargestNorm
from shiftproof.training import ModelConfig, RunFiles, TrainConfig, allocator
from shiftproof.training.allocator import keep_freed_memory
from shiftproof.training.config import describe
from shiftproof.training.schedule import MultiStep

MODEL = ModelConfig("cifar_resnet20_aps1", num_classes=3, in_channels=1)


def config(**changes):
    return TrainConfig(**{"model": MODEL, "epochs": 1, "batch_size": 4, "seed": 0, **changes})


def test_a_model_is_built_as_described():
    model = ModelConfig("cifar_resnet20", 3, 1, {"padding_mode": "zeros"}).build()
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 3)
    assert model.conv1.padding_mode == "zeros"
    assert model.training


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (ModelConfig("cifar_resnet21", 3), "got 'cifar_resnet21'; did you mean cifar_resnet20"),
        (ModelConfig("cifar_resnet20", 3, options={"selector": None}), "got 'selector'"),
    ],
)
def test_an_unknown_name_or_option_is_an_error(model, message):
    with pytest.raises(ValueError, match=message):
        model.build()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": -1}, "epochs must be at least 0, got -1"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"accumulate": 0}, "accumulate must be at least 1, got 0"),
        ({"lr": 0.0}, "lr must be positive, got 0.0"),
        ({"lr": float("nan")}, "lr must be positive, got nan"),
        ({"seed": -1}, r"seed must be in \[0, 2\^63\), got -1"),
        ({"seed": 2**63}, r"seed must be in \[0, 2\^63\), got 9223372036854775808"),
    ],
)
def test_numbers_out_of_range_are_errors(changes, message):
    with pytest.raises(ValueError, match=message):
        config(**changes)


def test_a_batch_is_divided_over_the_processes_of_a_node():
    assert [config().per_process(count) for count in (1, 2, 4)] == [4, 2, 1]
    with pytest.raises(ValueError, match="a positive multiple of the 3 processes per node, got 4"):
        config().per_process(3)


def test_files_lie_in_the_folder_of_the_run():
    files = RunFiles(Path("run"), last="models/last.pt")
    assert files.path(files.last) == Path("run/models/last.pt")


def test_a_description_holds_plain_values_only():
    options = {"selector": LargestNorm(1)}
    described = describe(
        config(
            model=dataclasses.replace(MODEL, options=options),
            schedule=MultiStep((1, 2)),
        )
    )
    assert described["type"] == "TrainConfig"
    assert described["model"]["options"] == {"selector": repr(LargestNorm(1))}
    assert described["schedule"] == {"type": "MultiStep", "milestones": [1, 2], "gamma": 0.1}
    assert described["consistency"] is None
    assert describe({1: Path("a"), "b": (True, 1.5)}) == {"1": "a", "b": [True, 1.5]}


def test_memory_is_kept_where_the_c_library_can(monkeypatch):
    assert keep_freed_memory() in (True, False)
    monkeypatch.setattr(sys, "platform", "win32")
    assert not keep_freed_memory()
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda _: object())
    assert not keep_freed_memory(), "a C library without mallopt"
