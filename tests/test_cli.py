import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

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
    assert found == {*digits.MODELS, "table.md", "accuracy_over_shifts.png", "report.html"}
    table = (folder / "table.md").read_text().splitlines()
    assert len(table) == 2 + len(digits.MODELS)
    for name, row in zip(digits.MODELS, table[2:], strict=True):
        result = load_result(folder / name / "result.json")
        assert row.startswith(f"| {name} | {result.num_parameters:,} | ")
        assert f"{result.rates['test worst-shift accuracy'].percent:.2f} %" in row
        assert name in output
    assert f"accuracy at every shift: {folder / 'accuracy_over_shifts.png'}" in output
    assert output.endswith(f"report: {(folder / 'report.html').as_uri()}\n")
    assert start(monkeypatch, "report", folder, "--out", tmp_path / "again.html") == 0
    pages = [
        (path / name).read_text()
        for path, name in ((folder, "report.html"), (tmp_path, "again.html"))
    ]
    assert len(pages[0]) == len(pages[1])
    for name, row in zip(digits.MODELS, table[2:], strict=True):
        assert all(name in page and row.split(" | ")[1] in page for page in pages)


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
        ("timm:resnet18", 1, "blame: conv1 (Conv2d): zero padding of 3 pixels"),
    ],
)
def test_a_network_is_certified(monkeypatch, capsys, model, status, line):
    arguments = [model, "--size", 32, "--batch", 1, "--untrained"]
    assert start(monkeypatch, "certify", *arguments) == status
    assert line in capsys.readouterr().out


OWN = """
import torch
import torchvision
from torch import nn
from torch import nn

def grey():
    return nn.Sequential(nn.Conv2d(1, 4, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten())

class Narrow(nn.Module):
    def forward(self, x):
        return nn.functional.linear(x.flatten(1), torch.zeros(5, 7))

def talks():
    print("a network that talks")
    return nn.AdaptiveAvgPool2d(1)

made = nn.AdaptiveAvgPool2d(1)
number = 3
def needs(what): ...
def fails(): raise RuntimeError("two\\nlines")
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_networks.py").write_text(OWN)
    yield tmp_path
    sys.modules.pop("own_networks", None)


@pytest.mark.parametrize(
    ("name", "status"),
    [("own_networks:made", 0), ("own_networks:grey", 1), ("own_networks.py:grey", 1)],
)
def test_an_own_network_is_certified(monkeypatch, capsys, own, name, status):
    assert start(monkeypatch, "certify", name, "--size", 8, "--json") == status
    found = json.loads(capsys.readouterr().out)
    assert (found["verdict"] == "not invariant") == bool(status)


def test_what_a_network_prints_is_no_part_of_the_json(monkeypatch, capsys, own):
    assert start(monkeypatch, "certify", "own_networks:talks", "--size", 8, "--json") == 0
    output, errors = capsys.readouterr()
    assert json.loads(output)["verdict"] != "not invariant"
    assert errors == "a network that talks\n"


def test_own_weights_are_loaded(monkeypatch, capsys, own):
    network = nn.Sequential(nn.Conv2d(1, 4, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    torch.save(network.state_dict(), own / "good.pt")
    torch.save({"0.weight": torch.zeros(3)}, own / "wrong.pt")
    command = ["certify", "own_networks:grey", "--size", 8, "--weights"]
    assert start(monkeypatch, *command, "good.pt") == 1
    assert capsys.readouterr().err == ""
    assert start(monkeypatch, *command, "wrong.pt") == 2
    assert "the weights must fit" in capsys.readouterr().err


def test_the_plan_of_a_conversion_is_written_and_shown_as_json(monkeypatch, capsys, own):
    command = ["convert", "own_networks:grey", "--size", 8, "--json", "--plan", "plan.json"]
    assert start(monkeypatch, *command) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["certificate"]["verdict"] == "exact"
    assert found["plan"] == json.loads((own / "plan.json").read_text())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cifar_resnet21", "--untrained"], "create_model: "),
        (["torchvision:resnet19", "--untrained"], "torchvision: the network must be one of "),
        (["timm:resnet19", "--untrained"], "timm: the network must be one of timm's, got 'res"),
        (["cifar_resnet20"], "cifar_resnet20: weights must be named, got none; pass --weights"),
        (["torchvision:resnet18"], "torchvision:resnet18: weights must be named, got none"),
        (["timm:resnet18"], "timm:resnet18: weights must be named, got none"),
        (["cifar_resnet20", "--untrained", "--weights", "own_networks.py"], "cifar_resnet20: --w"),
        (["cifar_resnet20", "--weights", "nowhere.pt"], "--weights: DEFAULT or a file, got nowh"),
        (["no_such_module:net"], "no_such_module:net: the module must be importable, got No mo"),
        (["nowhere.py:net"], "nowhere.py:net: the file must exist"),
        (["own_networks:absent"], "own_networks:absent: the module must have it"),
        (["own_networks:number"], "own_networks:number: it must be or return a torch.nn.Module"),
        (["own_networks:needs"], "own_networks:needs: it must be callable without arguments, got"),
        (["own_networks:fails"], "own_networks:fails: it must be callable without arguments, got"),
        (["own_networks:Narrow"], "own_networks:Narrow: the network must take images of 8x8, g"),
        (["own_networks:made", "--untrained"], "own_networks:made: an own network brings its wei"),
        (["own_networks:made", "--size", 0], "--size: must be at least 1, got 0"),
        (["own_networks:made", "--batch", -1], "--batch: must be at least 1, got -1"),
        (["resnet18_pa", "--untrained", "--size", 112], "resnet18_pa: the network must take ima"),
    ],
)
@pytest.mark.parametrize("command", ["certify", "convert"])
def test_what_cannot_be_certified_is_one_line(
    monkeypatch, capsys, own, command, arguments, message
):
    size = [] if "--size" in arguments else ["--size", 8]
    assert start(monkeypatch, command, *arguments, *size) == 2
    output, error = capsys.readouterr()
    assert output == ""
    assert error.startswith(f"error: {message}")
    assert error.count("\n") == 1


GUIDE = (Path(__file__).parents[1] / "docs" / "guide" / "convert.md").read_text()
COMMANDS = re.findall(r"^\| `shiftproof (.*)` \| (\d)", GUIDE, re.MULTILINE)


@pytest.mark.parametrize(("command", "status"), COMMANDS)
def test_every_command_of_the_guide_does_what_it_says(
    monkeypatch, capsys, tmp_path, command, status
):
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(import torch\n+def small.*?)```", GUIDE, re.DOTALL)
    Path("networks.py").write_text(code)
    names = {"small.pt": (8, 3, 3, 3), "other.pt": (4, 3, 3, 3)}
    for name, shape in names.items():
        torch.save({"0.weight": torch.randn(shape), "0.bias": torch.randn(shape[0])}, name)
    weights = torchvision.models.resnet18(weights=None).state_dict()
    monkeypatch.setattr(
        "torchvision.models._api.load_state_dict_from_url", lambda *_, **__: weights
    )
    try:
        assert start(monkeypatch, *command.split()) == int(status)
    finally:
        sys.modules.pop("networks", None)
    output, errors = capsys.readouterr()
    assert errors.count("\n") == (status == "2"), errors
    if "--json" in command:
        json.loads(output)
    if status != "0":
        return
    for option in ("--plan", "--export"):
        if option in command:
            assert Path(command.split(option)[1].split()[0]).stat().st_size > 0


SHARED = "layer2.0.conv1 (Conv2d), layer2.0.downsample.0 (Conv2d)"


@pytest.mark.parametrize(
    ("name", "options", "channels", "readers"),
    [
        ("own_networks:grey", [], 1, "0 (Conv2d)"),
        pytest.param("cifar_resnet20", ["--untrained"], 3, SHARED, marks=pytest.mark.slow),
    ],
)
def test_a_network_is_converted_and_exported(
    monkeypatch, capsys, own, name, options, channels, readers
):
    command = [name, *options, "--size", 32, "--batch", 2, "--export", "converted.pt2"]
    assert start(monkeypatch, "convert", *command) == 0
    output = capsys.readouterr().out
    assert f"for {readers}: stride 2" in output
    assert "exact: the output must stay the same" in output
    program = torch.export.load(own / "converted.pt2").module()
    x = torch.randn(3, channels, 32, 32)
    assert torch.equal(program(x), program(x.roll((5, 3), (2, 3))))
    assert not [path for path in own.iterdir() if path.suffix in (".part", ".tmp")]


@pytest.mark.slow
def test_a_network_is_locked_and_exported(monkeypatch, capsys, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    path = tmp_path / "locked.onnx"
    options = ["--size", 32, "--margin", 4, "--untrained", "--export", path]
    assert start(monkeypatch, "lock", "cifar_resnet20", *options) == 0
    output = capsys.readouterr().out
    assert "locked to the content modulo 4x4 pixels (found by analysis)" in output
    session = onnxruntime.InferenceSession(path)
    x = torch.rand(3, 3, 36, 36).numpy()
    (logits,) = session.run(None, {session.get_inputs()[0].name: x})
    assert logits.shape == (3, 10)
    assert list(tmp_path.iterdir()) == [path]
    assert (
        start(monkeypatch, "lock", "cifar_resnet20", "--size", 32, "--untrained", "--margin", 3)
        == 1
    )
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
    assert start(monkeypatch, "convert", "cifar_resnet20", "--untrained", *options) == 2
    output, error = capsys.readouterr()
    assert output == ""
    assert error.startswith(message)
    assert error.count("\n") == 1
