import csv
import importlib
import io
import json
import math
import sys
import time
from pathlib import Path

import pytest

from shiftproof import extras
from shiftproof.training.journal import Journal, write_csv


def events(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def points(folder):
    return [(e["kind"], e["epoch"], e["step"], e["values"]) for e in events(folder)]


def tensorboard_steps(folder, tag):
    accumulators = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    accumulator = accumulators.EventAccumulator(str(folder / "tensorboard"))
    accumulator.Reload()
    return [event.step for event in accumulator.Scalars(tag)]


def next_second():
    """TensorBoard reads files in the order of their names, which tell whole seconds."""
    time.sleep(1 - time.time() % 1)


def log_steps(journal, steps):
    for step in steps:
        journal.scalars("train", epoch=step // 10, step=step, values={"loss": 1.0 / step})


def test_events_are_on_the_disk_at_once(tmp_path):
    with Journal(tmp_path / "new" / "run", tensorboard=False) as journal:
        journal.scalars("train", epoch=0, step=3, values={"loss": 0.5, "top-1": math.nan})
        journal.scalars("val", epoch=0, step=3, values={"loss": math.inf})
        assert points(tmp_path / "new" / "run") == [
            ("train", 0, 3, {"loss": 0.5, "top-1": None}),
            ("val", 0, 3, {"loss": None}),
        ]


def test_resuming_repeats_no_event(tmp_path):
    with Journal(tmp_path) as journal:
        log_steps(journal, range(1, 5))
        position = journal.position()
        log_steps(journal, range(5, 8))  # after the checkpoint; the run is then killed
    next_second()
    with Journal(tmp_path, position=position) as journal:
        log_steps(journal, range(5, 11))
    assert [event["step"] for event in events(tmp_path)] == list(range(1, 11))
    assert tensorboard_steps(tmp_path, "train/loss") == list(range(1, 11))


def test_starting_anew_forgets_what_was_there(tmp_path):
    for last in (9, 4):
        next_second()
        with Journal(tmp_path) as journal:
            log_steps(journal, range(1, last))
    assert [event["step"] for event in events(tmp_path)] == [1, 2, 3]
    assert tensorboard_steps(tmp_path, "train/loss") == [1, 2, 3]


def test_a_log_of_another_run_is_cut_at_a_whole_line(tmp_path):
    with Journal(tmp_path, tensorboard=False) as journal:
        log_steps(journal, range(1, 4))
        position = journal.position()
    with Journal(tmp_path, tensorboard=False, position=position - 5) as journal:
        assert [event["step"] for event in events(tmp_path)] == [1, 2]
    with Journal(tmp_path, tensorboard=False, position=10**6) as journal:
        log_steps(journal, [3])
    assert [event["step"] for event in events(tmp_path)] == [1, 2, 3]


def test_other_processes_say_and_write_nothing(tmp_path, capsys):
    with Journal(tmp_path / "run", enabled=False) as journal:
        journal.line("text")
        journal.scalars("train", 0, 1, {"loss": 1.0})
        with journal.progress(2, "epoch 0") as advance:
            advance()
            advance("loss 1.0")
        assert journal.position() == 0
    assert not (tmp_path / "run").exists()
    assert capsys.readouterr().out == ""


def test_without_a_terminal_progress_is_a_line_now_and_then(tmp_path, capsys):
    with Journal(tmp_path, tensorboard=False, print_every=3) as journal:
        with journal.progress(8, "epoch 0", done=1) as advance:
            for step in range(1, 8):
                advance(f"loss {step}")
        journal.line("[bold] is no markup")
    lines = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
    assert [(line[0], line[1], line[3]) for line in lines[:-1]] == [
        ("epoch 0", "3/8", "loss 2"),
        ("epoch 0", "6/8", "loss 5"),
        ("epoch 0", "8/8", "loss 7"),
    ]
    assert lines[-1] == ["[bold] is no markup"]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_on_a_terminal_lines_stand_above_a_bar(tmp_path, monkeypatch):
    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", terminal)
    journal = Journal(tmp_path, tensorboard=False, print_every=1)
    with journal, journal.progress(2, "epoch [0]", done=1) as advance:
        journal.line("[bold] is no markup, 3.5")
        advance("loss 0.25")
    text = terminal.getvalue()
    assert "[bold] is no markup, 3.5\n" in text
    assert "epoch [0]" in text
    assert "2/2" in text
    assert "loss 0.25" in text


def without(package, monkeypatch):
    find = importlib.import_module

    def find_but_one(name, *args):
        if name.split(".")[0] == package:
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)
        return find(name, *args)

    monkeypatch.setattr(extras.importlib, "import_module", find_but_one)


def test_without_tensorboard_there_is_one_note(tmp_path, monkeypatch, capsys):
    without("tensorboard", monkeypatch)
    with Journal(tmp_path) as journal:
        log_steps(journal, range(1, 4))
    text = capsys.readouterr().out
    assert text.count("note: no TensorBoard files are written") == 1
    assert "pip install 'shiftproof[train]'" in text
    assert len(events(tmp_path)) == 3


def test_without_rich_a_terminal_gets_lines(tmp_path, monkeypatch):
    without("rich", monkeypatch)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    journal = Journal(tmp_path, tensorboard=False, print_every=1)
    with journal, journal.progress(1, "epoch 0") as advance:
        advance()
    assert terminal.getvalue().startswith("epoch 0  1/1")


def test_print_every_must_be_positive(tmp_path):
    with pytest.raises(ValueError, match=r"print_every must be at least 1 step, got 0"):
        Journal(tmp_path, print_every=0)


def test_a_table_has_the_columns_of_all_rows(tmp_path):
    path = tmp_path / "epochs.csv"
    write_csv(path, [{"epoch": 0, "lr": 0.1}, {"epoch": 1, "lr": 0.01, "top-1": 0.5}])
    assert path.read_text() == "epoch,lr,top-1\n0,0.1,\n1,0.01,0.5\n"
    with path.open() as file:
        assert next(csv.DictReader(file))["lr"] == "0.1"


@pytest.mark.parametrize("tensorboard", [False, True])
def test_a_log_that_cannot_be_written_is_named(tmp_path, tensorboard):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(RuntimeError, match=r"file.log.jsonl: .* got (Not a d|File exists)"):
        Journal(tmp_path / "file", tensorboard=tensorboard)
    (tmp_path / "log.jsonl").mkdir()
    with pytest.raises(RuntimeError, match=r"log.jsonl: the file must be writable, got Is a dir"):
        Journal(tmp_path, tensorboard=tensorboard)


def test_a_full_disk_is_told_with_the_name_of_the_log(tmp_path):
    journal = Journal(tmp_path, tensorboard=False)
    journal._file.close()
    journal._file = Path("/dev/full").open("wb")  # noqa: SIM115
    message = r"log.jsonl: .* got No space left on device; make room"
    with pytest.raises(RuntimeError, match=message), journal:
        journal.scalars("train", epoch=0, step=1, values={"loss": 1.0})


def test_a_table_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "epochs.csv"
    write_csv(path, [{"epoch": 0}])

    def refuse(handle):
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", refuse)
        with pytest.raises(RuntimeError, match=r"epochs.csv: .* got no space left"):
            write_csv(path, [{"epoch": 0}, {"epoch": 1}])
    assert path.read_text() == "epoch\n0\n"
    assert [file.name for file in tmp_path.iterdir()] == ["epochs.csv"]
