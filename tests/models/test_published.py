"""Checkpoints and logits of the published networks.

The checkpoints are made up from what is known of their names: a circularly padded convolution sits
in a Sequential behind its padding, one behind a pool in a Sequential with it, the pool of a strided
shortcut comes first there, and fixed kernels are stored.
"""

import json
import math
import re
from pathlib import Path

import pytest
import torch
from model_samples import ROUNDING, build, noise

from shiftproof import load_published
from shiftproof.models.downsampling import SeparatePools
from shiftproof.models.resnet import BasicBlock, Bottleneck, ResNet, Trunk
from shiftproof.models.weights import published_names

PUBLISHED_LOGITS = json.loads(Path(__file__).with_name("published_logits.json").read_text())


def small_network(block, imagenet_stem, adaptive, seed=0, num_classes=10):
    trunk = Trunk(block, (1, 2, 2), (4, 8, 16), imagenet_stem, num_classes)
    downsampling = SeparatePools(kernel_size=3, adaptive=adaptive)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ResNet(trunk, downsampling)
        for tensor in model.state_dict().values():
            if tensor.ndim < 2:
                tensor.copy_(torch.randint(1, 100, tensor.shape))
    return model


def published_name(name, tensor, block, pool_before_conv, circular):
    """The published name of one of our tensors."""
    stage = re.match(r"layer(\d)\.0\.", name)
    strided = stage is not None and stage[1] != "1"
    shortcut = re.fullmatch(r"(.*\.downsample)\.(\d)\.(.*)", name)
    if shortcut:
        return f"{shortcut[1]}.{int(shortcut[2]) + strided}.{shortcut[3]}"
    if tensor.ndim == 4:
        stem = name.removesuffix(".weight")
        last_conv = "conv2" if block is BasicBlock else "conv3"
        if strided and pool_before_conv and stem.endswith(last_conv):
            stem += ".1"
        if circular and tensor.shape[-1] > 1:
            stem += ".1"
        return f"{stem}.weight"
    return name


def published_state(model, block, pool_before_conv, circular, prefix=""):
    kernel = torch.ones(4, 1, 3, 3)
    state = {}
    for name, tensor in model.state_dict().items():
        if name == "layer1.0.conv1.weight" and model.maxpool is not None:
            state[f"{prefix}maxpool.0.filt"] = kernel
            state[f"{prefix}maxpool.3.filt"] = kernel
        if re.match(r"layer[23]\.0\.conv2", name):
            state[prefix + name.replace("weight", "0.filt")] = kernel
        if re.match(r"layer[23]\.0\.downsample\.0", name):
            state[prefix + name.replace("weight", "filt")] = kernel
        state[prefix + published_name(name, tensor, block, pool_before_conv, circular)] = tensor
    return state


def assert_same_state(model, expected):
    state = model.state_dict()
    assert state.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(state[name], tensor), name


def snapshot(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("circular", [True, False], ids=["circular", "zeros"])
@pytest.mark.parametrize(
    ("imagenet_stem", "adaptive", "pool_before_conv"),
    [(True, False, True), (True, True, False), (False, False, True), (False, True, True)],
    ids=["imagenet-lpf", "imagenet-aps", "cifar-lpf", "cifar-aps"],
)
@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
def test_checkpoint(tmp_path, block, imagenet_stem, adaptive, pool_before_conv, circular, prefix):
    theirs = small_network(block, imagenet_stem, adaptive, seed=1)
    state = published_state(theirs, block, pool_before_conv, circular, prefix)
    bare = {name.removeprefix(prefix): value for name, value in state.items()}
    assert state.keys() != theirs.state_dict().keys()
    assert list(published_names(bare)) == list(theirs.state_dict())
    path = tmp_path / "model_best.pth.tar"
    torch.save(state, path)
    ours = small_network(block, imagenet_stem, adaptive)
    load_published(ours, path)
    assert_same_state(ours, theirs.state_dict())


def test_known_names():
    names = {
        "conv1.1.weight": "conv1.weight",
        "conv1.weight": "conv1.weight",
        "layer1.0.conv1.1.weight": "layer1.0.conv1.weight",
        "layer1.0.conv1.weight": "layer1.0.conv1.weight",
        "layer2.0.conv2.1.1.weight": "layer2.0.conv2.weight",
        "layer2.0.conv3.1.weight": "layer2.0.conv3.weight",
        "layer1.0.bn1.weight": "layer1.0.bn1.weight",
        "layer1.0.downsample.1.weight": "layer1.0.downsample.1.weight",
        "fc.weight": "fc.weight",
    }
    for published, expected in names.items():
        assert list(published_names({published: torch.zeros(1)})) == [expected]
    pooled = {f"layer2.0.downsample.{part}": torch.zeros(1) for part in ("1.weight", "2.bias")}
    assert list(published_names(pooled)) == [
        "layer2.0.downsample.0.weight",
        "layer2.0.downsample.1.bias",
    ]


@pytest.mark.parametrize("prefix", ["", "module."])
def test_checkpoint_of_the_training_script(tmp_path, prefix):
    theirs = small_network(BasicBlock, True, True, seed=1)
    state = published_state(theirs, BasicBlock, False, True, prefix)
    path = tmp_path / "checkpoint.pth.tar"
    torch.save({"epoch": 90, "arch": "resnet18_aps3", "state_dict": state}, path)
    ours = small_network(BasicBlock, True, True)
    load_published(ours, path)
    assert_same_state(ours, theirs.state_dict())


def test_other_names_in_the_same_order(tmp_path):
    theirs = small_network(Bottleneck, False, True, seed=1)
    state = {
        f"part{number}.{name.rpartition('.')[2]}": tensor
        for number, (name, tensor) in enumerate(theirs.state_dict().items())
    }
    torch.save(state, tmp_path / "other.pt")
    ours = small_network(Bottleneck, False, True)
    load_published(ours, tmp_path / "other.pt")
    assert_same_state(ours, theirs.state_dict())


def test_other_names_in_another_order_are_refused(tmp_path):
    theirs = small_network(BasicBlock, False, True, seed=1)
    state = {
        f"part{len(name)}.{name}": tensor for name, tensor in reversed(theirs.state_dict().items())
    }
    torch.save(state, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"must fit the network name for name, got missing conv1"):
        load_published(small_network(BasicBlock, False, True), tmp_path / "other.pt")


@pytest.mark.parametrize(
    ("other", "problem"),
    [
        ((Bottleneck, True), "unexpected layer1.0.conv3.weight"),
        ((BasicBlock, False), r"conv1.weight is \(4, 3, 3, 3\), not \(4, 3, 7, 7\)"),
        ((BasicBlock, True), r"fc.weight is \(9, 16\), not \(10, 16\)"),
    ],
    ids=["block", "stem", "classes"],
)
def test_another_architecture_is_refused_and_nothing_changes(tmp_path, other, problem):
    block, imagenet_stem = other
    theirs = small_network(block, imagenet_stem, True, seed=1, num_classes=9)
    torch.save(published_state(theirs, block, True, True, "module."), tmp_path / "other.pt")
    ours = small_network(BasicBlock, True, True)
    before = snapshot(ours)
    with pytest.raises(ValueError, match=problem):
        load_published(ours, tmp_path / "other.pt")
    assert_same_state(ours, before)


def test_missing_file(tmp_path):
    with pytest.raises(RuntimeError, match=r"weights must be a file, got .*nothing.pt; check"):
        load_published(small_network(BasicBlock, False, True), tmp_path / "nothing.pt")


def fill(model):
    """The weights with which the published networks were run: one generator for all tensors."""
    source = torch.Generator().manual_seed(0)
    for name, tensor in model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        if name.endswith("running_var") or (tensor.ndim == 1 and name.endswith("weight")):
            tensor.copy_(torch.rand(tensor.shape, generator=source) * 0.5 + 0.75)
        elif tensor.ndim == 1:
            tensor.copy_(torch.randn(tensor.shape, generator=source) * 0.1)
        else:
            scale = math.sqrt(2 / tensor[0].numel())
            tensor.copy_(torch.randn(tensor.shape, generator=source) * scale)


@torch.no_grad()
@pytest.mark.parametrize("name", PUBLISHED_LOGITS)
def test_logits_of_the_published_networks(name):
    model = build(name).eval()
    fill(model)
    expected = torch.tensor(PUBLISHED_LOGITS[name]["first_ten_logits"])
    images = noise(*PUBLISHED_LOGITS[name]["input_shape"], seed=1)
    tolerance = ROUNDING * expected.std()
    assert (model(images)[:, :10] - expected).abs().max() < tolerance
    control = build(name.replace("aps", "lpf")).eval()
    control.load_state_dict(model.state_dict())
    assert (control(images)[:, :10] - expected).abs().max() > tolerance
