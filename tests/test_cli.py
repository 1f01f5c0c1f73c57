import subprocess
import sys
from pathlib import Path

import pytest
import torch

import shiftproof
from shiftproof import cli, list_models
from shiftproof.data.digits import load_digits
from shiftproof.recipes import digits
from shiftproof.results import load_result
from shiftproof.training.interrupt import STOPPED
from threads import one_thread


def start(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["shiftproof", *map(str, arguments)])
    with one_thread():
        return cli.main()


@pytest.fixture
def few_small_digits(monkeypatch):
    def load(*, train, size):
        return load_digits(train=train, size=8).subset(range(40))

    monkeypatch.setattr(digits, "load_digits", load)


@pytest.mark.parametrize("pattern", ["resnet18*", "*", "cifar_resnet20_pa"])
def test_models_are_listed(monkeypatch, capsys, pattern):
    assert start(monkeypatch, "list", pattern) == 0
    assert capsys.readouterr() == ("\n".join(list_models(pattern)) + "\n", "")


def test_without_a_pattern_all_models_are_listed(monkeypatch, capsys):
    assert start(monkeypatch, "list") == 0
    assert capsys.readouterr().out.splitlines() == list_models()


def test_a_pattern_that_matches_nothing_is_an_error(monkeypatch, capsys):
    assert start(monkeypatch, "list", "vgg*") == 1
    assert capsys.readouterr() == (
        "",
        "error: shiftproof list: the pattern must match a model, got 'vgg*'; "
        "try '*' for all of them\n",
    )


def test_the_installed_command_tells_its_version():
    command = Path(sys.executable).parent / "shiftproof"
    done = subprocess.run([command, "--version"], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{shiftproof.__version__}\n", "")


@pytest.mark.parametrize("arguments", [[], ["trian"], ["demo", "--epochs", "x"]])
def test_a_wrong_command_line_shows_the_usage(monkeypatch, capsys, arguments):
    with pytest.raises(SystemExit) as caught:
        start(monkeypatch, *arguments)
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("usage: shiftproof")


def test_the_demonstration_compares_four_networks(tmp_path, monkeypatch, capsys, few_small_digits):
    folder = tmp_path / "demo"
    assert start(monkeypatch, "demo", "--folder", folder, "--epochs", 1, "--device", "cpu") == 0
    output, errors = capsys.readouterr()
    assert errors == ""
    found = {path.name for path in folder.iterdir()}
    assert found == {*digits.MODELS, "table.md", "accuracy_over_shifts.png"}
    table = (folder / "table.md").read_text().splitlines()
    assert len(table) == 2 + len(digits.MODELS)
    for name, row in zip(digits.MODELS, table[2:], strict=True):
        result = load_result(folder / name / "result.json")
        assert row.startswith(f"| {name} | {result.num_parameters:,} | ")
        assert f"{result.rates['test worst-shift accuracy'].percent:.2f} %" in row
        assert name in output
    assert f"accuracy at every shift: {folder / 'accuracy_over_shifts.png'}" in output


def test_a_demonstration_that_is_stopped_has_the_status_of_its_signal(
    tmp_path, monkeypatch, few_small_digits
):
    monkeypatch.setattr(digits, "run_digits", lambda *_: None)
    arguments = ("demo", "--folder", tmp_path, "--device", "cpu")
    assert start(monkeypatch, *arguments) == STOPPED
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("model", "status", "line"),
    [
        ("cifar_resnet20_pa", 0, "exact: the output must stay the same"),
        ("cifar_resnet20", 1, "blame: layer2.0.conv1 (Conv2d): stride 2 keeps phase 0"),
        ("torchvision:resnet18", 1, "blame: conv1 (Conv2d): zero padding of 3 pixels"),
    ],
)
def test_a_network_is_certified(monkeypatch, capsys, model, status, line):
    assert start(monkeypatch, "certify", model, "--size", 32, "--batch", 1) == status
    assert line in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cifar_resnet21", "--size", 32], "error: create_model: "),
        (["keras:vgg", "--size", 32], "error: shiftproof: a network of another library is"),
        (["torchvision:resnet19", "--size", 32], "error: Unknown model resnet19"),
        (["resnet18_pa", "--size", 112], "error: ResNet: height and width must be multiples of 32"),
    ],
)
def test_what_cannot_be_certified_is_one_line(monkeypatch, capsys, arguments, message):
    assert start(monkeypatch, "certify", *arguments) == 1
    output, error = capsys.readouterr()
    assert output == ""
    assert error.startswith(message)
    assert error.count("\n") == 1


def test_a_network_is_converted_and_exported(monkeypatch, capsys, tmp_path):
    path = tmp_path / "converted.pt2"
    options = ["--size", 32, "--batch", 2, "--export", path]
    assert start(monkeypatch, "convert", "cifar_resnet20", *options) == 0
    output = capsys.readouterr().out
    assert "for layer2.0.conv1 (Conv2d), layer2.0.downsample.0 (Conv2d): stride 2" in output
    assert "exact: the output must stay the same" in output
    program = torch.export.load(path).module()
    x = torch.randn(3, 3, 32, 32)
    assert torch.equal(program(x), program(x.roll((5, 3), (2, 3))))
    assert list(tmp_path.iterdir()) == [path]


def test_a_network_is_locked_and_exported(monkeypatch, capsys, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    path = tmp_path / "locked.onnx"
    options = ["--size", 32, "--margin", 4, "--export", path]
    assert start(monkeypatch, "lock", "cifar_resnet20", *options) == 0
    output = capsys.readouterr().out
    assert "locked to the content modulo 4x4 pixels (found by analysis)" in output
    session = onnxruntime.InferenceSession(path)
    x = torch.rand(3, 3, 36, 36).numpy()
    (logits,) = session.run(None, {session.get_inputs()[0].name: x})
    assert logits.shape == (3, 10)
    assert list(tmp_path.iterdir()) == [path]
    assert start(monkeypatch, "lock", "cifar_resnet20", "--size", 32, "--margin", 3) == 1
    assert "margin must be an even number" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--size", 30], "error: convert: layer3.0.conv1 (Conv2d) samples a map of 15x15 with"),
        (["--size", 32, "--export", "no/such/file.pt2"], "error: shiftproof convert: the folder"),
        (["--size", 32, "--export", "file.pth"], "error: shiftproof convert: --export must end in"),
    ],
)
def test_what_cannot_be_converted_is_one_line(monkeypatch, capsys, options, message):
    assert start(monkeypatch, "convert", "cifar_resnet20", *options) == 1
    output, error = capsys.readouterr()
    assert output == ""
    assert error.startswith(message)
    assert error.count("\n") == 1
