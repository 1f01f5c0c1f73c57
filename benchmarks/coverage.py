"""Convert and certify every torchvision network and one of every timm family.

    python -m benchmarks.coverage                              all of them, about half an hour
    python -m benchmarks.coverage --resume                     those that have no result yet
    python -m benchmarks.coverage --only 'timm:resnet*' -v     some of them, with the summaries
    python -m benchmarks.coverage --only timm:convnext_atto    one outside the table; not recorded
    python -m benchmarks.coverage --again failed refused       those that ended so
    python -m benchmarks.coverage --page                       the page, from the results alone

Results go to a JSON file after every network, and the page is written from that file.
"""

import argparse
import multiprocessing
import signal
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from fnmatch import fnmatchcase
from functools import partial
from importlib.metadata import version
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch

from benchmarks.coverage_measure import Tools, digest, measure
from benchmarks.coverage_models import Subject, further_subject, subjects
from benchmarks.coverage_page import VERDICTS, Coverage, Row, write_page
from benchmarks.gate import ROOT
from benchmarks.measured import RESULTS
from shiftproof.recipes.command import run_command
from shiftproof.results import Environment


def _child(function: Callable[[Any], Any], job: Any, sender: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends it
    sender.send(function(job))
    sender.close()


def _ending(process: Any) -> str:
    process.join()
    if process.exitcode < 0:
        return f"the process was ended by {signal.Signals(-process.exitcode).name}"
    return f"the process ended with status {process.exitcode} and no result"


def run_apart(
    function: Callable[[Any], Any], jobs: Iterable[Any], workers: int, limit: float
) -> Iterator[tuple[Any, Any]]:
    """Run each job in a process of its own; yields it with its result, or with why there is none.

    Reasons are of type ``str``, which ``function`` must not return.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "torchvision", "timm", "shiftproof"])
    waiting, running = deque(jobs), {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                receiver, sender = context.Pipe(duplex=False)
                job = waiting.popleft()
                process = context.Process(target=_child, args=(function, job, sender), daemon=True)
                process.start()
                sender.close()
                running[receiver] = job, process, time.monotonic() + limit
            nearest = min(deadline for _, _, deadline in running.values())
            ready = wait(list(running), max(nearest - time.monotonic(), 0))
            if not ready:
                ready = [r for r in running if running[r][2] <= time.monotonic()]
            for receiver in ready:
                job, process, _ = running.pop(receiver)
                try:
                    result = receiver.recv() if receiver.poll() else None
                    process.join(10 if result else 0)  # time to tidy up
                    process.kill()
                    process.join()
                except EOFError:
                    result = _ending(process)
                yield job, result or f"more than {limit:g} s"
    finally:
        for _, process, _ in running.values():
            process.kill()


def machine(*packages: str) -> dict[str, Any]:
    """The machine, and the versions of these packages."""
    found = asdict(Environment.collect("cpu", torch.get_num_threads()))
    found["versions"].update({name: version(name) for name in packages})
    return found


def matching(keys: Iterable[str], pattern: str) -> list[str]:
    """The keys that match a pattern, with or without their library."""
    return [
        key
        for key in keys
        if fnmatchcase(key, pattern) or fnmatchcase(key.partition(":")[2], pattern)
    ]


def choose(table: list[Subject], patterns: list[str]) -> list[Subject]:
    """The subjects that match a pattern; a name outside the table adds a subject."""
    chosen: dict[str, Subject] = {}
    for pattern in patterns:
        keys = matching((subject.key for subject in table), pattern)
        found = [subject for subject in table if subject.key in keys]
        further = None if found else further_subject(pattern)
        if not found and further is None:
            raise ValueError(
                f"benchmarks.coverage: --only must name torchvision:MODEL, timm:FAMILY, patterns "
                f"of them, or timm:MODEL, got {pattern!r}; --list shows the table"
            )
        chosen.update({subject.key: subject for subject in found or [further]})
    return list(chosen.values())


def run(args: argparse.Namespace) -> int:
    if args.page is not None:
        others = args.out.with_name("third_parties.json")
        third = Coverage.load(others) if others.exists() else None
        print(write_page(Coverage.load(args.out), args.page, third))
        return 0
    table = list(subjects())
    if args.list:
        print("\n".join(f"{subject.key:40} {subject.category}" for subject in table))
        return 0
    Tools.load()  # what is missing is missing for all
    chosen = choose(table, args.only) if args.only else table
    before = Coverage.load(args.out) if args.out.exists() else None
    coverage = Coverage([subject.key for subject in table], machine("timm"))
    if before is not None:
        if args.resume or args.only or args.again:
            coverage.rows.update(before.rows)
        if before.versions["timm"] == coverage.versions["timm"]:
            # Counting the parameters of a thousand networks takes two minutes.
            known = {key: row.model for key, row in before.rows.items()}
            chosen = [replace(s, model=s.model or known.get(s.key, "")) for s in chosen]
    if args.resume:
        chosen = [subject for subject in chosen if subject.key not in coverage.rows]
    if args.again:
        rows = coverage.rows
        chosen = [s for s in chosen if s.key in rows and rows[s.key].verdict in args.again]
    threads = 0 if args.workers == 1 else 1
    verdicts: Counter[str] = Counter()
    code = digest()
    function = partial(measure, code=code, threads=threads)
    for subject, result in run_apart(function, chosen, args.workers, args.limit):
        if isinstance(result, str):
            result = Row.of(subject, detail=result, code=code), ""
        row, said = result
        verdicts[row.verdict] += 1
        print(f"[{sum(verdicts.values())}/{len(chosen)}] {row.line()}", flush=True)
        if args.verbose and said:
            print(f"{said}\n", flush=True)
        if subject.recorded:
            coverage.rows[row.key] = row
            coverage.save(args.out)
    print(", ".join(f"{count} {verdict}" for verdict, count in verdicts.most_common()))
    return int(verdicts["failed"] + verdicts["not invariant"] > 0)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.coverage",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--only", nargs="+", metavar="PATTERN", help="torchvision:MODEL, timm:FAMILY, timm:MODEL")
    add("--again", nargs="+", choices=VERDICTS, help="those whose last verdict was one of these")
    add("--resume", action="store_true", help="leave out those that have a result")
    add("--workers", type=int, default=1, metavar="N", help="networks at a time")
    add("--limit", type=float, default=900, metavar="S", help="seconds for one network")
    add("--list", action="store_true", help="print the table's networks and stop")
    add("-v", "--verbose", action="store_true", help="print summaries, certificates and traces")
    add("--out", type=Path, default=RESULTS / "coverage.json", metavar="JSON")
    page = ROOT / "docs" / "coverage.md"
    add("--page", type=Path, nargs="?", const=page, help="only write the page, to this file")
    return run_command(lambda: run(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
