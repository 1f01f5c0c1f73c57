import copy
import dataclasses
import json
import os
import signal
import time
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import shiftproof
from benchmarks import coverage as command
from benchmarks import coverage_models
from benchmarks.coverage_measure import Tools, measure, other_size, unseen_shifts
from benchmarks.coverage_models import CATEGORIES, Subject, build, choose_size, subjects, wake
from benchmarks.coverage_page import FLOAT64_ROUNDING, VERDICTS, Coverage, Row, write_page
from shiftproof.certification.shifts import default_shifts

SUBJECT = Subject("torchvision", "resnet", "convolutional", "resnet18", 64)


class RefusalError(ValueError):
    pass


class Aligned(nn.Module):
    """What any network becomes when its input is aligned by its full size."""

    def __init__(self, network, sizes):
        super().__init__()
        self.network = network
        self.align = shiftproof.nn.AlignPhase2d(sizes)

    def forward(self, x):
        return self.network(self.align(x))

    def state_dict(self, *args, **kwargs):
        return self.network.state_dict(*args, **kwargs)


def conversion(model, **parts):
    found = {"alignments": [], "paddings": [], "geometry": [], "any_size": False, **parts}
    return SimpleNamespace(model=model, summary=SimpleNamespace(**found))


def align(model, x):
    sizes = tuple(x.shape[2:])
    aligned = [
        SimpleNamespace(stride=(2, 2), full=False),
        SimpleNamespace(stride=(1, 1), full=True),
        SimpleNamespace(stride=sizes, full=True, reasons=("windows",)),
    ]
    return conversion(Aligned(copy.deepcopy(model), sizes), alignments=aligned)


def leave(model, x):
    return conversion(copy.deepcopy(model))


def change_weight(model, x):
    model = copy.deepcopy(model)
    model.bn1.weight.data.add_(1)
    return conversion(model)


def change_keys(model, x):
    return conversion(nn.Sequential(copy.deepcopy(model)))


def break_down(model, x):
    raise KeyError("no such node")


def refuse_size(model, x):
    if x.shape[-1] % 96:
        raise RefusalError(
            "convert: the size must be a multiple of 96, got 64x64; use 96x96 or 192x192"
        )
    return align(model, x)


def refuse(model, x):
    raise RefusalError("convert: fc flattens a map; use 64x64 or average it")


def measured(convert, subject=SUBJECT):
    return measure(subject, Tools(convert, RefusalError), code="abc")


def test_a_network_aligned_as_a_whole_is_exact_and_one_left_alone_is_not():
    row, said = measured(align)
    assert (row.verdict, row.detail, row.alignments, row.full_size) == ("exact", "", 3, "64x64")
    assert (row.deviation, row.size, row.images, row.code) == (0, 64, 2, "abc")
    assert row.tolerance == FLOAT64_ROUNDING
    assert "exact: the output must stay the same" in said
    row, _ = measured(leave)
    assert (row.verdict, row.full_size, row.any_size) == ("not invariant", "", False)
    assert row.detail.startswith("conv1 (Conv2d): zero padding of 3 pixels")
    assert row.deviation > 0.1


def test_a_conversion_must_keep_the_weights_and_their_names():
    row, _ = measured(change_weight)
    assert (row.verdict, row.detail) == (
        "failed",
        "convert: ValueError: the state_dict has another value of bn1.weight",
    )
    row, _ = measured(change_keys)
    assert row.verdict == "failed"
    assert "the state_dict has other keys: 0.bn1.bias" in row.detail


def test_an_error_is_a_row_with_the_step_and_the_trace():
    row, said = measured(break_down)
    assert (row.verdict, row.detail) == ("failed", "convert: KeyError: 'no such node'")
    assert "Traceback" in said
    row, _ = measured(align, dataclasses.replace(SUBJECT, model="resnet19"))
    assert row.verdict == "failed"
    assert row.detail.startswith("build: ValueError: Unknown model resnet19")


def test_a_size_that_is_refused_is_replaced_by_the_nearest_valid_one():
    row, _ = measured(refuse_size)
    assert (row.verdict, row.size) == ("exact", 96)
    assert row.remark.startswith("64 px is refused: convert: the size must be a multiple of 96")
    row, _ = measured(refuse)
    assert (row.verdict, row.size, row.remark) == ("refused", 64, "")
    assert row.detail == "convert: fc flattens a map; use 64x64 or average it"
    assert other_size(ValueError("96x96 is bad; use 128 x 128, 80x96 or 900x900"), [96]) == 128
    assert other_size(ValueError("96x96 is bad; use 64x64 and 128x128"), [96]) == 128
    assert other_size(ValueError("96x96 is bad; use 128x128"), [96, 128]) is None


def test_the_shifts_are_of_every_parity_and_new():
    for size in range(32, 513, 4):
        shifts = unseen_shifts(size)
        assert {(dy % 2, dx % 2) for dy, dx in shifts} == {(0, 0), (0, 1), (1, 0), (1, 1)}
        places = {(dy % size, dx % size) for dy, dx in shifts}
        defaults = {(dy % size, dx % size) for dy, dx in default_shifts((size, size))}
        assert len(places) == 5
        assert not places & (defaults | {(0, 0)})


class Silent(nn.Module):
    """Every way in which a library hides a part of a network."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, 4)
        self.position = nn.Parameter(torch.zeros(1, 8, 8, 8))
        self.norm = nn.BatchNorm2d(8)
        self.branch = nn.Conv2d(8, 8, 1)
        self.gamma = nn.Parameter(torch.full((8, 1, 1), 1e-6))
        self.head = nn.Linear(8, 5)
        nn.init.zeros_(self.norm.weight)
        nn.init.zeros_(self.head.weight)
        nn.init.constant_(self.branch.weight, 1e-9)

    def forward(self, x):
        x = self.norm(self.stem(x) + self.position)
        return self.head((x + self.gamma * self.branch(x)).mean((2, 3)))


def test_waking_leaves_no_part_silent():
    model = Silent().eval()
    response = wake(model, 32)
    assert response > 0.1
    assert all(value.abs().max() > 1e-2 for value in model.parameters())
    assert model.norm.running_mean.unique().numel() == 8
    for part in (model.position, model.gamma, model.norm.running_mean, model.branch.weight):
        x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        before, kept = model(x), part.data.clone()
        part.data.mul_(2)
        assert (model(x) - before).abs().max() > 1e-2 * before.std()
        part.data.copy_(kept)


def test_waking_is_the_same_every_time():
    first, second = (build(SUBJECT, 64)[0] for _ in range(2))
    assert wake(first, 64) == wake(second, 64)
    assert all(map(torch.equal, first.state_dict().values(), second.state_dict().values()))


class Deaf(nn.Module):
    def forward(self, x):
        return torch.arange(4.0).expand(len(x), 4)


class Loud(nn.Module):
    def forward(self, x):
        return x.mean((2, 3)) * float("inf")


def test_waking_refuses_an_output_that_says_nothing():
    for model in (Deaf(), Loud()):
        with pytest.raises(ArithmeticError, match=r"two images are .* standard deviations apart"):
            wake(model, 32)


def test_every_family_has_exactly_one_category(monkeypatch):
    table = list(subjects())
    assert len({subject.key for subject in table}) == len(table)
    assert {subject.key for subject in table} >= {"torchvision:vit_h_14", "timm:resnet"}
    assert not any("quantized" in subject.key or "fcn" in subject.key for subject in table)
    for categories in CATEGORIES.values():
        families = [family for names in categories.values() for family in names.split()]
        assert len(families) == len(set(families))
    monkeypatch.setitem(CATEGORIES, "timm", {"convolutional": "beit"})
    with pytest.raises(ValueError, match="every module of timm must have a category, got none for"):
        list(subjects())


def test_every_size_belongs_to_a_subject():
    keys = [subject.key for subject in subjects()]
    for pattern in coverage_models.SIZES:
        assert command.matching(keys, pattern), pattern
    assert choose_size("timm:byoanet", "hybrid") == 256
    assert choose_size("timm:resnet", "convolutional") == 96


def test_names_choose_from_the_table_and_beyond(monkeypatch):
    table = [SUBJECT, Subject("timm", "resnet", "convolutional", "", 96)]
    assert [s.key for s in command.choose(table, ["timm:res*"])] == ["timm:resnet"]
    assert [s.key for s in command.choose(table, ["res*"])] == [
        "torchvision:resnet18",
        "timm:resnet",
    ]
    (further,) = command.choose(table, ["timm:convnext_atto"])
    assert (further.family, further.model, further.recorded) == ("convnext", "convnext_atto", False)
    with pytest.raises(
        ValueError, match=r"--only must name torchvision:MODEL, .* got 'timm:nothing'"
    ):
        command.choose(table, ["timm:nothing"])


def act(job):
    if job == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if job == "leave":
        os._exit(3)
    if job == "hang":
        time.sleep(600)
    return [job]


@pytest.mark.slow
def test_a_process_that_dies_or_hangs_is_a_reason():
    jobs = ["well", "crash", "leave", "better"]
    found = dict(command.run_apart(act, jobs, workers=2, limit=300))
    assert found == {
        "well": ["well"],
        "crash": "the process was ended by SIGSEGV",
        "leave": "the process ended with status 3 and no result",
        "better": ["better"],
    }
    assert list(command.run_apart(act, ["hang"], 1, 0.5)) == [("hang", "more than 0.5 s")]


def rows():
    exact = Row.of(SUBJECT, verdict="exact", deviation=0.0, alignments=5, full_size="7x7")
    timm = Subject("timm", "vit", "transformer", "vit_small", 96)
    other = Row.of(timm, verdict="not invariant", deviation=0.25, detail="a | b", remark="64 px is")
    return {row.key: row for row in (exact, other)}


def covered(**changes):
    versions = {"timm": "1", "torch": "2"}
    environment = {"processor": "cpu", "num_threads": 1, "python": "3", "versions": versions}
    return Coverage(["torchvision:resnet18", "timm:vit", "timm:more"], environment, **changes)


def test_results_come_back_as_they_were_saved(tmp_path):
    path = tmp_path / "new" / "coverage.json"
    saved = covered(rows=rows())
    saved.save(path)
    assert dataclasses.replace(Coverage.load(path), date="") == saved
    data = json.loads(path.read_text())
    path.write_text(json.dumps({**data, "schema": 0}))
    with pytest.raises(ValueError, match="schema must be 1, got 0"):
        Coverage.load(path)


def test_the_page_is_written_from_the_results_alone(tmp_path, monkeypatch, capsys):
    path, page = tmp_path / "coverage.json", tmp_path / "coverage.md"
    covered(rows=rows()).save(path)
    monkeypatch.setattr("sys.argv", ["coverage", "--out", str(path), "--page", str(page)])
    monkeypatch.setattr(command, "subjects", None)
    assert command.main() == 0
    assert capsys.readouterr().out == f"{page}\n"
    text = page.read_text()
    assert "**Unfinished: 2 of 3 networks.**" in text
    assert "| torchvision, classification | 1 | 1 (100%) | 0 (0%) |" in text
    assert "| timm, transformers | 1 | 0 (0%) | 0 (0%) | 0 (0%) | 1 (100%) | 0 (0%) | 0% |" in text
    assert "| resnet18 | resnet | convolutional | 64 | exact | 0.0e+00 | 5 | 7x7 |" in text
    assert "| vit_small | not invariant | a \\| b |" in text
    assert "| vit_small | 96 | 64 px is |" in text
    assert "more than one state" not in text
    mixed = rows()
    mixed["timm:vit"] = dataclasses.replace(mixed["timm:vit"], code="other")
    mixed["timm:vit"] = dataclasses.replace(mixed["timm:vit"], tolerance=1e-3)
    write_page(covered(rows=mixed), page)
    assert "| 2.5e-01 (narrower inside) |" in page.read_text()
    assert "**Measured with more than one state of the code; run it whole.**" in page.read_text()


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The command on a table of two, without processes, libraries or a converter."""
    timm = Subject("timm", "vit", "transformer", "", 96)
    done = []

    def fake_run(function, jobs, workers, limit):
        for job in jobs:
            done.append(job.key)
            named = dataclasses.replace(job, model=job.model or "vit_small")
            verdict = "refused" if job.key == "timm:vit" else "exact"
            yield job, "it died" if job.model == "crash" else (Row.of(named, verdict=verdict), "ok")

    monkeypatch.setattr(command, "run_apart", fake_run)
    monkeypatch.setattr(command, "subjects", lambda: iter([SUBJECT, timm]))
    monkeypatch.setattr(command.Tools, "load", lambda: None)
    path = tmp_path / "coverage.json"

    def call(*arguments):
        done.clear()
        monkeypatch.setattr("sys.argv", ["coverage", "--out", str(path), *arguments])
        return command.main(), list(done), json.loads(path.read_text())["rows"]

    return call


def test_a_run_goes_on_or_begins_anew(run, monkeypatch, capsys):
    both = ["torchvision:resnet18", "timm:vit"]
    status, done, found = run("--only", "timm:*", "-v")
    assert (status, done, [row["model"] for row in found]) == (0, ["timm:vit"], ["vit_small"])
    assert "[1/1] timm:vit" in capsys.readouterr().out
    status, done, found = run("--resume")
    assert (done, [row["key"] for row in found]) == (["torchvision:resnet18"], both)
    assert run("--again", "refused", "failed")[1] == ["timm:vit"]
    assert run()[1] == both
    assert run("--only", "timm:convnext_atto")[1:][0] == ["timm:convnext_atto"]
    assert [row["key"] for row in run("--resume")[2]] == both
    assert set(VERDICTS) >= {row["verdict"] for row in found}


def test_a_network_that_died_is_a_failed_row(run, monkeypatch):
    subject = dataclasses.replace(SUBJECT, model="crash")
    monkeypatch.setattr(command, "subjects", lambda: iter([subject]))
    status, _, (row,) = run()
    assert (status, row["verdict"], row["detail"]) == (1, "failed", "it died")


def test_the_page_lists_what_is_aligned_as_a_whole_and_third_parties(tmp_path):
    row, _ = measured(align)
    assert row.reasons == "windows"
    environment = {"processor": "x", "num_threads": 1, "python": "3", "versions": {"torch": "2"}}
    other = Row("monai:UNet", "monai", "monai", "third party", "UNet", 64, verdict="refused")
    third = Coverage([other.key], environment, {other.key: other})
    page = write_page(Coverage([row.key], environment, {row.key: row}), tmp_path / "page.md", third)
    text = page.read_text()
    assert f"| {row.key} | {row.full_size} | windows |" in text
    assert "| third parties | 1 | 0 (0%) | 0 (0%) | 1 (100%) |" in text
    assert "| UNet | monai | third party | 64 | refused |" in text
