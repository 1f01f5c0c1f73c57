import random
import stat
import sys
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

from shiftproof.training import checkpoint
from shiftproof.training.checkpoint import (
    copy_checkpoint,
    load_checkpoint,
    restore_rng_state,
    rng_state,
    save_checkpoint,
)


def names(folder):
    return sorted(file.name for file in folder.iterdir())


def training_state():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.randn(2, 1, 5, 5)).sum().backward()
    optimizer.step()
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "rng": rng_state(),
        "epoch": 3,
        "best": None,
        "config": {"arch": "resnet18_aps1", "milestones": (100, 150), "flags": [True, 1.5, 1j]},
        "bytes": b"\x00\xff",
        "parameter": nn.Parameter(torch.ones(2)),
    }


def test_everything_a_training_run_needs_comes_back(tmp_path):
    state = training_state()
    save_checkpoint(tmp_path / "a.pt", state)
    loaded = load_checkpoint(tmp_path / "a.pt")
    assert loaded["schema"] == checkpoint.SCHEMA
    assert loaded["versions"]["torch"] == str(torch.__version__)
    assert set(loaded) == {*state, "schema", "versions"}
    for name in ("epoch", "best", "config", "bytes"):
        assert loaded[name] == state[name]
    for name, value in state["model"].items():
        assert torch.equal(loaded["model"][name], value)
    for index, slot in state["optimizer"]["state"].items():
        assert torch.equal(
            loaded["optimizer"]["state"][index]["momentum_buffer"], slot["momentum_buffer"]
        )
    assert loaded["optimizer"]["param_groups"] == state["optimizer"]["param_groups"]
    assert isinstance(loaded["model"], OrderedDict)


def test_the_file_is_readable_by_others_and_alone_in_its_folder(tmp_path):
    save_checkpoint(tmp_path / "a.pt", {"epoch": 1})
    assert names(tmp_path) == ["a.pt"]
    assert stat.S_IMODE((tmp_path / "a.pt").stat().st_mode) == 0o644


class Custom:
    pass


def test_unsafe_values_are_refused_by_path_before_writing(tmp_path):
    path = tmp_path / "a.pt"
    save_checkpoint(path, {"epoch": 1})
    old = path.read_bytes()
    marked = torch.ones(1)
    marked.note = Custom()
    versions = OrderedDict(a=1)
    versions._metadata = {"x": Custom()}
    for value, place in [
        ({"a": [0, Custom()]}, r"state\['x'\]\['a'\]\[1\]"),
        (np.float64(1.0), r"numpy.float64 at state\['x'\]"),
        ({(1, frozenset()): 2}, r"frozenset at a key of state\['x'\]\[1\]"),
        (marked, r"state\['x'\]\.note"),
        (versions, r"state\['x'\]\._metadata\['x'\]"),
        (2**3000, r"an integer must have fewer .* at state\['x'\]"),
    ]:
        with pytest.raises(TypeError, match=place):
            save_checkpoint(path, {"x": value})
    assert path.read_bytes() == old
    assert names(tmp_path) == ["a.pt"]


def test_the_file_keeps_two_names_for_itself(tmp_path):
    with pytest.raises(ValueError, match=r"must be left to the file, got schema, versions"):
        save_checkpoint(tmp_path / "a.pt", {"schema": 1, "versions": {}})
    assert names(tmp_path) == []


def test_a_write_that_fails_midway_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.pt"
    save_checkpoint(path, {"epoch": 1})

    def break_off(value, file):
        file.write(b"half a checkpoint")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", break_off)
    with pytest.raises(OSError, match="no space left"):
        save_checkpoint(path, {"epoch": 2})
    assert load_checkpoint(path)["epoch"] == 1
    assert names(tmp_path) == ["a.pt"]


def test_a_copy_replaces_its_target_whole(tmp_path, monkeypatch):
    save_checkpoint(tmp_path / "new.pt", {"epoch": 2})
    save_checkpoint(tmp_path / "best.pt", {"epoch": 1})

    def break_off(original, file):
        file.write(original.read(10))
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.shutil, "copyfileobj", break_off)
        with pytest.raises(OSError, match="no space left"):
            copy_checkpoint(tmp_path / "new.pt", tmp_path / "best.pt")
    assert load_checkpoint(tmp_path / "best.pt")["epoch"] == 1
    copy_checkpoint(tmp_path / "new.pt", tmp_path / "best.pt")
    assert (tmp_path / "best.pt").read_bytes() == (tmp_path / "new.pt").read_bytes()
    assert names(tmp_path) == ["best.pt", "new.pt"]


def test_what_is_no_checkpoint_is_named(tmp_path):
    path = tmp_path / "a.pt"
    with pytest.raises(RuntimeError, match=r"must be a file, got .*a\.pt, which is missing"):
        load_checkpoint(path)
    with pytest.raises(RuntimeError, match=r"which is a folder"):
        load_checkpoint(tmp_path)
    save_checkpoint(path, {"weight": torch.arange(1000)})
    whole = path.read_bytes()
    for part in (b"", b"some text", whole[: len(whole) // 2], whole[:-1]):
        path.write_bytes(part)
        with pytest.raises(RuntimeError, match=r"complete checkpoint, got .*a\.pt, which is cut"):
            load_checkpoint(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", "b")
    with pytest.raises(RuntimeError, match=r"readable checkpoint, got .*a\.pt"):
        load_checkpoint(path)
    torch.save(Custom(), path)
    with pytest.raises(RuntimeError, match=r"plain values alone, got .*a\.pt"):
        load_checkpoint(path)
    torch.save(nn.Linear(1, 1).state_dict(), path)
    with pytest.raises(RuntimeError, match=r"checkpoint of a training run, got .*a\.pt"):
        load_checkpoint(path)
    torch.save({"schema": checkpoint.SCHEMA + 1}, path)
    with pytest.raises(RuntimeError, match=r"schema must be at most 1, got 2 in .*a\.pt"):
        load_checkpoint(path)


def draw():
    legacy = np.random.mtrand
    python = [random.random(), random.gauss(0, 1)]
    return [torch.rand(3).tolist(), *python, legacy.random_sample(), legacy.standard_normal()]


@pytest.fixture
def _keep_generators():
    state = rng_state()
    yield
    restore_rng_state(state)


@pytest.mark.usefixtures("_keep_generators")
def test_generators_go_on_where_they_were_through_a_checkpoint(tmp_path):
    draw()  # leaves half a pair of normal numbers in Python's and NumPy's generators
    save_checkpoint(tmp_path / "a.pt", {"rng": rng_state()})
    first = draw()
    assert draw() != first
    restore_rng_state(load_checkpoint(tmp_path / "a.pt")["rng"])
    assert draw() == first


@pytest.mark.usefixtures("_keep_generators")
def test_states_of_absent_cuda_devices_are_passed_over(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    state = {**rng_state(), "cuda": [torch.zeros(16, dtype=torch.uint8)] * 2}
    first = draw()
    restore_rng_state(state)
    assert draw() == first


@pytest.mark.usefixtures("_keep_generators")
def test_a_numpy_state_without_numpy_is_an_error(monkeypatch):
    state = rng_state()
    monkeypatch.setitem(sys.modules, "numpy", None)
    with pytest.raises(RuntimeError, match=r"numpy, which is not installed"):
        restore_rng_state(state)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.usefixtures("_keep_generators")
def test_cuda_generators_go_on_where_they_were():
    torch.rand(1, device="cuda")
    state = rng_state()
    first = torch.rand(3, device="cuda")
    restore_rng_state(state)
    assert torch.equal(torch.rand(3, device="cuda"), first)


def test_a_checkpoint_with_a_changed_byte_is_refused(tmp_path):
    path = tmp_path / "a.pt"
    save_checkpoint(path, {"model": {"w": torch.arange(3000.0)}, "epoch": 3})
    content = path.read_bytes()
    source = random.Random(0)
    for start in (content.index(torch.arange(3.0).numpy().tobytes()), content.index(b"epoch")):
        for position in source.sample(range(start, start + 5), 5):
            changed = bytearray(content)
            changed[position] ^= 1 << source.randrange(8)
            path.write_bytes(bytes(changed))
            # torch itself notices nothing in the numbers of a tensor.
            with pytest.raises(RuntimeError, match=r"got .*a\.pt, which is changed since it was w"):
                load_checkpoint(path)


def test_no_damage_is_read_as_another_state(tmp_path):
    path = tmp_path / "a.pt"
    state = {"model": {"w": torch.arange(50.0)}, "epoch": 3, "name": "cat"}
    save_checkpoint(path, state)
    content, whole = path.read_bytes(), load_checkpoint(path)
    source = random.Random(0)
    refused = 0
    for number in range(300):
        changed = bytearray(content)
        changed[source.randrange(len(content))] ^= 1 << source.randrange(8)
        path.write_bytes(
            bytes(changed[: source.randrange(len(content))] if number % 3 else changed)
        )
        try:
            found = load_checkpoint(path)
        except RuntimeError:
            refused += 1
        else:
            assert torch.equal(found["model"].pop("w"), state["model"]["w"])
            assert {**found, "model": {}} == {**whole, "model": {}}
    assert refused > 200
