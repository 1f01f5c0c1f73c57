"""Fault drills: kill training, fill the disk, damage checkpoints, take images away.

    python -m benchmarks.faults                  all of them, about an hour on two cores
    python -m benchmarks.faults kills exits      some of them
    python -m benchmarks.faults --count 5        fewer of each, to try

Both command lines train on noise.  After every fault the run goes on, and must end with the
weights, momentum, numbers and log of a run that nothing happened to, to the bit.  The counts go to
``benchmarks/results/faults.json``.
"""

import argparse
import contextlib
import dataclasses
import itertools
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.faults_runs import (
    EPOCHS,
    STEPS,
    Front,
    Left,
    ending,
    one_error_line,
    progress,
    run,
    started,
    write_images,
)
from benchmarks.measured import RESULTS
from shiftproof.files import write_text
from shiftproof.recipes.command import run_command
from shiftproof.results import Environment
from shiftproof.training.checkpoint import load_checkpoint

MOMENTS = ("any moment", "in a save", "in an evaluation", "one of two processes")


class Drill:
    """The folder of the drills, the runs that nothing happens to, and the counts."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.random = random.Random(seed)
        self.good: Counter[str] = Counter()
        self.bad: dict[str, list[str]] = {}
        self.fronts = {
            1: Front(write_images(folder / "small", {"train": 12, "test": 4}, 10, 32)),
            2: Front(write_images(folder / "large", {"train": 6, "val": 2}, 2, 232), processes=2),
        }
        self.expected = {}
        self.seconds = {}
        for count, front in self.fronts.items():
            start = time.monotonic()
            whole = folder / f"whole{count}"
            ended = run(front.command(whole), folder / "whole")
            if ended.status or ended.errors:
                raise RuntimeError(f"faults: an undisturbed run must end well, got {ended}")
            self.seconds[count] = time.monotonic() - start
            self.expected[count] = Left.by(front, whole)
        self._numbers = itertools.count()

    def new(self) -> Path:
        return self.folder / f"run{next(self._numbers)}"

    def note(self, kind: str, problem: str | None) -> None:
        if problem is None:
            self.good[kind] += 1
        else:
            self.bad.setdefault(kind, []).append(problem)
        print(f"{kind}: {self.good[kind]} well{f', {problem}' if problem else ''}", flush=True)

    def compare(self, processes: int, folder: Path) -> str | None:
        return self.expected[processes].difference(Left.by(self.fronts[processes], folder))


def _wait_for_save(folder: Path, process: subprocess.Popen[bytes], number: int) -> None:
    """Until the file of a save has been there for the given time."""
    seen: set[str] = set()
    while process.poll() is None:
        with contextlib.suppress(FileNotFoundError):
            seen |= {entry.name for entry in os.scandir(folder) if entry.name.startswith(".")}
        if len(seen) >= number:
            return


def _wait_for_evaluation(terminal: Path, process: subprocess.Popen[bytes], number: int) -> None:
    """Until the last step of an epoch has been told for the given time."""
    while process.poll() is None:
        text = terminal.with_suffix(".out").read_text()
        if text.count(f"  {STEPS}/{STEPS}  ") >= number:
            return
        time.sleep(0.005)


def kills(drill: Drill, count: int) -> None:
    """SIGKILL at random moments: each time the run goes on from its last checkpoint."""
    for number in range(len(MOMENTS) - 1):
        _kills_of_one(drill, MOMENTS[number], count // 4)
    _kills_of_two(drill, count - 3 * (count // 4))


def _kills_of_one(drill: Drill, moment: str, count: int) -> None:
    front, left, killed = drill.fronts[1], count, 0
    folder = drill.new()
    while left or killed:
        before = progress(front, folder)
        terminal = drill.folder / "terminal"
        with started(front.command(folder), terminal) as process:
            if left:
                if moment == "in a save":
                    _wait_for_save(front.last(folder).parent, process, drill.random.randint(1, 3))
                elif moment == "in an evaluation":
                    _wait_for_evaluation(terminal, process, drill.random.randint(1, 2))
                    time.sleep(drill.random.uniform(0, 0.1))
                else:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(drill.random.uniform(0, drill.seconds[1]))
            else:
                process.wait(timeout=600)
            alive = process.poll() is None
        ended = ending(process, terminal)
        after = progress(front, folder)  # raises if the checkpoint cannot be read
        if alive and left:
            left, killed = left - 1, killed + 1
            if after < before:
                drill.note(moment, f"the checkpoint went back from {before} to {after}")
            continue
        problem = drill.compare(1, folder) if ended.status == 0 else ended.errors
        for _ in range(killed):
            drill.note(moment, problem)
        folder, killed = drill.new(), 0


def _workers(process: subprocess.Popen[bytes]) -> list[int]:
    path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    pids = [int(pid) for pid in path.read_text().split()] if path.exists() else []
    lines = {pid: Path(f"/proc/{pid}/cmdline") for pid in pids}
    return [pid for pid, line in lines.items() if line.exists() and b"main.py" in line.read_bytes()]


def _kills_of_two(drill: Drill, count: int) -> None:
    front, left = drill.fronts[2], count
    while left:
        folder, killed = drill.new(), 0
        terminal = drill.folder / "terminal"
        with started(front.command(folder, "--max-restarts", "1000"), terminal) as process:
            while left and process.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(drill.random.uniform(0.3, 1.2) * drill.seconds[2])
                workers = _workers(process)
                if len(workers) == 2:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(drill.random.choice(workers), signal.SIGKILL)
                        left, killed = left - 1, killed + 1
            process.wait(timeout=600)
        ended = ending(process, terminal)
        lines = ended.errors.splitlines()
        problem = drill.compare(2, folder) if ended.status == 0 else ended.errors
        if not all(line.startswith("warning: restart ") for line in lines):
            problem = f"more on the terminal than restarts: {ended.errors[:500]!r}"
        for _ in range(killed):
            drill.note(MOMENTS[3], problem)


@contextlib.contextmanager
def _small_disk(folder: Path, size: int) -> Iterator[bool]:
    """A disk of the given size at the folder, where this process may mount one."""
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    mounted = os.geteuid() == 0 and subprocess.run(mount, capture_output=True).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)


def disk(drill: Drill, count: int) -> None:
    """A disk that is full at a random byte; then there is room again, and the run goes on."""
    front = drill.fronts[1]
    whole = drill.folder / "whole1"
    used = sum(path.stat().st_size for path in whole.rglob("*") if path.is_file())
    for number in range(count):
        root = drill.new()
        if number % 2:
            size = drill.random.randrange(1 << 16, used)
            limit = None
        else:
            size = 1 << 30
            most = drill.random.randrange(front.last(whole).stat().st_size)
            limit = lambda most=most: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))  # noqa: E731
        with _small_disk(root, size) as mounted:
            if number % 2 and not mounted:
                drill.note("disk full", "no small disk can be mounted here; run it as root")
                continue
            folder = root / "run"
            ended = run(front.command(folder), drill.folder / "terminal", limit)
            problem = one_error_line(ended, str(root))
            progress(front, folder)  # raises if what is there cannot be read
            partial = [path.name for path in folder.rglob(".*")]
            problem = f"left {partial}" if partial and not problem else problem
            if mounted:
                subprocess.run(["mount", "-o", "remount,size=1g", str(root)], check=True)
            ended = run(front.command(folder), drill.folder / "terminal")
            again = drill.compare(1, folder) if ended.status == 0 else ended.errors
            drill.note("disk full", problem or again)


def damage(drill: Drill, count: int) -> None:
    """Checkpoints cut off or with a flipped bit: refused in one line, or read as they were."""
    front = drill.fronts[1]
    half = drill.new()
    with started(front.command(half), drill.folder / "terminal") as process:
        while progress(front, half) < (EPOCHS // 2, 0):
            time.sleep(0.05)
        process.terminate()
        process.wait(timeout=600)
    content = front.last(half).read_bytes()
    for number in range(count):
        folder = drill.new()
        shutil.copytree(half, folder)
        changed = bytearray(content)
        if number % 2:
            changed[drill.random.randrange(len(content))] ^= 1 << drill.random.randrange(8)
        else:
            del changed[drill.random.randrange(len(content)) :]
        front.last(folder).write_bytes(bytes(changed))
        ended = run(front.command(folder), drill.folder / "terminal")
        if ended.status == 0:
            problem = drill.compare(1, folder)
        else:
            problem = one_error_line(ended, str(front.last(folder)))
            if front.last(folder).read_bytes() != bytes(changed):
                problem = "the damaged file was written over"
        drill.note("damaged checkpoint", problem)


def images(drill: Drill, count: int) -> None:
    """Images that vanish while training: one of a hundred is left out, more stop the run."""
    front = drill.fronts[2]
    for number in range(count):
        data, folder = drill.new(), drill.new()
        shutil.copytree(front.data, data)
        moving = Front(data, processes=2)
        files = drill.random.sample(sorted((data / "train").rglob("*.png")), 1 + number % 2 * 2)
        with started(moving.command(folder), drill.folder / "terminal") as process:
            while progress(moving, folder) < (1, 0) and process.poll() is None:
                time.sleep(0.05)
            for file in files:
                file.rename(file.with_suffix(".gone"))
            process.wait(timeout=600)
        ended = ending(process, drill.folder / "terminal")
        lines = ended.errors.splitlines()
        if len(files) == 1:
            left_out = json.loads((folder / "result.json").read_text())["unreadable"]
            # Each process that meets the file says so, in the same words.
            fine = ended.status == 0 and len(set(lines)) == 1 and left_out == [str(files[0])]
            drill.note("vanished image", None if fine else f"{ended.status}: {ended.errors!r}")
            continue
        errors = [line for line in lines if not line.startswith("warning: ")]
        fine = ended.status == 1 and len(errors) == 1 and errors[0].startswith("error: ")
        problem = None if fine else f"{ended.status}: {ended.errors!r}"
        for file in files:
            file.with_suffix(".gone").rename(file)
        trained_without = load_checkpoint(moving.last(folder))["unreadable"]
        resume = ["--resume", str(moving.last(folder))]
        ended = run(moving.command(folder, *resume), drill.folder / "terminal")
        again = drill.compare(2, folder) if ended.status == 0 else ended.errors
        if trained_without and ended.status == 0:  # within the limit, and told
            told = json.loads((folder / "result.json").read_text())["unreadable"]
            again = None if told == trained_without else f"trained without {trained_without}"
        drill.note("vanished image", problem or again)


def exits(drill: Drill, count: int) -> None:
    """Runs of two processes that nothing happens to end with status 0 and an empty error output."""
    front = drill.fronts[2]
    for _ in range(count):
        folder = drill.new()
        ended = run(front.command(folder, "-ep", "1"), drill.folder / "terminal")
        fine = ended.status == 0 and not ended.errors
        drill.note("run of two processes", None if fine else f"{ended.status}: {ended.errors!r}")
        shutil.rmtree(folder)


DRILLS: dict[str, tuple[Callable[[Drill, int], None], int]] = {
    "kills": (kills, 100),
    "disk": (disk, 20),
    "damage": (damage, 40),
    "images": (images, 6),
    "exits": (exits, 100),
}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("drills", nargs="*", metavar="DRILL", help=", ".join(DRILLS))
    parser.add_argument("--count", type=int, help="faults of each drill")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and the bytes")
    args = parser.parse_args(arguments)
    unknown = [name for name in args.drills if name not in DRILLS]
    if unknown:
        raise ValueError(f"faults: a drill must be one of {', '.join(DRILLS)}, got {unknown[0]!r}")
    chosen = args.drills or list(DRILLS)
    path = RESULTS / "faults.json"
    with tempfile.TemporaryDirectory() as folder:
        drill = Drill(Path(folder), args.seed)
        for name in chosen:
            function, count = DRILLS[name]
            function(drill, args.count or count)
    found = {
        kind: {"well": drill.good[kind], "problems": drill.bad.get(kind, [])}
        for kind in sorted({*drill.good, *drill.bad})
    }
    if args.count is None:
        kept = json.loads(path.read_text())["faults"] if path.is_file() else {}
        machine = dataclasses.asdict(Environment.collect("cpu", 1))
        text = json.dumps({"environment": machine, "faults": {**kept, **found}}, indent=2)
        write_text(path, text + "\n")
    for kind, counts in found.items():
        total = counts["well"] + len(counts["problems"])
        print(f"{kind}: {counts['well']} of {total}", *counts["problems"], sep="\n    ")
    return 1 if drill.bad else 0


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(sys.argv[1:])))
