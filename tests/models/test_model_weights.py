import os
import pathlib
import urllib.error

import pytest
import torch
import torchvision
from model_samples import build, noise
from safetensors.torch import save_file

from shiftproof import create_model
from shiftproof.models.weights import read_state_dict

NAME = "cifar_resnet20_aps3"


@pytest.fixture(scope="module")
def state():
    return build(NAME, num_classes=3).state_dict()


def assert_loaded(path, state):
    model = create_model(NAME, num_classes=3, weights=path)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert not torch.equal(create_model(NAME, num_classes=3).conv1.weight, state["conv1.weight"])


@pytest.mark.parametrize("as_path", [str, pathlib.Path])
@pytest.mark.parametrize("file", ["weights.pt", "weights.pth", "model_best.pth.tar", "weights"])
def test_file(tmp_path, state, file, as_path):
    torch.save(state, tmp_path / file)
    assert_loaded(as_path(tmp_path / file), state)


def test_safetensors(tmp_path, state):
    save_file(dict(state), tmp_path / "weights.safetensors")
    assert_loaded(tmp_path / "weights.safetensors", state)


@pytest.mark.parametrize("key", ["model", "state_dict"])
def test_checkpoint_around_the_state_dict(tmp_path, state, key):
    torch.save({"epoch": 3, key: state}, tmp_path / "checkpoint.pt")
    assert_loaded(tmp_path / "checkpoint.pt", state)


def test_prefix_of_parallel_wrappers(tmp_path, state):
    wrapped = {f"module.{key}": value for key, value in state.items()}
    torch.save(wrapped, tmp_path / "weights.pt")
    assert_loaded(tmp_path / "weights.pt", state)


def test_file_without_counters_of_batches(tmp_path, state):
    bare = {key: value for key, value in state.items() if not key.endswith("tracked")}
    assert len(bare) < len(state)
    torch.save(bare, tmp_path / "weights.pt")
    assert_loaded(tmp_path / "weights.pt", state)


def test_missing_file(tmp_path):
    for path in (tmp_path / "nothing.pt", tmp_path / "nothing", "nothing.safetensors"):
        with pytest.raises(RuntimeError, match=r"weights must be a file, got .*nothing.*; check"):
            create_model(NAME, weights=path)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ([1, 2], "list"),
        ({}, "dict"),
        ({"epoch": 3}, "dict"),
        ({"state_dict": {"lr": 0.1}}, "dict"),
        (torch.zeros(2), "Tensor"),
    ],
)
def test_file_without_a_state_dict(tmp_path, content, kind):
    torch.save(content, tmp_path / "weights.pt")
    message = rf"must hold a state_dict, got {kind} in .*weights.pt; save model.state_dict\(\)"
    with pytest.raises(ValueError, match=message):
        read_state_dict(tmp_path / "weights.pt")


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_pickled_objects_are_refused_and_not_run(tmp_path):
    torch.save(Trap(tmp_path / "sprung"), tmp_path / "weights.pt")
    with pytest.raises(RuntimeError, match=r"must load without running code, got .*weights.pt"):
        create_model(NAME, weights=tmp_path / "weights.pt")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("file", ["weights.pt", "weights.safetensors"])
def test_damaged_file(tmp_path, file):
    (tmp_path / file).write_bytes(b"\x00 not weights" * 10)
    with pytest.raises(RuntimeError, match=f"got .*{file}"):
        read_state_dict(tmp_path / file)


@pytest.mark.parametrize(
    ("name", "options", "problem"),
    [
        (NAME, {"num_classes": 4}, r"fc.weight is \(3, 64\), not \(4, 64\), fc.bias is"),
        (NAME, {"num_classes": 3, "in_channels": 1}, r"conv1.weight is \(16, 3, 3, 3\), not"),
        ("cifar_resnet56", {"num_classes": 3}, r"missing layer1.3.conv1.weight, .* and \d+ more"),
        ("resnet18", {"num_classes": 3}, "missing layer4.0.conv1.weight"),
    ],
    ids=["num_classes", "in_channels", "deeper", "other trunk"],
)
def test_weights_of_another_network(tmp_path, state, name, options, problem):
    torch.save(state, tmp_path / "weights.pt")
    message = f"name for name, got .*{problem}.* in .*weights.pt; build the network they"
    with pytest.raises(ValueError, match=message):
        create_model(name, weights=tmp_path / "weights.pt", **options)


@pytest.fixture
def downloads(monkeypatch):
    """Names that were asked for; what torchvision would download are seeded weights."""
    asked = []

    def get_state_dict(self, *args, **kwargs):
        asked.append((str(self), args, kwargs))
        state = build("resnet18").state_dict()
        return {key: value for key, value in state.items() if not key.endswith("tracked")}

    monkeypatch.setattr(torchvision.models.ResNet18_Weights, "get_state_dict", get_state_dict)
    return asked


@torch.no_grad()
@pytest.mark.parametrize("weights", ["IMAGENET1K_V1", "DEFAULT", "ResNet18_Weights.IMAGENET1K_V1"])
def test_torchvision_weights(downloads, weights):
    expected = build("resnet18").eval()(noise(1, 3, 64))
    model = create_model("resnet18", weights=weights)
    assert torch.equal(model.eval()(noise(1, 3, 64)), expected)
    options = {"progress": False, "check_hash": True}
    assert downloads == [("ResNet18_Weights.IMAGENET1K_V1", (), options)]


def test_torchvision_weights_in_aligned_placement(downloads):
    model = create_model("resnet18_pa", weights="IMAGENET1K_V1")
    assert torch.equal(model.conv1.weight, build("resnet18").conv1.weight)


def test_torchvision_weights_for_another_number_of_classes(downloads):
    message = r"got fc.weight is \(1000, 512\), not \(5, 512\).* in IMAGENET1K_V1; build"
    with pytest.raises(ValueError, match=message):
        create_model("resnet18", num_classes=5, weights="IMAGENET1K_V1")


def test_unknown_torchvision_weights(downloads):
    message = "weights of resnet18 must be one of IMAGENET1K_V1, DEFAULT, got 'IMAGENET'; a file"
    with pytest.raises(ValueError, match=message):
        create_model("resnet18", weights="IMAGENET")
    assert not downloads


@pytest.mark.parametrize("name", ["cifar_resnet18", "resnet18_lpf3", "resnet18_aps1"])
def test_torchvision_weights_for_a_network_that_has_none(name):
    message = "fit the plain and _pa ImageNet networks only, got 'IMAGENET1K_V1' for another; pass"
    with pytest.raises(ValueError, match=message):
        create_model(name, weights="IMAGENET1K_V1")


def test_download_that_fails(monkeypatch):
    def fail(self, *args, **kwargs):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(torchvision.models.ResNet18_Weights, "get_state_dict", fail)
    message = "resnet18 IMAGENET1K_V1 must be downloaded once, got .*no route to host.*; pass the"
    with pytest.raises(RuntimeError, match=message):
        create_model("resnet18", weights="IMAGENET1K_V1")
