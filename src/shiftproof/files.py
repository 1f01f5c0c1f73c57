"""Files written whole or not at all, and what the system says when they cannot be."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

_WAYS_OUT = {
    code: way_out
    for codes, way_out in (
        ((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "make room or write to another disk"),
        ((errno.ENOENT, errno.ENOTDIR), "make its folder first"),
        ((errno.EACCES, errno.EPERM, errno.EROFS), "choose a folder that you may write to"),
        ((errno.EISDIR,), "choose another name, this one is a folder's"),
    )
    for code in codes
}


@contextlib.contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Raise what the system says of a write in one line that names the file.

    Args:
        path: The file, or the folder of several.

    Raises:
        RuntimeError: If the system does not let the block write.
    """
    try:
        yield
    except OSError as error:
        way_out = _WAYS_OUT.get(error.errno or 0, "write to another disk")
        raise RuntimeError(
            f"{path}: the file must be writable, got {error.strerror or error}; {way_out}, and run "
            "the command again"
        ) from error


class _Remembering(io.FileIO):
    """A file that keeps the system's error, of which torch's writer raises another."""

    error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.error = error
            raise


_PARTIAL = ".partial"


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Write a file so that a reader sees the old content or the new, never a part.

    Args:
        path: File to write; its folder must exist.

    Yields:
        A file that takes the place of ``path`` once everything in it has reached the disk; after an
        error the old one stays.

    Raises:
        RuntimeError: If it cannot be written, with the path and the system's reason.
    """
    path = Path(path)
    with writing(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        handle, temporary = tempfile.mkstemp(_PARTIAL, f".{path.name}.", path.parent)
    raw = _Remembering(handle, "wb")
    try:
        with io.BufferedWriter(raw) as file:
            yield file
            with writing(path):
                file.flush()
                os.fsync(file.fileno())
        mask = os.umask(0)  # the only way to read it
        os.umask(mask)
        with writing(path):
            Path(temporary).chmod(0o666 & ~mask)
            Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        if raw.error is not None:
            with writing(path):
                raise raw.error from None
        raise
    if os.name == "posix":  # elsewhere a folder cannot be opened
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the new name is an entry of the folder, with a life of its own
        finally:
            os.close(folder)


def remove_partial(folder: str | os.PathLike[str]) -> None:
    """Remove what ``replacing`` was writing in a folder when its process was killed.

    Args:
        folder: The folder; no other process may be writing to it.  It may be missing.
    """
    for path in Path(folder).glob(f".*{_PARTIAL}"):
        path.unlink(missing_ok=True)


def find_damage(path: str | os.PathLike[str]) -> str | None:
    """Compare the content of a ``torch.save`` file with its checksums, which torch passes over.

    Args:
        path: The file, an archive.

    Returns:
        What is wrong with it, in a few words; ``None`` if all content is as it was written, or the
        file was written without checksums.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            known = any(entry.CRC for entry in archive.infolist())  # torch can leave them out
            entry = archive.testzip() if known else None
    except Exception as error:  # zipfile raises what broken bytes happen to trip over
        return f"cut off or something else: {error}"
    return None if entry is None else f"changed since it was written: checksum of {entry}"


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file, whole or not at all.

    Args:
        path: File to write; its folder must exist.
        text: New content.
    """
    with replacing(path) as file:
        file.write(text.encode())
