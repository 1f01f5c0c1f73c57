import ast
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

from finished import result
from shiftproof import report
from shiftproof.report import (
    DEMO_COLUMNS,
    demo_rows,
    markdown_table,
    plot_accuracy_over_shifts,
    plot_history,
    print_table,
)

PNG = b"\x89PNG\r\n\x1a\n"


def assert_pictures(paths):
    assert all(path.read_bytes().startswith(PNG) for path in paths)
    assert not plt.get_fignums(), "a figure was left open"


@pytest.mark.parametrize("consistency", [True, False])
def test_a_history_is_drawn(tmp_path, consistency):
    paths = plot_history(result(consistency=consistency), tmp_path)
    names = ["loss.png", "accuracy.png", "consistency.png"][: 2 + consistency]
    assert paths == [tmp_path / name for name in names]
    assert_pictures(paths)


def test_a_run_without_epochs_has_no_history(tmp_path):
    with pytest.raises(ValueError, match="at least one epoch, got none of tiny; pass the result"):
        plot_history(result(epochs=0), tmp_path)
    assert not list(tmp_path.iterdir())


def test_accuracy_over_shifts_is_drawn(tmp_path):
    path = plot_accuracy_over_shifts([result(), result(stride=3)], tmp_path / "a.png")
    assert path == tmp_path / "a.png"
    assert_pictures([path])


def test_accuracy_over_shifts_needs_a_result(tmp_path):
    with pytest.raises(ValueError, match="there must be at least one result, got none; train a"):
        plot_accuracy_over_shifts([], tmp_path / "a.png")


@pytest.mark.parametrize("draw", [plot_history, lambda r, p: plot_accuracy_over_shifts([r], p)])
def test_without_matplotlib_the_extra_is_named(tmp_path, monkeypatch, draw):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(RuntimeError, match=r"pip install 'shiftproof\[report\]'"):
        draw(result(), tmp_path)


def test_a_table_in_markdown():
    assert markdown_table(("network", "accuracy"), [("a", "1.00 %"), ("b", "2.00 %")]) == (
        "| network | accuracy |\n| --- | ---: |\n| a | 1.00 % |\n| b | 2.00 % |\n"
    )


def test_the_demonstrations_rows():
    (row,) = demo_rows([result()])
    assert row == ("tiny", "12,345", "70.00 %", "80.00 %", "60.00 %", "1.2")
    assert len(row) == len(DEMO_COLUMNS)


def test_a_table_is_printed_whole_into_a_pipe(capsys):
    row = (f"a name of {'x' * 24}", *demo_rows([result()])[0][1:])
    print_table(DEMO_COLUMNS, [row])
    printed = capsys.readouterr().out
    assert all(cell in printed for cell in (*DEMO_COLUMNS, *row))


def test_without_rich_the_extra_is_named(monkeypatch):
    for name in ("rich", "rich.table"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(RuntimeError, match=r"pip install 'shiftproof\[train\]'"):
        print_table(("a",), [("b",)])


def test_a_report_reads_results_and_nothing_else():
    for path in Path(report.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = [node.module or "."]
            else:
                continue
            for module in modules:
                allowed = ("shiftproof.results", "shiftproof.extras", "shiftproof.report")
                top = module.partition(".")[0]
                assert top in sys.stdlib_module_names or module.startswith(allowed), path
