import contextlib
import errno
import io
import os
import re
import resource
import shutil
import stat
import subprocess
import sys

import pytest
import torch

from shiftproof.files import remove_partial, replacing, write_text


def test_write_replaces_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "result.json"
    write_text(path, "old")
    write_text(path, "new ü\n")
    assert path.read_text(encoding="utf-8") == "new ü\n"
    assert list(tmp_path.iterdir()) == [path]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


@contextlib.contextmanager
def largest_file(size):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def by_torch(path):
    with replacing(path) as file:
        torch.save({"w": torch.zeros(100_000)}, file)


def by_copying(path):
    with replacing(path) as file:
        shutil.copyfileobj(io.BytesIO(bytes(400_000)), file)


WRITERS = [by_torch, by_copying, lambda path: write_text(path, "x" * 400_000)]


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("size", [0, 1, 5_000, 300_000])
def test_a_full_disk_is_told_in_one_line_with_path_and_reason(tmp_path, write, size):
    path = tmp_path / "checkpoint.pt"
    path.write_text("old")
    message = (
        r"checkpoint.pt: the file must be writable, got File too large; make room or .* again$"
    )
    with pytest.raises(RuntimeError, match=message) as raised, largest_file(size):
        write(path)
    assert "\n" not in str(raised.value)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing/file", "No such file or directory; make its folder first"),
        ("file/below", "Not a directory; make its folder first"),
        ("folder", "Is a directory; choose another name"),
    ],
)
def test_a_place_that_cannot_be_written_is_told_so(tmp_path, write, name, reason):
    (tmp_path / "file").write_text("kept")
    (tmp_path / "folder").mkdir()
    with pytest.raises(RuntimeError, match=f"{name}: the file must be writable, got {reason}"):
        write(tmp_path / name)
    assert sorted(entry.name for entry in tmp_path.rglob("*")) == ["file", "folder"]


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.EDQUOT, errno.EIO])
def test_every_reason_of_the_system_is_named(tmp_path, monkeypatch, code):
    def refuse(*_args, **_kwargs):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("tempfile.mkstemp", refuse)
    with pytest.raises(RuntimeError, match=f"got {re.escape(os.strerror(code))}; ") as raised:
        write_text(tmp_path / "note", "text")
    assert raised.value.__cause__.errno == code


def test_an_error_of_the_writer_itself_is_left_as_it_is(tmp_path):
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "note"):
        1 / 0  # noqa: B018
    with pytest.raises(FileNotFoundError, match="source"), replacing(tmp_path / "note"):
        (tmp_path / "source").read_bytes()
    assert not list(tmp_path.iterdir())


def test_what_a_killed_process_was_writing_is_removed(tmp_path):
    code = (
        "import os, signal, sys\n"
        "from shiftproof.files import replacing\n"
        "with replacing(sys.argv[1]) as file:\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    (tmp_path / ".keep.me").write_text("kept")
    subprocess.run([sys.executable, "-c", code, tmp_path / "last.pt"])
    assert len(list(tmp_path.iterdir())) == 2
    remove_partial(tmp_path)
    remove_partial(tmp_path / "missing")
    assert [path.name for path in tmp_path.iterdir()] == [".keep.me"]


def test_text_that_cannot_be_encoded_keeps_the_old_file(tmp_path):
    path = tmp_path / "note.txt"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "\ud800")
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]
