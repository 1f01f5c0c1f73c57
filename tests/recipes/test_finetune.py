import dataclasses
import signal

import pytest
import torch
from recipe_runs import ALONE, alone, names, write_images
from torch import nn

from shiftproof import convert
from shiftproof.data.digits import load_digits
from shiftproof.data.plan import Batch
from shiftproof.recipes.finetune import (
    MARGIN,
    FinetuneData,
    finetune,
    open_photographs,
    run_finetune,
)
from shiftproof.results import load_result
from shiftproof.training.checkpoint import load_checkpoint
from shiftproof.training.loop import Trainer


def network(channels=3, num_classes=2):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, num_classes),
    )


def configure(folder, **changes):
    config = finetune("small", 2, folder, epochs=2, batch_size=4, lr=0.05)
    return dataclasses.replace(config, workers=0, **changes)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    root = tmp_path_factory.mktemp("photographs")
    return open_photographs(write_images(root, {"train": 6, "val": 4}), size=16)


@pytest.fixture(scope="module")
def digits():
    data = load_digits(train=True, size=8).subset(range(24))
    return FinetuneData(data, data)


def test_a_converted_network_is_measured_before_and_after(photographs, tmp_path):
    original = network()
    model = convert(original, torch.randn(1, 3, 16, 16)).model
    config = configure(tmp_path / "run")
    result = alone(lambda: run_finetune(config, model, photographs, ALONE, reference=original))
    assert names(tmp_path / "run") == {
        "best.pt",
        "checkpoint.pt",
        "log.jsonl",
        "result.json",
        "tensorboard",
    }
    assert load_result(tmp_path / "run" / "result.json") == result
    assert list(result.rates) == [
        f"{stage} {name}"
        for stage in ("before", "recalibrated", "after")
        for name in ("top-1", "top-5", "consistency (circular)", "consistency (crop)")
    ]
    assert all(rate.n == 8 for rate in result.rates.values())
    assert all(
        result.rates[f"{when} consistency (circular)"].value == 1 for when in ("before", "after")
    )
    # The second class is brighter: two epochs find that out.
    assert result.rates["after top-1"].value == 1.0
    assert result.epochs == 2
    weights = load_checkpoint(tmp_path / "run" / "checkpoint.pt")["model"]
    original.load_state_dict(weights)
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())


def test_statistics_are_measured_before_training(digits, tmp_path):
    def run(**changes):
        model, folder = network(1, 10), tmp_path / str(len(names(tmp_path)))
        reference = changes.pop("reference", None)
        config = configure(folder, **changes)
        config = dataclasses.replace(config, train=dataclasses.replace(config.train, epochs=0))
        result = alone(lambda: run_finetune(config, model, digits, ALONE, reference=reference))
        assert result.epochs == 0
        return model[1].running_mean, [name.split()[0] for name in result.rates]

    mean, stages = run(recalibrate_batches=0)
    assert torch.equal(mean, torch.zeros(8))
    assert stages == ["before"] * 3 + ["after"] * 3
    mean, stages = run(recalibrate_batches=2)
    assert not torch.equal(mean, torch.zeros(8))
    assert stages[3:6] == ["recalibrated"] * 3
    # The same network as a reference: nothing has changed.
    assert torch.equal(run(reference=network(1, 10))[0], torch.zeros(8))


def test_a_network_without_batch_norm_is_not_recalibrated(digits, tmp_path):
    model = nn.Sequential(nn.Conv2d(1, 10, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(ValueError, match="must have a batch norm"):
        alone(run_finetune, configure(tmp_path / "first"), model, digits, ALONE)
    config = configure(tmp_path / "second", recalibrate_batches=0)
    assert alone(run_finetune, config, model, digits, ALONE).epochs == 2


def test_a_run_that_was_stopped_goes_on(digits, tmp_path, monkeypatch):
    whole, parted = network(1, 10), network(1, 10)
    expected = alone(run_finetune, configure(tmp_path / "whole"), whole, digits, ALONE)
    step, seen = Trainer._step, []

    def interrupted(trainer, *arguments):
        seen.append(trainer)
        if len(seen) == 8:
            signal.raise_signal(signal.SIGTERM)
        return step(trainer, *arguments)

    monkeypatch.setattr(Trainer, "_step", interrupted)
    config = configure(tmp_path / "parted")
    assert alone(run_finetune, config, parted, digits, ALONE) is None
    with pytest.raises(ValueError, match="a new run must not replace another"):
        run_finetune(config, parted, digits, ALONE)
    parted = network(1, 10)
    config = dataclasses.replace(config, resume=True)
    result = alone(run_finetune, config, parted, digits, ALONE)
    assert len(seen) == 12
    assert result.rates == expected.rates
    assert all(map(torch.equal, parted.state_dict().values(), whole.state_dict().values()))


def test_a_second_process_writes_nothing(digits, tmp_path):
    second = dataclasses.replace(ALONE, rank=1, world_size=2)
    alone(run_finetune, configure(tmp_path), network(1, 10), digits, second)
    assert names(tmp_path) == set()


def test_the_configuration_is_complete():
    config = finetune("name", 7, "run", epochs=3, seed=5).train
    assert (config.model.num_classes, config.epochs, config.seed) == (7, 3, 5)
    assert [config.schedule.lr(1.0, epoch) for epoch in (0, 3)] == [1.0, 0.0]
    assert config.consistency.name == "circular"


def first(data):
    return data[Batch((0, 1), seed=0, step_size=2)].images


def test_photographs_are_cropped_shifted_and_normalised(tmp_path):
    root = write_images(tmp_path, {"train": 1, "val": 1})
    plain = open_photographs(root, size=16, mean=(0.0,) * 3, std=(1.0,) * 3)
    assert first(plain.val).shape[2:] == first(plain.train).shape[2:] == (16, 16)
    assert first(plain.wide).shape[2:] == (16 + MARGIN,) * 2
    middle = slice(MARGIN // 2, MARGIN // 2 + 16)
    assert torch.equal(first(plain.wide)[..., middle, middle], first(plain.val))
    moved = open_photographs(root, size=16, mean=(0.5,) * 3, std=(0.25,) * 3)
    torch.testing.assert_close(first(moved.val), (first(plain.val) - 0.5) / 0.25)
    # Without a random crop, up to mirroring, what is trained on is what is seen in validation.
    still = open_photographs(root, size=16, mean=(0.0,) * 3, std=(1.0,) * 3, random_crop=False)
    shifted = open_photographs(
        root, size=16, mean=(0.0,) * 3, std=(1.0,) * 3, random_crop=False, max_shift=8
    )
    assert not torch.equal(first(still.train), first(plain.train))
    rolls = [first(still.train).roll((a, b), (2, 3)) for a in range(16) for b in range(16)]
    assert sum(torch.equal(roll, first(shifted.train)) for roll in rolls) == 1
