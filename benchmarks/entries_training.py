"""Entry of training throughput: the recipe's own loop under each combination of settings."""

import functools
import itertools
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping

from benchmarks.entry import Candidate, Entry, Prepared, Setup
from benchmarks.gate import ROOT

NAME = "training/cifar_resnet20_aps1"
DEFAULT = "the recipe as it is"
COMPILED_LAYOUTS = ("channels_last",)
"""Layouts that are compiled; each costs minutes of compiling."""

IMAGES, QUICK_IMAGES = 256 + 200, 32 + 25
"""Images per epoch: the recipe's 45,000 leave a last batch of 200 of 256, another shape."""

MEMORY = {True: "memory kept", False: "memory not kept"}


def combination(layout: str, dtype: str, mode: str, kept: bool) -> str:
    """Name of a combination of settings."""
    return f"{layout} {dtype} {mode}, {MEMORY[kept]}"


LADDER = (
    combination("NCHW", "float32", "eager", False),
    combination("NCHW", "float32", "eager", True),
    combination("channels_last", "float32", "eager", True),
    combination("channels_last", "bfloat16", "eager", True),
    combination("channels_last", "bfloat16", "compiled", True),
)
"""Steps from the slowest settings to the fastest, each with one change."""


class Worker:
    """A process that trains on demand; the allocator's setting holds for a process as a whole.

    Args:
        kept: Whether it keeps freed memory.
        setup: What this run of the suite was asked for.
    """

    def __init__(self, kept: bool, setup: Setup) -> None:
        self.command = [sys.executable, "-m", "benchmarks.trainers", "--device", setup.device]
        self.command += ["--kept"] * kept + ["--quick"] * setup.quick
        self.process: subprocess.Popen[str] | None = None

    def epoch(self, changes: Mapping[str, object]) -> float:
        """Have one epoch trained; returns the seconds that the loop itself reports."""
        if self.process is None:
            pipe = subprocess.PIPE
            self.process = subprocess.Popen(
                self.command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True
            )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(dict(changes)) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            status = self.process.wait()
            raise RuntimeError(f"benchmarks: the training process ended with status {status}")
        return float(answer)

    def close(self) -> None:
        """End the process: it reads until its input closes."""
        if self.process is not None:
            self.process.communicate()
            self.process = None

    def prepare(self, changes: Mapping[str, object]) -> Prepared:
        sample = functools.partial(self.epoch, changes)
        return Prepared(run=sample, sample=sample, close=self.close)


def training_entries(setup: Setup) -> Iterator[Entry]:
    """All combinations of layout, type, compiler and allocator, and the recipe's default."""
    workers = {kept: Worker(kept, setup) for kept in (False, True)}
    candidates = [Candidate(DEFAULT, "", functools.partial(workers[True].prepare, {}))]
    modes = ("eager",) if setup.quick else ("eager", "compiled")
    # The allocator's setting is one of glibc's; GPUs have an allocator of their own.
    settings = (False, True) if setup.device == "cpu" else (True,)
    choices = itertools.product(settings, ("NCHW", "channels_last"), ("float32", "bfloat16"), modes)
    for kept, layout, dtype, mode in choices:
        if mode == "compiled" and (not kept or layout not in COMPILED_LAYOUTS):
            continue
        changes = {
            "channels_last": layout == "channels_last",
            "amp": "bfloat16" if dtype == "bfloat16" else "off",
            "compile": mode == "compiled",
        }
        prepare = functools.partial(workers[kept].prepare, changes)
        candidates.append(Candidate(combination(layout, dtype, mode, kept), "", prepare))
    images = QUICK_IMAGES if setup.quick else IMAGES
    yield Entry(
        name=NAME,
        what=f"the CIFAR-10 recipe's own loop on bytes in memory, epochs of {images} images",
        candidates=tuple(candidates),
        baseline=combination("NCHW", "float32", "eager", setup.device != "cpu"),
        tests=("tests/training/test_training_loop.py",),
        images=images,
        seconds=20.0 if setup.quick else 75.0,
        memory=False,
    )
