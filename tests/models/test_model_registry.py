import pytest
from model_samples import build
from torch import nn

from shiftproof import create_model, list_models
from shiftproof.models.registry import ModelEntry, register_model
from shiftproof.nn import FirstPhase, LargestNorm, SelectPhase2d

TRUNKS = [f"resnet{depth}" for depth in (18, 34, 50, 101, 152)]
TRUNKS += [f"cifar_resnet{depth}" for depth in (20, 56, 18, 34, 50)]


def test_every_trunk_in_every_placement():
    placements = ["", *(f"_{kind}{size}" for kind in ("lpf", "aps") for size in range(1, 8)), "_pa"]
    assert list_models() == [trunk + placement for trunk in TRUNKS for placement in placements]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("resnet18_lpf[12]", ["resnet18_lpf1", "resnet18_lpf2"]),
        ("*resnet50_pa", ["resnet50_pa", "cifar_resnet50_pa"]),
        ("cifar_resnet20", ["cifar_resnet20"]),
        ("RESNET*", []),
        ("", []),
    ],
)
def test_patterns(pattern, names):
    assert list_models(pattern) == names


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("resnet18_aps9", "resnet18_aps"),
        ("resnet18-pa", "resnet18_pa"),
        ("cifar_resnet20_asp3", "cifar_resnet20_aps3"),
        ("ResNet50", "resnet50"),
    ],
)
def test_unknown_name_lists_the_nearest(name, nearest):
    message = f"name must be a registered model, got {name!r}; did you mean .*{nearest}.*\\?$"
    with pytest.raises(ValueError, match=message):
        create_model(name)


@pytest.mark.parametrize("name", ["vgg", ""])
def test_unknown_name_without_a_near_one(name):
    message = f"got {name!r}; list_models\\(\\) names them"
    with pytest.raises(ValueError, match=message):
        create_model(name)


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("resnet18", "selector"),
        ("resnet18_lpf3", "selector"),
        ("resnet18_pa", "pool_only"),
        ("cifar_resnet20_aps3", "pool_only"),
        ("resnet18_lpf3", "score_before_lowpass"),
        ("resnet18_aps3", "kernel_size"),
        ("resnet18_aps3", "aligned"),
    ],
)
def test_unknown_option(name, option):
    message = f"options of {name} must be among padding_mode.*, got '{option}'; leave it out"
    with pytest.raises(ValueError, match=message):
        create_model(name, **{option: None})


@pytest.mark.parametrize("name", ["resnet18", "resnet18_aps3", "cifar_resnet20", "resnet18_pa"])
@pytest.mark.parametrize("mode", ["replicate", "zero"])
def test_unknown_padding_mode(name, mode):
    message = f"padding_mode must be one of circular, zeros, reflect, got '{mode}'"
    with pytest.raises(ValueError, match=message):
        create_model(name, padding_mode=mode)


def test_a_name_is_registered_once():
    with pytest.raises(ValueError, match="names must be unique, got 'resnet18' twice; rename one"):
        register_model("resnet18", ModelEntry(nn.Identity))
    assert isinstance(create_model("resnet18", num_classes=2).fc, nn.Linear)


@pytest.mark.parametrize("name", ["resnet18_aps3", "resnet18_pa", "cifar_resnet20_aps1"])
@pytest.mark.parametrize("selector", [None, LargestNorm(1)], ids=["default", "given"])
def test_layers_do_not_share_selectors(name, selector):
    model = build(name, selector=selector)
    selectors = [module.selector for module in model.modules() if isinstance(module, SelectPhase2d)]
    assert len(selectors) == (5 if name.startswith("resnet") else 2)
    assert len({id(module) for module in [*selectors, selector]}) == len(selectors) + 1
    assert {module.order for module in selectors} == {1 if selector else 2}


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("resnet18", {}, False),
        ("resnet18_lpf7", {}, False),
        ("resnet18_aps1", {}, True),
        ("resnet18_aps1", {"pool_only": True}, False),
        ("resnet18_aps1", {"padding_mode": "zeros"}, False),
        ("resnet18_pa", {}, True),
        ("resnet18_pa", {"padding_mode": "reflect"}, False),
        ("resnet18_pa", {"selector": FirstPhase()}, False),
        ("cifar_resnet20_aps2", {}, True),
        ("cifar_resnet20_aps2", {"score_before_lowpass": False}, True),
    ],
)
def test_is_shift_invariant(name, options, expected):
    assert create_model(name, **options).is_shift_invariant is expected
