"""Runs small enough to be repeated: a network of five layers on images of 8 x 8 pixels."""

import contextlib
import dataclasses
import json
import signal

import torch
from torch import nn

from shiftproof.data.examples import ImageDataset
from shiftproof.data.in_memory import ImageTensors
from shiftproof.data.transforms import Compose, Normalize, RandomCrop
from shiftproof.metrics import protocol
from shiftproof.training import ModelConfig, RunFiles, TrainConfig, Trainer
from shiftproof.training.checkpoint import load_checkpoint
from shiftproof.training.distributed import Process
from shiftproof.training.journal import Journal
from threads import one_thread

ALONE = Process(0, 0, 1, torch.device("cpu"))

CLASSES = ("a", "b", "c")

CONFIG = TrainConfig(
    ModelConfig("five layers", num_classes=3),
    epochs=3,
    batch_size=4,
    eval_batch_size=4,
    seed=0,
    lr=0.05,
    accumulate=2,
    consistency=protocol("circular"),
)


def images(count=22, *, seed=0, augment=True):
    """Noise with a different brightness for each class; 22 images end in an incomplete step."""
    source = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    noise = torch.randint(0, 120, (count, 3, 8, 8), generator=source)
    steps = (RandomCrop(1), Normalize()) if augment else (Normalize(),)
    pixels = (noise + 60 * labels.view(-1, 1, 1, 1)).to(torch.uint8)
    return ImageTensors(pixels, labels, CLASSES, Compose(steps))


def five_layers(seed=0):
    """A network with all that a run must keep: batch norm's buffers, and random numbers."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.3), nn.Flatten(), nn.Linear(144, 3)
    )


def linear(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 3))


class Interrupting(ImageDataset):
    """Images that send this process a signal when the given batch is asked for, counted from 1."""

    def __init__(self, data, at):
        self.data = data
        self.left = at

    def __len__(self):
        return len(self.data)

    def __getitem__(self, batch):
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGTERM)
        return self.data[batch]


class Broken(ImageDataset):
    """Images of which some cannot be read."""

    def __init__(self, data, numbers):
        self.data = data
        self.numbers = numbers

    def __len__(self):
        return len(self.data)

    def __getitem__(self, batch):
        kept = tuple(index for index in batch.indices if index not in self.numbers)
        examples = self.data[dataclasses.replace(batch, indices=kept)]
        broken = tuple(f"{index}.png" for index in batch.indices if index in self.numbers)
        return dataclasses.replace(examples, unreadable=broken)


@contextlib.contextmanager
def trainer(folder, config=CONFIG, *, train=None, val=None, model=None, resume=None, **options):
    """A trainer that writes into ``folder``, and the journal that ``resume`` goes on with."""
    position = None if resume is None else load_checkpoint(resume)["journal"]
    process = options.pop("process", ALONE)
    journal = Journal(folder, enabled=process.is_main, position=position, tensorboard=False)
    with one_thread(), journal:
        yield Trainer(
            config,
            five_layers() if model is None else model,
            images() if train is None else train,
            images(10, seed=1) if val is None else val,
            process=process,
            files=options.pop("files", RunFiles(folder)),
            journal=journal,
            **options,
        )


def fit(folder, config=CONFIG, *, resume=None, start_epoch=0, **options):
    """Train; returns the trainer and whether it reached the end."""
    with trainer(folder, config, resume=resume, **options) as made:
        return made, made.fit(resume, start_epoch)


def timeless(history):
    """Results without the numbers that a clock gave."""
    return [dataclasses.replace(e, seconds=0.0, images_per_second=0.0) for e in history]


def momentum(made):
    """Momentum of each parameter, in their order."""
    return [made.optimizer.state[p].get("momentum_buffer") for p in made.model.parameters()]


def events(folder):
    """What ``log.jsonl`` holds, but for the time of day."""
    lines = (folder / "log.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "time"} for line in lines]


def same_tensors(actual, expected):
    return all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))
