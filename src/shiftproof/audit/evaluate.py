"""The command ``shiftproof eval``: several networks on one data set, under protocols by name."""

from __future__ import annotations

import argparse
import contextlib
import re
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shiftproof.audit.defaults import preset_of
from shiftproof.audit.differences import Difference, differences
from shiftproof.audit.evaluate_options import (
    FILES,
    assign_weights,
    distinct_names,
    fingerprint,
    read_protocol,
)
from shiftproof.audit.evaluation import Found, evaluate_subject
from shiftproof.audit.sources import is_cifar10, open_source, outputs_of
from shiftproof.audit.subjects import Subject, load_subject
from shiftproof.files import replacing, writing
from shiftproof.metrics import Protocol
from shiftproof.metrics.protocols import judged_by_label, margin
from shiftproof.results import Environment, RunResult, load_result, save_result
from shiftproof.training.allocator import keep_freed_memory
from shiftproof.training.distributed import Process, any_true, barrier, process_group
from shiftproof.training.interrupt import GracefulStop
from shiftproof.training.journal import Journal
from shiftproof.training.unreadable import Unreadable, warn_left_out


@dataclass
class Evaluated:
    """What the command found.

    Attributes:
        results: One per network that is finished, in the order of the command line.
        differences: Of each further network to the first, on the same images.
        stopped: Whether a signal stopped it.
        is_main: Whether this process is the one that prints.
    """

    results: list[RunResult]
    differences: list[Difference]
    stopped: bool
    is_main: bool


class _Progress(Journal):
    """Progress on standard error, so that standard output holds the table or JSON alone."""

    def __init__(self, enabled: bool) -> None:
        super().__init__("", enabled=False)
        self.enabled = enabled
        if enabled and sys.stderr.isatty():
            with contextlib.suppress(ModuleNotFoundError):
                from rich.console import Console

                self._console = Console(stderr=True)

    def line(self, text: str) -> None:
        """Print a line."""
        if self.enabled and self._console is None:
            print(text, file=sys.stderr, flush=True)
        else:
            super().line(text)


@dataclass
class _Evaluation:
    args: argparse.Namespace
    protocols: list[Protocol]
    process: Process
    journal: Journal
    should_stop: Callable[[], bool]

    def measure(
        self, name: str, spec: str, weights: str | None
    ) -> tuple[RunResult, dict[str, Tensor]] | None:
        """Measure a network, or read what was measured; None if a signal came."""
        args, process = self.args, self.process
        subject = self._load(name, spec, weights)
        passes = {0: [p for p in self.protocols if not margin(p)]}
        for wanted in self.protocols:
            if margin(wanted):
                passes.setdefault(margin(wanted), []).append(wanted)
        preset = preset_of(spec, subject.module) if subject.module is not None else None
        known = None if preset is None or args.size is not None else preset.resize_size
        resize = args.resize or known or subject.resize_size
        opened = {
            extra: open_source(args.data, frame=subject.size + extra, resize=resize)
            for extra in passes
        }
        dataset = opened[0]
        outputs, reason = outputs_of(dataset.classes, subject.num_outputs, args.classes)
        self._tell(subject, dataset, reason)
        config = self._config(spec, weights, subject, resize, len(dataset))
        done = self._finished(name, config)
        if done is not None:
            return done
        found, unreadable = Found(), Unreadable(len(dataset))
        for extra, wanted_here in passes.items():
            finished = evaluate_subject(
                subject,
                opened[extra],
                wanted_here,
                found=found,
                process=process,
                outputs=outputs,
                accuracy=extra == 0,
                batch_size=args.batch_size,
                seed=args.seed,
                workers=args.workers,
                journal=self.journal,
                unreadable=unreadable,
                should_stop=self.should_stop,
            )
            if not finished:
                return None
        module = subject.module
        device = process.device
        on = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        result = RunResult(
            model=name,
            num_parameters=sum(p.numel() for p in module.parameters()) if module else 0,
            epochs=0,
            config=config,
            environment=Environment.collect(on, torch.get_num_threads()),
            rates=found.rates,
            values=found.values,
            means=found.means,
            unreadable=(*getattr(dataset, "unreadable", ()), *unreadable.over_all_processes()),
        )
        if process.is_main and args.out is not None:
            with replacing(self._path(name, ".pt")) as file:
                torch.save(found.outcomes, file)
            save_result(result, self._path(name, ".json"))
        barrier()
        return result, found.outcomes

    def _load(self, name: str, spec: str, weights: str | None) -> Subject:
        args = self.args
        takes = Path(spec).suffix not in FILES and weights is None
        own = ":" in spec and spec.partition(":")[0] not in ("torchvision", "timm")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a stranger's file
            return load_subject(
                spec,
                weights,
                untrained=args.untrained and takes and not own,
                size=args.size,
                mean=args.mean,
                std=args.std,
                name=name,
                device=self.process.device,
            )

    def _tell(self, subject: Subject, dataset: Any, reason: str) -> None:
        if self.process.is_main:
            warn_left_out(dataset.left_out)
            if reason:
                self.journal.line(f"{subject.name}: no accuracy, because {reason}")
        by_label = [p.name for p in self.protocols if judged_by_label(p)]
        if reason and by_label:
            raise ValueError(
                f"eval: {by_label[0]} must know the right classes, got none, because {reason}; "
                "pass --classes sorted, or leave it out"
            )

    def _config(
        self, spec: str, weights: str | None, subject: Subject, resize: int, count: int
    ) -> dict[str, Any]:
        """All that the numbers follow from, as JSON gives it back."""
        args = self.args
        return {
            "model": fingerprint(spec),
            "weights": fingerprint(weights),
            "untrained": bool(args.untrained),
            "data": str(args.data.expanduser().resolve()),
            "num_images": count,
            "protocols": [wanted.name for wanted in self.protocols],
            "classes": args.classes,
            "size": subject.size,
            "resize": None if is_cifar10(args.data) else resize,
            "mean": list(subject.mean),
            "std": list(subject.std),
            "batch_size": args.batch_size,
            "seed": args.seed,
        }

    def _path(self, name: str, suffix: str) -> Path:
        folder: Path = self.args.out
        return folder / (re.sub(r"[^\w.-]+", "_", name).strip("_.") + suffix)

    def _finished(
        self, name: str, config: dict[str, Any]
    ) -> tuple[RunResult, dict[str, Tensor]] | None:
        """What an earlier run measured, if it asked for the same."""
        found: list[tuple[RunResult, dict[str, Tensor]]] = []
        if self.args.out is not None and self._path(name, ".json").is_file():
            result = load_result(self._path(name, ".json"))
            if result.config == config:
                outcomes: dict[str, Tensor] = {}
                if self._path(name, ".pt").is_file():
                    outcomes = torch.load(self._path(name, ".pt"), weights_only=True)
                found.append((result, outcomes))
        if any_true(not found):  # all processes, or none
            return None
        self.journal.line(f"{name}: measured already, in {self._path(name, '.json')}")
        return found[0]


def _check(args: argparse.Namespace) -> None:
    for name in ("batch_size", "size", "resize"):
        value = getattr(args, name)
        if value is not None and value < 1:
            flag = name.replace("_", "-")
            raise ValueError(f"--{flag}: must be at least 1, got {value}; enlarge it")
    if args.out is not None:
        with writing(args.out):
            args.out.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=args.out):
                pass


def evaluate(args: argparse.Namespace) -> Evaluated:
    """Measure what the arguments ask for.

    A network that is finished is written to ``--out`` at once, and a later call with the same
    arguments does not measure it again; one that a signal stopped is measured from its start.

    Args:
        args: What ``evaluate_options.add_arguments`` parsed.

    Returns:
        What was found.

    Raises:
        RuntimeError: If there are no images, or the results cannot be written.
        ValueError: If an argument is wrong, or a network gives no logits, or none that are finite.
    """
    protocols = [read_protocol(text) for text in dict.fromkeys(args.protocol or ["circular"])]
    weights = assign_weights(args.models, args.weights)
    names = distinct_names(args.models, weights)
    keep_freed_memory()
    results: list[RunResult] = []
    outcomes: list[dict[str, Tensor]] = []
    with process_group(device=args.device) as process, GracefulStop() as stop:
        _check(args)
        journal = _Progress(process.is_main)
        run = _Evaluation(args, protocols, process, journal, lambda: stop.requested)
        for name, spec, file in zip(names, args.models, weights, strict=True):
            done = run.measure(name, spec, file)
            if done is None:
                journal.line(
                    f"{name}: stopped by {stop.signal_name}; what is finished is kept"
                    f"{'' if args.out is None else f' in {args.out}'}"
                )
                break
            results.append(done[0])
            outcomes.append(done[1])
        stopped = any_true(len(results) < len(names))
        compared = differences(results, outcomes, protocols, args.batch_size)
        return Evaluated(results, compared, stopped, process.is_main)
