"""The guide to measuring names what there is, and its example runs."""

import re
from pathlib import Path

import torch

from shiftproof import metrics
from shiftproof.metrics import accumulate
from threads import one_thread

GUIDE = (Path(__file__).parents[2] / "docs/guide/measure.md").read_text(encoding="utf-8")


def rows(heading):
    table = GUIDE.partition(f"## {heading}\n")[2].partition("\n\n##")[0]
    return [line.split("|")[1:-1] for line in table.splitlines() if line.startswith("| `")]


def named(cell):
    return re.findall(r"`([\w-]+)`", cell)


def test_every_protocol_is_in_the_table():
    found = [name for row in rows("Which images share a shift") for name in named(row[0])]
    assert sorted(found) == sorted(metrics.PROTOCOLS)


def test_every_measurement_and_twin_is_in_the_table():
    table = rows("Which measurement says what")
    functions = {name for row in table for name in named(row[0])}
    twins = {name for row in table for name in named(row[2])}
    assert functions <= set(metrics.__all__)
    assert twins == set(accumulate.__all__)


def test_the_example_runs(capsys):
    code = GUIDE.partition("```python\nimport shiftproof\n")[2].partition("```")[0]
    torch.manual_seed(0)
    with one_thread():
        exec(compile("import shiftproof\n" + code, "measure.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert "embedding cosine (circular)" in lines[0]
    assert "value=1.0" in lines[0]
    assert float(lines[1]) < -100
