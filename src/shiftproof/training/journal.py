"""What a run says: on the terminal, in ``log.jsonl``, and to TensorBoard."""

import contextlib
import csv
import io
import json
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Protocol

from shiftproof.extras import require
from shiftproof.files import write_text, writing


class Advance(Protocol):
    """Moves a progress display on by one step."""

    def __call__(self, status: str = "") -> None:
        """Count one step.

        Args:
            status: What to show beside the count, for instance the loss.
        """
        ...


def _rich(module: str) -> Any:
    """A module of rich, or None where plain lines must do."""
    if not sys.stdout.isatty():
        return None
    try:
        return require(module, extra="train")
    except RuntimeError:
        return None


def _open_log(path: Path, position: int | None) -> BinaryIO:
    """Open for appending, with everything after the position cut off."""
    file = path.open("a+b")
    size = file.seek(0, os.SEEK_END)
    keep = min(position or 0, size)
    file.seek(0)
    kept = file.read(keep)
    # The file may be another one than at the time of the checkpoint: keep whole lines only.
    file.truncate(kept.rfind(b"\n") + 1)
    file.seek(0, os.SEEK_END)
    return file


def _last_step(file: BinaryIO) -> int | None:
    file.seek(0)
    steps = [json.loads(line)["step"] for line in file]
    return max(steps, default=None)


class Journal:
    """The terminal and the logs of a run; silent on every process but the first.

    Attributes:
        folder: Where ``log.jsonl`` and the folder ``tensorboard`` are.
        enabled: Whether this process prints and writes.
        print_every: Steps between two lines of progress where there is no terminal.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder, Journal(folder, tensorboard=False) as log:
        ...     log.scalars("train", epoch=0, step=1, values={"loss": 2.5})
        ...     log.line("epoch 0: loss 2.5")
        epoch 0: loss 2.5
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        enabled: bool = True,
        print_every: int = 100,
        position: int | None = None,
        tensorboard: bool = True,
    ) -> None:
        """Open the logs.

        Args:
            folder: Where the logs go; created if it is missing.
            enabled: False on every process but the first.
            print_every: Steps between two lines of progress where there is no terminal.
            position: When resuming, what ``position()`` gave at the time of the checkpoint: later
                events are removed, because they will come again.  ``None`` starts anew.
            tensorboard: Whether to write TensorBoard's files too.

        Raises:
            ValueError: If ``print_every`` is less than 1.
            RuntimeError: If the logs cannot be written.
        """
        if print_every < 1:
            raise ValueError(
                f"Journal: print_every must be at least 1 step, got {print_every}; "
                "pass a large number for few lines"
            )
        self.folder = Path(folder)
        self.enabled = enabled
        self.print_every = print_every
        self._file: BinaryIO | None = None
        self._writer: Any = None
        self._console: Any = None
        if not enabled:
            return
        console = _rich("rich.console")
        self._console = None if console is None else console.Console()
        with writing(self.path):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._file = _open_log(self.path, position)
        if tensorboard:
            with writing(self.folder / "tensorboard"):
                self._writer = self._open_tensorboard(_last_step(self._file))

    @property
    def path(self) -> Path:
        """The log of events."""
        return self.folder / "log.jsonl"

    def _open_tensorboard(self, last_step: int | None) -> Any:
        try:
            require("tensorboard", extra="train")
        except RuntimeError as error:
            self.line(f"note: no TensorBoard files are written ({error})")
            return None
        module = require("torch.utils.tensorboard", extra="train")
        # Has TensorBoard forget what an earlier or interrupted run told it of later steps.
        purge = 0 if last_step is None else last_step + 1
        return module.SummaryWriter(str(self.folder / "tensorboard"), purge_step=purge)

    def line(self, text: str) -> None:
        """Print a line, above the progress bar if there is one.

        Args:
            text: The line.
        """
        if not self.enabled:
            return
        if self._console is None:
            print(text, flush=True)
        else:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def scalars(self, kind: str, epoch: int, step: int, values: Mapping[str, float]) -> None:
        """Log numbers measured at one point of the run.

        Args:
            kind: What they are about, for instance ``"train"``.
            epoch: Epoch, from 0.
            step: Optimiser steps since the start of the run.
            values: The numbers by name; those that are not finite become ``null`` in the log.

        Raises:
            RuntimeError: If the logs cannot be written.
        """
        if self._file is None:
            return
        finite = {name: v if math.isfinite(v) else None for name, v in values.items()}
        event = {"kind": kind, "epoch": epoch, "step": step, "time": time.time(), "values": finite}
        with writing(self.path):
            self._file.write(json.dumps(event, allow_nan=False).encode() + b"\n")
            self._file.flush()
        if self._writer is not None:
            with writing(self.folder / "tensorboard"):
                for name, value in values.items():
                    self._writer.add_scalar(f"{kind}/{name}", value, step)

    def position(self) -> int:
        """How far the log reaches now, on the disk: what a checkpoint must remember.

        Returns:
            The length of ``log.jsonl`` in bytes; 0 on a process that does not write.

        Raises:
            RuntimeError: If the logs cannot be written.
        """
        if self._file is None:
            return 0
        if self._writer is not None:
            with writing(self.folder / "tensorboard"):
                self._writer.flush()
        with writing(self.path):
            os.fsync(self._file.fileno())
        return self._file.tell()

    @contextlib.contextmanager
    def progress(self, total: int, description: str, *, done: int = 0) -> Iterator[Advance]:
        """Show how far something has come: a bar on a terminal, now and then a line elsewhere.

        Args:
            total: Number of steps.
            description: What is being done, for instance ``"epoch 3"``.
            done: Steps already done, when resuming.

        Yields:
            A function to call after each step.
        """
        if not self.enabled:
            yield lambda status="": None
            return
        if self._console is not None:
            with self._bar(total, description, done) as advance:
                yield advance
            return
        start = time.monotonic()

        def advance_line(status: str = "") -> None:
            nonlocal done
            done += 1
            if done % self.print_every == 0 or done == total:
                seconds = time.monotonic() - start
                self.line(f"{description}  {done}/{total}  {seconds:.1f} s  {status}".rstrip())

        yield advance_line

    @contextlib.contextmanager
    def _bar(self, total: int, description: str, done: int) -> Iterator[Advance]:
        rich = require("rich.progress", extra="train")
        columns = (
            rich.TextColumn("{task.description}", markup=False),
            rich.BarColumn(),
            rich.MofNCompleteColumn(),
            rich.TimeRemainingColumn(),
            rich.TextColumn("{task.fields[status]}", markup=False),
        )
        with rich.Progress(*columns, console=self._console, transient=True) as bar:
            task = bar.add_task(description, total=total, completed=done, status="")

            def advance(status: str = "") -> None:
                bar.update(task, advance=1, status=status)

            yield advance

    def close(self) -> None:
        """Close the logs; what is already written stays.

        Raises:
            RuntimeError: If what is still to be written cannot be.
        """
        file, writer, self._file, self._writer = self._file, self._writer, None, None
        if file is not None:
            with writing(self.path):
                file.close()
        if writer is not None:
            with writing(self.folder / "tensorboard"):
                writer.close()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(*([] if error is None else [RuntimeError])):
            self.close()  # a full disk would be told once more


def write_csv(path: str | os.PathLike[str], rows: Sequence[Mapping[str, object]]) -> None:
    """Write a table so that a reader sees the old one or the new one, never a part.

    Args:
        path: File to write; its folder must exist.
        rows: One mapping from column to value per row.  The columns are those of all rows, in the
            order in which they first occur; a value that a row lacks is left empty.
    """
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    table = csv.DictWriter(text, columns, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write_text(path, text.getvalue())
