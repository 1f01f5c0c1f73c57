import re
import sys
import tempfile

import pytest

from audited import draw
from shiftproof import cli
from shiftproof.results.audit import load_audit
from threads import one_thread

NETWORKS = """
import torch
from torch import nn
from shiftproof.nn import GlobalMean

def small():
    torch.manual_seed(0)
    first, second = nn.Conv2d(3, 3, 3, 2, 1), nn.Conv2d(3, 3, 3, 2, 1)
    return nn.Sequential(first, nn.ReLU(), second, GlobalMean())

class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = small()
    def forward(self, x):
        return {"logits": self.net(x), "hidden": x}

class Two(Named):
    def forward(self, x):
        return {"a": self.net(x), "b": self.net(x)}

class NaN(Named):
    def forward(self, x):
        return self.net(x) * torch.nan
"""


def start(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["shiftproof", *map(str, arguments)])
    with one_thread():
        return cli.main()


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "networks.py").write_text(NETWORKS)
    for name, mode in (("a/0.png", "RGB"), ("a/1.png", "L"), ("b/0.png", "RGB"), ("c/0.png", "L")):
        draw(tmp_path / "data" / name, len(name) + ord(name[0]), mode)
    draw(tmp_path / "one" / "grey.png", 5, "L")
    (tmp_path / "none").mkdir()
    yield tmp_path
    sys.modules.pop("networks", None)


def options(*more, data="data", out="audit.html"):
    return ["--data", data, "--out", out, "--size", 16, "--shifts", 4, "--step", 2, *more]


def test_an_audit_writes_a_page_and_its_numbers(place, monkeypatch, capsys):
    more = ("--against", "locked", "--images", 4, "--maps", 2)
    assert start(monkeypatch, "audit", "networks.py:small", *options(*more)) == 0
    output = capsys.readouterr().out
    (address,) = re.findall(r"report: (file://\S+audit\.html)", output)
    assert address == (place / "audit.html").as_uri()
    result = load_audit("audit.json")
    assert [n.kind for n in result.networks] == ["as it is", "locked"]
    assert (result.num_images, result.step, len(result.pictures)) == (4, 2, 2)
    assert "2 of 4 images are grey" in " ".join(result.notes)
    page = (place / "audit.html").read_text()
    assert (
        f"{result.networks[0].pan.changes.successes} of {result.networks[0].pan.changes.n}" in page
    )


@pytest.mark.parametrize(
    ("network", "data", "hole"),
    [
        ("Named", "one", "the images have no class folders"),
        ("NaN", "data", "no picture has an answer: the logits are not finite"),
    ],
)
def test_odd_input_leaves_marked_holes(place, monkeypatch, capsys, network, data, hole):
    arguments = options("--against", "", data=data)
    assert start(monkeypatch, "audit", f"networks.py:{network}", *arguments) == 0
    assert hole in (place / "audit.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (options(data="none"), "audit: the folder must hold images, or class folders of images"),
        (options(data="nowhere"), "audit: the folder of images must exist, got nowhere"),
        (options(out="no/audit.html"), "no/audit.html: the file must be writable"),
        (options(out="data"), "data: --out must name a file, got a folder"),
        (options(out="audit.json"), "audit.json: --out must end in .html"),
        (options("--images", 0), "audit: --images must be at least 1, got 0"),
        (options("--step", 0), "audit: --step must be at least 1, got 0"),
        (options("--std", 0), "--std: must be 1 or 3 numbers, above 0"),
        (["--data", "data", "--size", 1], "networks.py:Two: the network must return logits"),
    ],
)
def test_bad_input_is_one_line(place, monkeypatch, capsys, arguments, message):
    assert start(monkeypatch, "audit", "networks.py:Two", *arguments) == 1
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.startswith(f"error: {message}")
    assert errors.count("\n") == 1
    assert not list(place.glob("*.html"))


def test_a_folder_without_permission_is_one_line(place, monkeypatch, capsys):
    def refuse(**kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    assert start(monkeypatch, "audit", "networks.py:small", *options()) == 1
    errors = capsys.readouterr().err
    assert "audit.html: the file must be writable, got Permission denied; choose a folder" in errors
    assert errors.count("\n") == 1


def test_unknown_remedies_are_named(place, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        start(monkeypatch, "audit", "networks.py:small", *options("--against", "glued"))
    assert "'glued' is none of locked, converted" in capsys.readouterr().err


def test_a_report_needs_runs(place, monkeypatch, capsys):
    assert start(monkeypatch, "report", "none", "--out", "report.html") == 1
    assert "report: a run must be a result.json or a folder" in capsys.readouterr().err
