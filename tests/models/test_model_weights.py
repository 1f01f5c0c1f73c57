import argparse
import datetime as dt
import os
import pathlib
import re
import types
import urllib.error
import warnings
import zipfile
from collections import Counter, OrderedDict, defaultdict
from fractions import Fraction

import numpy as np
import pytest
import torch
import torchvision
from model_samples import build, noise
from safetensors.torch import save_file

from shiftproof import create_model
from shiftproof.models.weights import load_weights, read_state_dict, save_weights

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


PREFIXES = [
    "module.",
    "_orig_mod.",
    "module._orig_mod.",
    "model.",
    "net.backbone.",
    "_fsdp_wrapped.",
]


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_what_all_names_begin_with_is_taken_off(tmp_path, state, prefix, suffix):
    wrapped = {f"{prefix}{key}": value for key, value in state.items()}
    path = tmp_path / f"weights.{suffix}"
    save_file(wrapped, path) if suffix == "safetensors" else torch.save(wrapped, path)
    assert_loaded(path, state)


def test_a_compiled_and_a_parallel_network_are_read(tmp_path, state):
    model = build(NAME, num_classes=3)
    for number, wrapped in enumerate((torch.compile(model), torch.nn.DataParallel(model))):
        torch.save(wrapped.state_dict(), path := tmp_path / f"{number}.pt")
        assert_loaded(path, state)


def test_a_prefix_of_some_names_is_part_of_them(tmp_path, state):
    mixed = {f"module.{key}" if "layer1" in key else key: value for key, value in state.items()}
    torch.save(mixed, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=r"missing layer1.0.conv1.weight, .* and \d+ more"):
        create_model(NAME, num_classes=3, weights=tmp_path / "weights.pt")


def test_names_that_belong_together_keep_what_they_share(tmp_path):
    model = torch.nn.Sequential(OrderedDict(features=torch.nn.Linear(2, 2)))
    save_weights(model, tmp_path / "weights.pt")
    other = torch.nn.Sequential(OrderedDict(features=torch.nn.Linear(2, 2)))
    load_weights(other, tmp_path / "weights.pt")
    assert torch.equal(model.features.weight, other.features.weight)


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


@pytest.mark.parametrize(
    "around",
    [
        lambda state: {"net": state, "epoch": 3},
        lambda state: {
            "ema": {"shadow": state},
            "optimizer": {"state": {0: {"step": state["fc.bias"]}}},
        },
        lambda state: {
            "weights": state,
            "optimizer": torch.optim.Adam([state["fc.bias"]]).state_dict(),
        },
        lambda state: {"state_dict": state, "ema": state},
        lambda state: {"model": {"state_dict": state}},
    ],
)
def test_the_only_state_dict_is_found_under_any_name(tmp_path, state, around):
    torch.save(around(state), tmp_path / "checkpoint.pt")
    assert_loaded(tmp_path / "checkpoint.pt", state)


def test_of_several_none_is_guessed(tmp_path, state):
    torch.save({"teacher": state, "student": {"net": state}}, tmp_path / "checkpoint.pt")
    message = r"must hold a state_dict, got 2 of them \(teacher, student.net\) in .*checkpoint.pt"
    with pytest.raises(ValueError, match=message):
        read_state_dict(tmp_path / "checkpoint.pt")


def beside(state):
    """What people keep beside the weights."""
    return {
        "numpy scalar": np.sum(np.ones(3)) / 2,
        "numpy integer": np.int64(3),
        "numpy truth": np.bool_(True),
        "numpy array": np.arange(6.0).reshape(2, 3),
        "argparse": argparse.Namespace(lr=0.1, path=pathlib.Path("/data"), sizes=[1, 2]),
        "namespace": types.SimpleNamespace(a=1),
        "path": pathlib.Path("/data"),
        "counter": Counter("aab"),
        "set": {1, 2},
        "date": dt.datetime(2026, 1, 2),
        "seconds": dt.timedelta(3),
        "torch version": torch.__version__,
        "device": torch.device("cpu"),
        "numpy state": np.random.default_rng(0).bit_generator.state,
        "legacy numpy state": np.random.get_state(),  # noqa: NPY002
    }


@pytest.mark.parametrize("name", list(beside({})))
def test_harmless_things_beside_the_weights_are_read(tmp_path, state, name):
    torch.save({"acc": beside(state)[name], "state_dict": state}, tmp_path / "checkpoint.pt")
    assert_loaded(tmp_path / "checkpoint.pt", state)


def test_the_file_of_the_published_script_is_read(tmp_path, state):
    accuracy = np.sum(np.array([1, 0, 1])) / len([1, 2, 3])
    wrapped = {f"module.{key}": value for key, value in state.items()}
    saved = {"epoch": 1, "arch": NAME, "state_dict": wrapped, "acc": accuracy, "best_acc": accuracy}
    torch.save(saved, tmp_path / "checkpoint.pt")
    assert_loaded(tmp_path / "checkpoint.pt", state)


@pytest.mark.parametrize("package", ["numpy.core", "numpy._core"])
def test_numbers_of_both_generations_of_numpy_are_read(tmp_path, state, package):
    torch.save({"acc": np.float64(0.5), "model": state}, tmp_path / "now.pt")
    with (
        zipfile.ZipFile(tmp_path / "now.pt") as now,
        zipfile.ZipFile(tmp_path / "w.pt", "w") as new,
    ):
        for entry in now.namelist():
            content = now.read(entry)
            if entry.endswith("data.pkl"):
                own = re.search(rb"cnumpy\.(_?core)\.multiarray\n", content)
                content = content.replace(own[0], f"c{package}.multiarray\n".encode())
            new.writestr(entry, content)
    assert_loaded(tmp_path / "w.pt", state)


def test_what_is_not_allowed_is_named(tmp_path, state):
    torch.save({"model": state, "other": defaultdict(list, a=[])}, tmp_path / "weights.pt")
    with pytest.raises(RuntimeError, match=r"defaultdict.*; save "):
        read_state_dict(tmp_path / "weights.pt")
    for value, name in ((Fraction(1, 2), "fractions.Fraction"), (torch.nn.Linear(1, 1), "Linear")):
        torch.save({"model": state, "other": value}, tmp_path / "weights.pt")
        message = rf"without running code, got .*weights.pt: it holds an object of \S*{name}, which"
        with pytest.raises(RuntimeError, match=message) as raised:
            read_state_dict(tmp_path / "weights.pt")
        assert "\n" not in str(raised.value)


def test_a_whole_network_and_torchscript_are_refused_by_name(tmp_path):
    model = create_model(NAME)
    torch.save(model, tmp_path / "whole.pt")
    with pytest.raises(
        RuntimeError, match=r"object of shiftproof\S*ResNet, .*save model.state_dict"
    ):
        read_state_dict(tmp_path / "whole.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), tmp_path / "s.pt")
        with pytest.raises(
            RuntimeError, match=r"got .*s.pt: it is a TorchScript archive; save the"
        ):
            read_state_dict(tmp_path / "s.pt")


@pytest.mark.parametrize("place", [0.3, 0.6, 0.9])
def test_a_flipped_bit_is_found(tmp_path, state, place):
    torch.save(state, tmp_path / "weights.pt")
    content = bytearray((tmp_path / "weights.pt").read_bytes())
    content[int(place * len(content))] ^= 1
    (tmp_path / "weights.pt").write_bytes(content)
    with pytest.raises(
        RuntimeError, match=r"as it was written, got .*weights.pt, which is changed"
    ):
        read_state_dict(tmp_path / "weights.pt")


def test_files_without_checksums_and_of_the_first_format_are_read(tmp_path, state):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(state, tmp_path / "weights.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    assert_loaded(tmp_path / "weights.pt", state)
    torch.save(state, tmp_path / "first.pt", _use_new_zipfile_serialization=False)
    assert_loaded(tmp_path / "first.pt", state)


class Tied(torch.nn.Module):
    """Two names for one matrix, a view of it, a transposed matrix and other dtypes."""

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(4, 4)
        self.last = torch.nn.Linear(4, 4, bias=False)
        self.third = torch.nn.Linear(4, 4, bias=False)
        self.last.weight = self.third.weight = self.first.weight
        self.register_buffer("view", torch.arange(8.0)[2:5])
        self.register_buffer("overlap", torch.arange(8.0).as_strided((2, 3), (2, 1)))
        self.register_buffer("transposed", torch.randn(3, 5).T)
        self.register_buffer("bfloat", torch.randn(3).bfloat16())
        self.register_buffer("float16", torch.randn(3).half())
        self.register_buffer("scalar", torch.tensor(3))
        self.register_buffer("empty", torch.zeros(0, 2))
        self.register_buffer(
            "channels_last", torch.randn(1, 3, 2, 2).to(memory_format=torch.channels_last)
        )


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_tied_weights_and_views_come_back(tmp_path, suffix):
    model, other = Tied(), Tied()
    save_weights(model, tmp_path / f"w.{suffix}")
    load_weights(other, tmp_path / f"w.{suffix}")
    for (name, value), loaded in zip(
        model.state_dict().items(), other.state_dict().values(), strict=True
    ):
        assert torch.equal(value, loaded), name
        assert value.dtype == loaded.dtype
    assert other.last.weight is other.first.weight


@pytest.mark.parametrize("kept", ["first.weight", "last.weight", "third.weight"])
def test_a_file_may_hold_tied_weights_once(tmp_path, kept):
    model, other = Tied(), Tied()
    dropped = {"first.weight", "last.weight", "third.weight"} - {kept}
    state = {name: value for name, value in model.state_dict().items() if name not in dropped}
    torch.save(state, tmp_path / "w.pt")
    load_weights(other, tmp_path / "w.pt")
    assert torch.equal(other.third.weight, model.first.weight)


def test_a_state_dict_of_more_than_tensors_is_not_written(tmp_path):
    class Counting(torch.nn.Linear):
        def get_extra_state(self):
            return {"a": 1}

    model = Counting(1, 1)
    with pytest.raises(TypeError, match="must hold tensors alone, got dict at _extra_state; save"):
        save_weights(model, tmp_path / "w.safetensors")
    assert not list(tmp_path.iterdir())


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
