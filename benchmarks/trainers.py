"""A process that trains one epoch for each line it reads: settings in, seconds out."""

import argparse
import dataclasses
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.entries_training import IMAGES, QUICK_IMAGES
from shiftproof.data.cifar10 import CIFAR10_MEAN, CIFAR10_STD
from shiftproof.data.in_memory import ImageTensors
from shiftproof.data.transforms import Compose, Normalize, RandomHorizontalFlip
from shiftproof.training import ModelConfig, RunFiles, TrainConfig, Trainer
from shiftproof.training.allocator import keep_freed_memory
from shiftproof.training.distributed import Process, pick_device
from shiftproof.training.journal import Journal

CLASSES = tuple("0123456789")


def synthetic(count: int) -> ImageTensors:
    """Random bytes in the place of CIFAR-10, with the recipe's flip and normalisation."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)
    transform = Compose((RandomHorizontalFlip(), Normalize(CIFAR10_MEAN, CIFAR10_STD)))
    return ImageTensors(images, torch.arange(count) % 10, CLASSES, transform)


class Epochs:
    """The recipe's training loop, one epoch at a time.

    Args:
        changes: Fields of the training configuration that differ from the recipe's defaults.
        device: Where to train.
        folder: Where checkpoints go.
        quick: Whether the epoch is a short one.
    """

    def __init__(
        self, changes: dict[str, Any], device: torch.device, folder: Path, quick: bool
    ) -> None:
        torch.manual_seed(0)
        config = TrainConfig(
            ModelConfig("cifar_resnet20_aps1", num_classes=10),
            epochs=1,
            batch_size=32 if quick else 256,
            seed=0,
            lr=0.01,
            weight_decay=5e-4,
        )
        config = dataclasses.replace(config, **changes)
        self.trainer = Trainer(
            config,
            config.model.build(),
            synthetic(QUICK_IMAGES if quick else IMAGES),
            synthetic(10),
            process=Process(0, 0, 1, device),
            files=RunFiles(folder),
            journal=Journal(folder, enabled=False),
        )

    def __call__(self) -> float:
        self.trainer.fit()
        return self.trainer.progress.history[-1].seconds


def serve(answer: Callable[[str], None], device: torch.device, quick: bool) -> None:
    """Train an epoch for each line of input until it ends."""
    trainers: dict[str, Epochs] = {}
    with tempfile.TemporaryDirectory() as root:
        for line in sys.stdin:
            if line not in trainers:
                folder = Path(root) / str(len(trainers))
                folder.mkdir()
                trainers[line] = Epochs(json.loads(line), device, folder, quick)
            answer(f"{trainers[line]()}\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--kept", action="store_true", help="keep freed memory")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    if args.kept:
        keep_freed_memory()
    # What libraries print must not be taken for an answer.
    with os.fdopen(os.dup(1), "w", buffering=1) as answers:
        os.dup2(2, 1)
        device = pick_device("cpu" if args.device == "cpu" else 0)
        serve(lambda text: print(text, end="", file=answers, flush=True), device, args.quick)
    return 0


if __name__ == "__main__":
    sys.exit(main())
