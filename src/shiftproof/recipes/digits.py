"""Four small networks on handwritten digits: the demonstration that needs no download."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from shiftproof.data.digits import load_digits
from shiftproof.data.plan import Batch
from shiftproof.metrics import accuracy_over_shifts, protocol, worst_shift_accuracy
from shiftproof.recipes.outcome import build_seeded, make_result, seconds_per_epoch
from shiftproof.results import RunResult, save_result
from shiftproof.training import ModelConfig, RunFiles, TrainConfig, Trainer
from shiftproof.training.allocator import keep_freed_memory
from shiftproof.training.distributed import Process
from shiftproof.training.journal import Journal
from shiftproof.training.schedule import Cosine

MODELS = ("cifar_resnet20", "cifar_resnet20_lpf3", "cifar_resnet20_aps1", "cifar_resnet20_pa")


@dataclass(frozen=True)
class DigitsConfig:
    """One network on the digits.

    Attributes:
        train: How to train.
        folder: Where to write.
        size: Height and width that the 8 x 8 digits are brought to, in pixels.
    """

    train: TrainConfig
    folder: Path
    size: int = 32


def digits(name: str, folder: Path, *, epochs: int = 10, seed: int = 0) -> DigitsConfig:
    """Complete configuration of one network.

    Args:
        name: Registered name.
        folder: Where to write.
        epochs: Passes over the 1,397 training images.
        seed: Of everything random.

    Returns:
        The configuration.
    """
    train = TrainConfig(
        model=ModelConfig(name, num_classes=10, in_channels=1),
        epochs=epochs,
        batch_size=64,
        eval_batch_size=64,
        seed=seed,
        lr=0.1,
        weight_decay=5e-4,
        schedule=Cosine(epochs),
        consistency=protocol("circular"),
    )
    return DigitsConfig(train, folder)


def run_digits(config: DigitsConfig, process: Process) -> RunResult | None:
    """Train one network and try every circular shift modulo its total stride.

    Args:
        config: The configuration.
        process: This process.

    Returns:
        What was found, or None if a signal stopped the run.

    Raises:
        RuntimeError: If scikit-learn is not installed, or training diverges.
    """
    keep_freed_memory()
    config.folder.mkdir(parents=True, exist_ok=True)
    train_data = load_digits(train=True, size=config.size)
    test_data = load_digits(train=False, size=config.size)
    model = build_seeded(config.train.model, config.train.seed)
    stride = int(getattr(model, "total_stride", 1))
    with Journal(config.folder, enabled=process.is_main, print_every=10**6) as journal:
        trainer = Trainer(
            config.train,
            model,
            train_data,
            test_data,
            process=process,
            files=RunFiles(config.folder),
            journal=journal,
        )
        journal.line(f"{config.train.model.name}: {len(train_data)} digits to train on")
        if not trainer.fit():
            return None
    model.eval()
    everything = Batch(tuple(range(len(test_data))), seed=config.train.seed, step_size=0)
    examples = test_data[everything]
    images = examples.images.to(process.device, memory_format=torch.channels_last)
    labels = examples.labels.to(process.device)
    shifts = list(itertools.product(range(stride), repeat=2))
    history = trainer.progress.history
    rates = {f"test {name}": rate for name, rate in history[-1].val_rates.items()}
    rates["test worst-shift accuracy"] = worst_shift_accuracy(model, images, labels, shifts)
    for rate in accuracy_over_shifts(model, images, labels, shifts):
        rates[rate.protocol] = rate
    result = make_result(
        config,
        config.train.model.name,
        model,
        process,
        history=history,
        rates=rates,
        values={**seconds_per_epoch(history), "total stride": stride},
        unreadable=(),
    )
    if process.is_main:
        save_result(result, config.folder / "result.json")
    return result


def run_demo(
    folder: Path, process: Process, names: Sequence[str] = MODELS, *, epochs: int = 10
) -> list[RunResult]:
    """Train the demonstration's networks, one after the other.

    Args:
        folder: Each network writes into a folder of its own in it.
        process: This process.
        names: Registered names.
        epochs: Passes over the training images.

    Returns:
        What was found; fewer results than networks if a signal stopped the demonstration.
    """
    results = []
    for name in names:
        result = run_digits(digits(name, folder / name, epochs=epochs), process)
        if result is None:
            break
        results.append(result)
    return results
