"""Run the benchmarks, show them, and write them down.

    python -m benchmarks                       all of them, about 20 minutes on two cores
    python -m benchmarks 'ops/*' --rounds 5    some of them
    python -m benchmarks --quick               small sizes, to try the suite; no results

Then ``python -m benchmarks.page RESULT.json`` writes the page.
"""

import argparse
import datetime as dt
import fnmatch
import os
import platform
import sys
import tempfile
import time
import traceback
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.bars import verdicts
from benchmarks.entries_conversion import conversion_entries
from benchmarks.entries_models import model_entries
from benchmarks.entries_motion import motion_entries
from benchmarks.entries_ops import growth_entries, op_entries
from benchmarks.entries_training import training_entries
from benchmarks.entry import Entry, Setup
from benchmarks.gate import failing
from benchmarks.measure import measure
from benchmarks.measured import RESULTS, Measured, Report
from benchmarks.show import VERDICT_COLUMNS, cells, columns, machine, title, verdict_cells
from shiftproof.recipes.command import run_command
from shiftproof.report import print_table
from shiftproof.results import Environment
from shiftproof.training.allocator import keep_freed_memory


def suite(setup: Setup) -> list[Entry]:
    """All entries, in the order of the page."""
    makers = (op_entries, growth_entries, model_entries, conversion_entries)
    makers = (*makers, motion_entries, training_entries)
    return [entry for make in makers for entry in make(setup)]


def choose(entries: list[Entry], patterns: list[str]) -> list[Entry]:
    """The entries that match any of the patterns; all of them without one."""
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(entry.name, pattern) for entry in entries):
            names = ", ".join(sorted({entry.name.split("/")[0] + "/*" for entry in entries}))
            raise ValueError(
                f"benchmarks: a pattern must match an entry, got {pattern!r}; try {names}, or "
                "--list for all names"
            )
    return [
        entry
        for entry in entries
        if not patterns or any(fnmatch.fnmatchcase(entry.name, pattern) for pattern in patterns)
    ]


def cpu_name() -> str:
    """Model of the processor, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.processor()


def attempt(entry: Entry, setup: Setup, failures: dict[str, str]) -> Measured:
    """Measure an entry; if one of its tests fails, or it does, there is a reason and no number."""
    outputs = [f"{file}\n{failures[file]}" for file in entry.tests if file in failures]
    if not outputs:
        try:
            return measure(entry, setup)
        except Exception:
            # The entries after it, minutes of measuring, are still worth having.
            outputs = [traceback.format_exc()]
    tests, failure = list(entry.tests), "\n".join(outputs)
    return Measured(entry.name, entry.what, entry.baseline, tests, failure=failure)


def show(measured: Measured) -> None:
    print(f"\n{measured.name}\n{title(measured)}")
    if measured.failure is not None:
        print(f"no speed is shown, because it fails:\n{measured.failure}")
        return
    print_table(columns(measured), [cells(measured, row) for row in measured.rows])


def result_path(folder: Path, report: Report, device: str, selected: bool) -> Path:
    """``<date>-<device>.json``; a trial or a selection never takes the place of a whole run."""
    name = f"{report.date}-{device}" + "-quick" * report.quick + "-selection" * selected
    return folder / f"{name}.json"


def run(args: argparse.Namespace) -> int:
    if args.device == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("benchmarks: --device cuda needs a CUDA device, found none; use cpu")
    setup = Setup(args.device, args.quick, args.rounds or (3 if args.quick else 15), args.patience)
    entries = choose(suite(setup), args.patterns)
    if args.list:
        print("\n".join(entry.name for entry in entries))
        return 0
    kept = keep_freed_memory()
    device = torch.cuda.get_device_name() if args.device == "cuda" else "cpu"
    report = Report(
        date=dt.datetime.now(tz=dt.timezone.utc).date().isoformat(),
        environment=Environment.collect(device, torch.get_num_threads()),
        cpu=cpu_name(),
        allocator="glibc, freed memory kept" if kept else "as the system has it",
        quick=args.quick,
        seconds=0.0,
        entries=[],
    )
    path = result_path(args.out, report, args.device, bool(args.patterns))
    start = time.monotonic()
    print(f"running the tests of {len(entries)} entries", flush=True)
    failures = failing(file for entry in entries for file in entry.tests)
    for entry in entries:
        found = attempt(entry, setup, failures)
        show(found)
        sys.stdout.flush()
        seconds = time.monotonic() - start
        report = replace(report, seconds=seconds, entries=[*report.entries, found])
        report.save(path)
    judged = verdicts(report)
    if judged:
        print()
        print_table(VERDICT_COLUMNS, [verdict_cells(verdict) for verdict in judged])
    print(f"{machine(report)}\n{report.seconds:.0f} s in all; numbers: {path}")
    return int(any(found.failure is not None for found in report.entries))


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("patterns", nargs="*", metavar="PATTERN", help="names of entries, for instance 'ops/*'")
    add("--quick", action="store_true", help="small sizes and few rounds")
    add("--list", action="store_true", help="print the names of the entries and stop")
    add("--out", type=Path, default=RESULTS, metavar="DIR", help="where the JSON file goes")
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--patience", type=float, default=1.0, metavar="F", help="times longer for the rounds")
    add("--rounds", type=int, metavar="N", help="rounds of an entry at most")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="inductor") as cache:
        # Compiling is measured: nothing that an earlier run compiled may be found.
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        return run_command(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
