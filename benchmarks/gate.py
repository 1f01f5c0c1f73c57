"""No speed for what does not work: the tests of an entry run before it does."""

import os
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run_tests(file: str) -> str | None:
    """Run one test file in a process of its own; returns the end of its output if it fails."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-m", "not slow"]
    command += ["--tb=short", "--show-capture=no", "-p", "no:cacheprovider", file]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    if done.returncode == 0:
        return None
    lines = (done.stdout + done.stderr).strip().splitlines()
    return "\n".join(lines[-15:]) or f"pytest ended with status {done.returncode}"


def failing(files: Iterable[str]) -> dict[str, str]:
    """Run each file once, before anything is timed; returns the output of those that fail."""
    distinct = list(dict.fromkeys(files))
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 4)) as pool:
        outputs = pool.map(run_tests, distinct)
    found = zip(distinct, outputs, strict=True)
    return {file: output for file, output in found if output is not None}
