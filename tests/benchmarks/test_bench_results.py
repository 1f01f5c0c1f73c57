import dataclasses
import json

import pytest

from benchmarks import __main__ as command
from benchmarks.bars import BARS, FLOOR, Bar, ratio, recipe_throughput, verdicts
from benchmarks.entries_training import DEFAULT, LADDER, NAME
from benchmarks.entry import Candidate, Entry, Prepared, Setup
from benchmarks.measured import Measured, Report, Row, Spread
from benchmarks.page import write_page
from shiftproof.results import Environment

TESTS = ["tests/a.py"]


def op_entry(name="ops/select_and_take/32x64x112x112/float32", point=None):
    rows = [
        Row("plain stride", "NCHW", [1.0, 2.0, 4.0], 1.0, 6.5, 10),
        Row("plain stride", "channels_last", [0.5, 1.0, 2.0], 1.0, 6.5, 10),
        Row("ours", "NCHW", [0.75, 1.5, 3.0], 1.0, 0.0, 20),
        Row("published", "NCHW", [6.0, 12.0, 24.0], 1.0, 0.0, 40),
    ]
    return Measured(
        name,
        "keep a component, 1x2x4x4 float32",
        "plain stride",
        TESTS,
        rows,
        map_bytes=100,
        floor_bytes=50,
        copy_seconds=[1.0, 2.0, 4.0],
        point=point,
    )


def training_entry():
    rows = [Row(DEFAULT, "", [1.0, 1.0], 1.0)]
    rows += [
        Row(name, "", [4.0 - step, 4.0 - step], 1000.0) for step, name in enumerate(LADDER[:4])
    ]
    rows += [Row(LADDER[4], "", [0.5, 0.5], 1000.5)]
    return Measured(NAME, "training", LADDER[0], TESTS, rows, images=100)


def report(*entries):
    environment = Environment.collect("cpu", 2)
    return Report("2026-01-01", environment, "a processor", "kept", False, 1.0, list(entries))


def test_ratios_are_taken_within_rounds_to_the_best_layout():
    entry = op_entry()
    assert entry.best("plain stride").variant == "channels_last"
    assert entry.best("ours").over(entry.best("plain stride")) == Spread(1.5, 1.5, 1.5)
    # Half the bytes of the map, at 200 bytes per second in the first round: 0.25 s.
    assert entry.floor_ratio(entry.best("ours")) == Spread(3.0, 3.0, 3.0)
    with pytest.raises(ValueError, match="group must be one of plain stride, ours, published, got"):
        entry.best("theirs")


def test_a_report_comes_back_as_it_was_saved(tmp_path):
    saved = report(op_entry(), training_entry())
    path = tmp_path / "new" / "result.json"
    saved.save(path)
    assert Report.load(path) == saved
    data = json.loads(path.read_text())
    assert data["entries"][0]["rows"][2]["derived"]["ratio_to_baseline"]["median"] == 1.5
    path.write_text(json.dumps({**data, "schema": 0}))
    with pytest.raises(ValueError, match="schema must be 1, got 0"):
        Report.load(path)


def test_bars_are_judged_by_time_memory_and_floor():
    entry = op_entry()
    faster = Bar("", entry.name, "published", "ours", 5.0, at_least=True)
    assert ratio(entry, faster) == Spread(8.0, 8.0, 8.0)
    assert ratio(entry, Bar("", entry.name, "ours", FLOOR, 2.0)) == Spread(3.0, 3.0, 3.0)
    smaller = Bar("", entry.name, "ours", "published", 1.0, "memory")
    assert ratio(entry, smaller) == Spread(0.5, 0.5, 0.5)
    assert ratio(entry, Bar("", entry.name, "ours", "missing", 1.0)) is None
    met = {verdict.bar.what: verdict.met for verdict in verdicts(report(entry))}
    assert met == {
        "select and take 32x64x112x112 / floor": False,
        "select and take 32x64x112x112, published / ours": True,
        "largest error of any aps, pa or op of ours": True,
    }
    slower = dataclasses.replace(verdicts(report(entry))[1], spread=Spread(4.0, 4.0, 4.0))
    assert not slower.met
    assert dataclasses.replace(slower, to_floor=Spread(1.4, 1.4, 1.4)).met


def test_an_error_beyond_rounding_misses_its_bar():
    entry = op_entry()
    rows = [dataclasses.replace(row, error=0.1) for row in entry.rows if row.group == "ours"]
    (verdict,) = verdicts(report(dataclasses.replace(entry, name="ops/other", rows=rows)))
    assert not verdict.met


def test_compiling_counts_over_the_short_recipe():
    entry = training_entry()
    speeds = recipe_throughput(entry)
    assert speeds[DEFAULT] == [100.0, 100.0]
    # 900 epochs of half a second, and 1000 seconds before them.
    assert speeds[LADDER[4]] == [pytest.approx(90_000 / 1450)] * 2
    (verdict,) = verdicts(report(entry))
    assert verdict.met
    assert LADDER[3] in verdict.bar.what


def test_every_bar_and_step_of_the_ladder_is_measured():
    entries = {entry.name: entry for entry in command.suite(Setup())}
    groups = {name: {one.group for one in entry.candidates} for name, entry in entries.items()}
    for bar in BARS:
        assert {bar.group, bar.over} - {FLOOR} <= groups[bar.entry]
    assert {DEFAULT, *LADDER} <= groups[NAME]
    assert all(entry.baseline in groups[name] for name, entry in entries.items())
    assert all(
        (command.RESULTS.parents[1] / f).is_file() for e in entries.values() for f in e.tests
    )


def test_the_page_holds_the_numbers_and_the_figures(tmp_path):
    growth = [op_entry(f"growth/batch/{n}", ["batch", n]) for n in (1, 2)]
    failed = dataclasses.replace(op_entry("ops/pad/1"), rows=[], failure="it broke")
    models = dataclasses.replace(op_entry("models/resnet18/forward"), floor_bytes=None)
    page = write_page(report(op_entry(), *growth, models, training_entry(), failed), tmp_path)
    text = page.read_text()
    assert "| ours | NCHW * | 1.50 (1.50 to 1.50) | 1,500 | 3.00 | 0.0 | 0 |" in text
    assert (
        "| select_and_take/32x64x112x112/float32 | plain stride | 1.50 (1.50 to 1.50) | 6.5 |"
        in text
    )
    assert "No numbers: it fails" in text
    assert "it broke" in text
    names = {path.name for path in (tmp_path / "benchmarks").iterdir()}
    assert names == {"models.png", "training.png", "growth.png"}
    assert all(f"(benchmarks/{name})" in text for name in names)


def fake_entry(name, run=lambda: None, tests=()):
    candidate = Candidate("plain", "", lambda: Prepared(run))
    return Entry(name, "work", (candidate,), "plain", tests, memory=False)


def broken():
    raise ArithmeticError("no result")


def test_an_entry_whose_tests_fail_has_no_number_and_the_others_have(tmp_path, monkeypatch, capsys):
    bad = tmp_path / "test_bad.py"
    bad.write_text("def test_no():\n    assert 1 == 2\n")
    good = tmp_path / "test_good.py"
    good.write_text("def test_yes():\n    pass\n")
    entries = [
        fake_entry("a/one", tests=(str(bad), str(good))),
        fake_entry("a/two", tests=(str(good),)),
        fake_entry("a/three", broken),
    ]
    monkeypatch.setattr(command, "suite", lambda setup: entries)
    monkeypatch.setattr(command, "keep_freed_memory", lambda: True)
    arguments = ["benchmarks", "--out", str(tmp_path), "--rounds", "3"]
    monkeypatch.setattr("sys.argv", arguments)
    assert command.main() == 1
    assert "assert 1 == 2" in capsys.readouterr().out
    (path,) = tmp_path.glob("*-cpu.json")
    one, two, three = Report.load(path).entries
    assert "assert 1 == 2" in one.failure
    assert not one.rows
    assert two.failure is None
    assert len(two.rows[0].seconds) == 3
    assert "no result" in three.failure
    monkeypatch.setattr("sys.argv", [*arguments, "a/two"])
    assert command.main() == 0
    assert len(list(tmp_path.glob("*-cpu-selection.json"))) == 1
    monkeypatch.setattr("sys.argv", [*arguments, "b/*"])
    assert command.main() == 1
    assert "a pattern must match an entry, got 'b/*'; try a/*" in capsys.readouterr().err
