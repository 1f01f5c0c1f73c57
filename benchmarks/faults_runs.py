"""Small runs of the two command lines for the fault drills, and what they leave behind."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.gate import ROOT
from shiftproof.extras import require
from shiftproof.training.checkpoint import load_checkpoint

EPOCHS, STEPS = 6, 6
"""Epochs of a run, and steps of an epoch."""


def write_images(root: Path, counts: dict[str, int], classes: int, size: int) -> Path:
    """Folders of noise, the same each time."""
    image = require("PIL.Image", extra="train")
    source = torch.Generator().manual_seed(0)
    for split, count in counts.items():
        for name in range(classes):
            folder = root / split / str(name)
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = torch.randint(0, 256, (size, size, 3), generator=source)
                image.fromarray(pixels.to(torch.uint8).numpy()).save(folder / f"{number}.png")
    return root


@dataclass(frozen=True)
class Front:
    """One of the command lines with a data set.

    Attributes:
        data: Its images.
        processes: How many train.
    """

    data: Path
    processes: int = 1

    @property
    def is_cifar(self) -> bool:
        return self.processes == 1

    def last(self, folder: Path) -> Path:
        name = "models/model_and_optim_checkpoint.pt" if self.is_cifar else "checkpoint.pth.tar"
        return folder / name

    def best(self, folder: Path) -> Path:
        name = (
            "models/model_and_optim_best_checkpoint.pt" if self.is_cifar else "model_best.pth.tar"
        )
        return folder / name

    def command(self, folder: Path, *further: str) -> list[str]:
        """The line that starts a run, or goes on with the one in the folder."""
        if self.is_cifar:
            line = [f"{ROOT}/cifar10_exps/main.py", "--results_root_path", str(folder.parent)]
            line += ["--model_folder", folder.name, "--dataset_path", str(self.data)]
            line += ["--arch", "resnet20_aps", "--batch_size", "18", "--num_epochs", str(EPOCHS)]
            line += ["--seed_num", "0", "--device_id", "cpu", "--validate_consistency"]
            line += ["--num_workers", "0", "--print-freq", "1"]
            line += ["--resume"] if self.last(folder).is_file() else []
        else:
            line = [f"{ROOT}/imagenet_exps/main.py", "--out-dir", str(folder)]
            line += ["--data", str(self.data), "--arch", "resnet18", "-b", "4", "-j", "0"]
            line += ["--seed", "0", "-ep", str(EPOCHS // 2), "--multiprocessing-distributed"]
            line += ["--nproc-per-node", str(self.processes), "--dist-backend", "gloo"]
            line += ["--print-freq", "1"]
        return [sys.executable, *line, *further]


@dataclass
class Ended:
    """A process that has ended: its status, and what it wrote to the terminal."""

    status: int
    output: str
    errors: str


@contextlib.contextmanager
def started(
    command: Sequence[str], terminal: Path, before: Callable[[], None] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a session of its own, with its terminal in two files; nothing outlives it."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    with (
        terminal.with_suffix(".out").open("wb") as output,
        terminal.with_suffix(".err").open("wb") as errors,
    ):
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=errors,
            env=environment,
            start_new_session=True,
            preexec_fn=before,
        )
        try:
            yield process
        finally:
            kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    """End a process and its children by SIGKILL."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def ending(process: subprocess.Popen[bytes], terminal: Path) -> Ended:
    """What a process that has ended left."""
    texts = (terminal.with_suffix(suffix).read_text() for suffix in (".out", ".err"))
    return Ended(process.wait(), *texts)


def run(command: Sequence[str], terminal: Path, before: Callable[[], None] | None = None) -> Ended:
    """Run a command to its end."""
    with started(command, terminal, before) as process:
        process.wait(timeout=600)
        return ending(process, terminal)


def one_error_line(ended: Ended, *words: str) -> str | None:
    """What is wrong with how a command failed; None if it said so in one line with these words."""
    lines = ended.errors.splitlines()
    if ended.status == 0 or len(lines) != 1 or not lines[0].startswith("error: "):
        return f"status {ended.status}, {len(lines)} lines: {ended.errors[:300]!r}"
    missing = [word for word in words if word not in lines[0]]
    return f"no {missing} in {lines[0]!r}" if missing else None


def _tensors(state: Any, name: str = "") -> dict[str, Tensor]:
    """All tensors of a checkpoint by their place."""
    if isinstance(state, Tensor):
        return {name: state}
    if isinstance(state, dict):
        items = list(state.items())
    else:
        items = list(enumerate(state)) if isinstance(state, (list, tuple)) else []
    return {k: v for key, item in items for k, v in _tensors(item, f"{name}.{key}").items()}


@dataclass
class Left:
    """What a run has left: all that must not depend on what happened on the way."""

    tensors: dict[str, Tensor]
    rates: dict[str, Any]
    history: list[Any]
    events: list[Any]

    @classmethod
    def by(cls, front: Front, folder: Path) -> "Left":
        tensors = {}
        for path in (front.last(folder), front.best(folder)):
            state = load_checkpoint(path)
            kept = {key: state[key] for key in ("model", "optimizer")}
            tensors |= _tensors(kept, path.name)
        result = json.loads((folder / "result.json").read_text())
        history = [
            {k: v for k, v in epoch.items() if k not in ("seconds", "images_per_second")}
            for epoch in result["history"]
        ]
        lines = (folder / "log.jsonl").read_text().splitlines()
        events = [{k: v for k, v in json.loads(line).items() if k != "time"} for line in lines]
        return cls(tensors, result["rates"], history, events)

    def difference(self, other: "Left") -> str | None:
        """What differs; None if nothing does, to the bit."""
        if self.tensors.keys() != other.tensors.keys():
            return "other tensors"
        for name, value in self.tensors.items():
            if not torch.equal(value, other.tensors[name]):
                return f"another {name}"
        for name in ("rates", "history", "events"):
            if getattr(self, name) != getattr(other, name):
                return f"other {name}"
        return None


def progress(front: Front, folder: Path) -> tuple[int, int]:
    """How far the last checkpoint is: epoch and step; refuses one that cannot be read."""
    path = front.last(folder)
    if not path.is_file():
        return (0, 0)
    state = load_checkpoint(path)
    return (state["epoch"], state["step"])
