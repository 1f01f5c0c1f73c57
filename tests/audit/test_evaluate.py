"""The command that measures networks side by side."""

import dataclasses
import functools
import json
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import shiftproof
from shiftproof import cli
from shiftproof.audit import evaluate as evaluate_command
from shiftproof.audit.differences import differences
from shiftproof.audit.evaluate_options import assign_weights, distinct_names, read_protocol
from shiftproof.audit.sources import open_source, outputs_of
from shiftproof.data.plan import EvalPlan
from shiftproof.metrics import consistency, paired_difference, protocol, topk_correct
from shiftproof.recipes.command import run_command
from shiftproof.results import load_result
from threads import one_thread

NETWORKS = """
import torch
from torch import nn


class Reads(nn.Module):
    # Logits of two classes by the upper left corner: neither invariant nor constant.
    def __init__(self, size=2):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.size = size

    def forward(self, x):
        mark = self.scale * x[:, :, : self.size, : self.size].mean((1, 2, 3))
        return torch.stack([mark, -mark], 1)


def reads(): return Reads()
def wide(): return Reads(6)
class Nans(Reads):
    def forward(self, x):
        y = super().forward(x)
        return y * float("nan") if len(x) > 2 else y
def nans(): return Nans()
class Two(Reads):
    def forward(self, x):
        y = super().forward(x)
        return {"a": y, "b": y}
def two(): return Two()
def fails(): raise RuntimeError("no such luck")
"""


def draw(root, classes, count, size, suffix="png"):
    source = np.random.default_rng(0)
    for name in classes:
        (root / name).mkdir(parents=True)
        for number in range(count):
            pixels = source.integers(0, 256, (*size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.{suffix}")
    return root


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return draw(tmp_path_factory.mktemp("images"), ("cat", "dog"), 7, (18, 22))


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    path = tmp_path_factory.mktemp("networks") / "own.py"
    path.write_text(NETWORKS)
    return path


def run(*arguments):
    """The command with these arguments, in this process; returns its exit status."""
    parsed = cli.parser().parse_args(["eval", *map(str, arguments)])
    with one_thread():
        return run_command(functools.partial(parsed.run, parsed))


def common(images, *, batch=4):
    size = ("--size", 16, "--resize", 18, "--mean", 0.5, "--std", 0.25)
    return ("--data", images, *size, "--batch-size", batch, "--workers", 0)


def seen_by(images, margin=0):
    """The images as the network sees them, and their labels, in order."""
    dataset = open_source(images, frame=16 + margin, resize=18)
    (batch,) = EvalPlan(len(dataset), 99)
    examples = dataset[batch]
    return (examples.images - 0.5) / 0.25, examples.labels


def reads(x, size=2):
    mark = x[:, :, :size, :size].mean((1, 2, 3))
    return torch.stack([mark, -mark], 1)


def test_numbers_are_those_of_the_metrics(images, networks, tmp_path, capsys):
    out = tmp_path / "out"
    names = ("circular", "aps-cifar-crop", "crop(margin=2)", "adversarial(max_shift=3)", "pan")
    chosen = [part for name in names[:-1] for part in ("--protocol", name)]
    pan = ("--protocol", "pan(num_frames=3)")
    assert run(f"{networks}:reads", *chosen, *pan, *common(images), "--out", out) == 0
    (file,) = out.glob("*.json")
    result = load_result(file)
    still, labels = seen_by(images)
    right = topk_correct(reads(still), labels, 1)
    assert result.rates["top-1"].successes == int(right.sum())
    assert result.rates["top-1"].n == 14
    assert result.rates["top-5"].successes == 14
    loss = torch.nn.functional.cross_entropy(reads(still), labels)
    assert result.values["loss"] == pytest.approx(float(loss), rel=1e-5)

    for name in ("circular", "aps-cifar-crop", "crop(margin=2)", "pan(num_frames=3)"):
        wanted = read_protocol(name)
        x, _ = seen_by(images, getattr(wanted, "margin", 0))
        found = []
        for batch in EvalPlan(14, 4):
            views = wanted.views(x[list(batch.indices)], torch.Generator().manual_seed(batch.seed))
            found.append(consistency_of(list(views)))
        rate = result.rates[f"consistency ({name})"]
        assert rate.successes == sum(int(batch.sum()) for batch in found), name
        assert rate.batch_mean == pytest.approx(
            sum(float(batch.double().mean()) for batch in found) / 4, abs=1e-12
        )
        assert 0 < rate.successes < 14
        assert 0 < result.means[f"probability change ({name})"].value < 1
    (batch,) = EvalPlan(14, 99)
    views = protocol("adversarial", max_shift=3).views(still, torch.Generator())
    worst = torch.stack([topk_correct(reads(view), labels, 1) for view in views]).all(0)
    name = "worst-shift accuracy (adversarial(max_shift=3))"
    assert result.rates[name].successes == int(worst.sum())
    assert {"jitter (pan(num_frames=3))", "flip rate (pan(num_frames=3))"} <= set(result.means)
    output = capsys.readouterr().out
    assert "consistency (crop(margin=2)), %" in output
    assert f"{result.rates['top-1'].percent:.2f}" in output


def consistency_of(views):
    classes = torch.stack([reads(view).argmax(1) for view in views])
    return (classes == classes[0]).all(0)


def test_networks_differ_image_by_image(images, networks, capsys):
    models = (f"{networks}:reads", f"{networks}:wide")
    assert run(*models, "--protocol", "aps-cifar-test", *common(images), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [result["model"] for result in found["results"]] == list(models)
    still, labels = seen_by(images)
    first, second = (topk_correct(reads(still, size), labels, 1) for size in (2, 6))
    expected = paired_difference(second, first)
    top, shared = (entry["difference"] for entry in found["differences"])
    assert top == dataclasses.asdict(expected)
    assert (shared["n"], shared["num_clusters"]) == (14, 4)
    rates = [result["rates"]["consistency (aps-cifar-test)"] for result in found["results"]]
    assert shared["value"] == pytest.approx((rates[1]["successes"] - rates[0]["successes"]) / 14)


def test_images_that_could_not_be_read_are_left_out_of_differences():
    rate = shiftproof.metrics.rate("top-1", 1, 2)
    results = [
        dataclasses.replace(blank(), model=name, rates={"top-1": rate}) for name in ("a", "b")
    ]
    outcomes = [
        {"top-1": torch.tensor([1, 0, -1, 1], dtype=torch.int8)},
        {"top-1": torch.tensor([0, 0, 1, -1], dtype=torch.int8)},
    ]
    (found,) = differences(results, outcomes, [], 4)
    assert (found.model, found.other, found.difference.n) == ("b", "a", 2)
    assert found.difference.value == -0.5


def blank():
    from shiftproof.results import Environment, RunResult

    return RunResult("", 0, 0, {}, Environment.collect("cpu", 1))


@pytest.fixture
def onnx_file(tmp_path_factory):
    pytest.importorskip("onnxscript")
    path = tmp_path_factory.mktemp("onnx") / "small.onnx"
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, 2, 1), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
    )
    program = torch.export.export(
        torch.nn.Sequential(network, torch.nn.Linear(4, 2)).eval(),
        (torch.zeros(2, 3, 32, 32),),
        dynamic_shapes=({0: torch.export.Dim("batch")},),
    )
    torch.onnx.export(program, dynamo=True, verbose=False).save(path)
    torch.export.save(program, path.with_suffix(".pt2"))
    return path


def test_files_timm_and_a_checkpoint_stand_in_one_table(images, onnx_file, tmp_path, capsys):
    pytest.importorskip("timm")
    checkpoint = tmp_path / "weights.pt"
    model = shiftproof.create_model("cifar_resnet20")
    torch.save({"state_dict": model.state_dict()}, checkpoint)
    models = ["timm:test_resnet", "cifar_resnet20", onnx_file, onnx_file.with_suffix(".pt2")]
    options = ("--data", images, "--size", 32, "--resize", 32, "--workers", 0)
    weights = ("--weights", "-", "--weights", checkpoint, "--untrained")
    assert run(*models, *options, *weights, "--out", tmp_path / "out") == 0
    output, errors = capsys.readouterr()
    header, rows = output.splitlines()[1], output.splitlines()[3:]
    for name in map(str, models):
        assert name in header
    (counts,) = (row.split() for row in rows if row.split()[:1] == ["images"])
    assert counts == ["images", "14", "14", "14", "14"]
    (consistent,) = (row for row in rows if row.startswith("  consistency (circular)"))
    assert len(re.findall(r"\d+\.\d\d", consistent)) == 4
    (top,) = (row for row in rows if row.startswith("  top-1"))
    assert len(re.findall(r"\d+\.\d\d", top)) == 2
    assert "no accuracy, because the network has 10 outputs, and there are 2 class" in errors
    results = {path.name: load_result(path) for path in (tmp_path / "out").glob("*.json")}
    assert len(results) == 4
    onnx, program = (r for name, r in sorted(results.items()) if "small" in name)
    assert onnx.rates == program.rates
    assert onnx.num_parameters == 0
    shown = sum(p.numel() for p in model.parameters())
    assert results["cifar_resnet20.json"].num_parameters == shown


def test_what_is_finished_is_not_measured_again(images, networks, tmp_path, capsys, monkeypatch):
    arguments = (f"{networks}:reads", f"{networks}:wide", *common(images), "--out", tmp_path / "o")
    assert run(*arguments, "--protocol", "circular") == 0
    before = capsys.readouterr().out
    calls = []
    original = evaluate_command.evaluate_subject
    monkeypatch.setattr(
        evaluate_command,
        "evaluate_subject",
        lambda *args, **kwargs: calls.append(1) or original(*args, **kwargs),
    )
    assert run(*arguments, "--protocol", "circular") == 0
    output, errors = capsys.readouterr()
    assert (output, calls) == (before, [])
    assert errors.count("measured already") == 2
    assert run(*arguments, "--protocol", "circular", "--seed", 1) == 0
    assert len(calls) == 2
    networks.write_text(NETWORKS + "\n# another\n")
    try:
        assert run(*arguments, "--protocol", "circular", "--seed", 1) == 0
    finally:
        networks.write_text(NETWORKS)
    assert len(calls) == 4


def test_ctrl_c_keeps_what_is_done_and_the_same_command_goes_on(
    images, networks, tmp_path, capsys, monkeypatch
):
    arguments = (f"{networks}:reads", f"{networks}:wide", *common(images), "--out", tmp_path / "o")
    original = evaluate_command.evaluate_subject
    seen = []

    def interrupted(subject, *args, **kwargs):
        seen.append(subject.name)
        if len(seen) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return original(subject, *args, **kwargs)

    monkeypatch.setattr(evaluate_command, "evaluate_subject", interrupted)
    assert run(*arguments) == 143
    output, errors = capsys.readouterr()
    assert "own.py:reads" in output
    assert "own.py:wide" not in output
    assert f"own.py:wide: stopped by SIGINT; what is finished is kept in {tmp_path}" in errors
    assert len([*(tmp_path / "o").glob("*.json")]) == 1
    assert run(*arguments) == 0
    assert seen == [str(networks) + name for name in (":reads", ":wide", ":wide")]
    assert len([*(tmp_path / "o").glob("*.json")]) == 2


def test_a_stop_between_two_versions_of_a_batch(images, networks, capsys, monkeypatch):
    original, calls = evaluate_command.Subject.logits, []

    def interrupted(self, x):
        calls.append(len(x))
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, x)

    monkeypatch.setattr(evaluate_command.Subject, "logits", interrupted)
    assert run(f"{networks}:reads", "--protocol", "adversarial", *common(images)) == 143
    assert len(calls) == 3
    assert "stopped by SIGTERM" in capsys.readouterr().err


def test_wordnet_ids_are_matched_where_there_are_1000_outputs():
    pytest.importorskip("timm")
    folders = ("n01440764", "n02123045")  # a tench, a tabby
    found, reason = outputs_of(folders, 1000, "auto")
    assert (found.tolist(), reason) == ([0, 281], "")
    assert outputs_of(folders, 1000, "sorted")[0].tolist() == [0, 1]
    assert outputs_of(folders, 2, "auto")[0].tolist() == [0, 1]
    assert outputs_of(folders, 5, "auto") == (
        None,
        "the network has 5 outputs, and there are 2 class folders",
    )
    with pytest.raises(ValueError, match=r"--classes sorted: .* got 1 for 2 folders"):
        outputs_of(folders, 1, "sorted")


def test_weights_go_to_networks_in_their_order():
    models = ["a", "b.onnx", "c"]
    assert assign_weights(models, None) == [None] * 3
    assert assign_weights(models, ["DEFAULT"]) == ["DEFAULT", None, "DEFAULT"]
    assert assign_weights(models, ["-", "w.pt"]) == [None, None, "w.pt"]
    with pytest.raises(ValueError, match="once for each of 2 networks that are no files, got 3"):
        assign_weights(models, ["x", "y", "z"])
    assert distinct_names(["a", "a", "b"], ["one.pt", "two.pt", None]) == [
        "a (one)",
        "a (two)",
        "b",
    ]
    assert len(set(distinct_names(["a", "a"], [None, None]))) == 2


def test_a_result_is_measured_under_the_protocol_that_itdistinct_names():
    assert read_protocol("crop") is protocol("crop")
    assert read_protocol("crop(margin=8, per_image=True)") == protocol(
        "crop", margin=8, per_image=True
    )
    for text in ("crop(margin=)", "crop(8)", "crop(margin=x)"):
        with pytest.raises(ValueError, match=r"--protocol: fields must be NAME\(field=value"):
            read_protocol(text)
    with pytest.raises(ValueError, match="got 'aps'"):
        read_protocol("aps")


def empty(tmp_path):
    (tmp_path / "cat").mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("nans", [], "nans: logits must be finite, got NaN or infinity"),
        (
            "two",
            [],
            r"two: the network must return logits \(N, classes\), got a dict of a a tensor",
        ),
        ("fails", [], r"RuntimeError.*no such luck"),
        ("missing", [], "the module must have it, got no missing"),
        ("reads", ["--data", "EMPTY"], "each class must have an image, got none for cat"),
        ("reads", ["--data", "nowhere"], "the folder of images must exist, got nowhere"),
        ("reads", ["--out", "/proc/results"], "/proc/results"),
        ("reads", ["--out", "FILE"], "FILE"),
        ("reads", ["--protocol", "aps-imagnet"], "the nearest are aps-imagenet"),
        ("reads", ["--batch-size", "0"], "--batch-size: must be at least 1, got 0"),
        ("reads", ["--size", "0"], "--size: must be at least 1, got 0"),
        ("reads", ["--weights", "a", "--weights", "b"], "--weights: must be given once"),
        ("reads", ["--weights", "nowhere.pt"], "--weights: DEFAULT or a file, got nowhere.pt"),
        ("reads", ["--device", "tpu"], "the device must be cpu or the index"),
    ],
)
def test_bad_input_is_one_line(
    images, networks, tmp_path, monkeypatch, capsys, model, options, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FILE").write_text("")
    if "EMPTY" in options:
        empty(tmp_path / "EMPTY")
    assert run(f"{networks}:{model}", *common(images), *options) == 1
    output, errors = capsys.readouterr()
    assert output == ""
    (line,) = (line for line in errors.splitlines() if "error" in line)
    assert re.match(f"error: .*{message}", line), line
    assert not list(tmp_path.glob("**/*.json"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_write_permission_is_one_line(images, networks, tmp_path, capsys):
    tmp_path.chmod(0o500)
    assert run(f"{networks}:reads", *common(images), "--out", tmp_path / "out") == 1
    assert re.fullmatch(r"error: .*out.*\n", capsys.readouterr().err)


def test_classes_that_are_needed_and_unknown_are_one_line(images, capsys):
    options = ("cifar_resnet20", "--untrained", "--protocol", "adversarial")
    assert run(*options, "--data", images, "--workers", 0) == 1
    assert "error: eval: adversarial must know the right classes" in capsys.readouterr().err


def test_another_file_in_the_place_of_a_result_is_not_replaced(images, networks, tmp_path, capsys):
    arguments = (f"{networks}:reads", *common(images), "--out", tmp_path)
    assert run(*arguments) == 0
    (file,) = tmp_path.glob("*.json")
    file.write_text("mine")
    assert run(*arguments) == 1
    assert "must hold a result of this project" in capsys.readouterr().err
    assert file.read_text() == "mine"


@pytest.mark.slow
def test_two_processes_find_what_one_finds(images, networks, tmp_path):
    chosen = ("--protocol", "aps-cifar-test", "--protocol", "circular", "--protocol", "pan")
    options = (f"{networks}:reads", f"{networks}:wide", *chosen, *common(images), "--json")
    command = [sys.executable, "-m"]
    line = ["shiftproof.cli", "eval", *map(str, options)]
    alone = subprocess.run([*command, *line], capture_output=True, text=True, timeout=300)
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    both = subprocess.run(
        [*command, *launcher, *line, "--device", "cpu", "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert both.returncode == alone.returncode == 0, both.stderr
    first, second = (json.loads(done.stdout) for done in (alone, both))
    assert first["differences"] == second["differences"]
    for one, two in zip(first["results"], second["results"], strict=True):
        assert one["rates"] == two["rates"]
        for name, mean in one["means"].items():
            for key, value in mean.items():
                value = pytest.approx(value, rel=1e-9) if isinstance(value, float) else value
                assert two["means"][name][key] == value
    assert len([*tmp_path.glob("*.json")]) == 2


def test_consistency_of_the_function_is_that_of_one_batch(images, networks, capsys):
    # One generator per batch: with a single batch that is the function's own.
    still, _ = seen_by(images)
    (batch,) = EvalPlan(14, 99)
    expected = consistency(reads, [still], protocol("circular"), seed=batch.seed)
    assert run(f"{networks}:reads", *common(images, batch=99), "--json") == 0
    (result,) = json.loads(capsys.readouterr().out)["results"]
    assert result["rates"]["consistency (circular)"] == dataclasses.asdict(expected)
