"""Layers take the arguments of torch's layers that they stand for, or say in one line why not."""

import numpy as np
import pytest
import torch

from maps import random_map, whole_map
from shiftproof import nn, ops


@pytest.mark.parametrize("padding_mode", ["circular", "zeros", "reflect"])
@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3, "padding": "same"},
        {"kernel_size": (4, 3), "padding": "same", "dilation": (1, 2)},
        {"kernel_size": 3, "padding": "valid", "stride": 2},
        {"kernel_size": 3, "padding": np.int64(1), "stride": np.int64(2)},
        {"kernel_size": np.int64(3), "padding": [2, 1]},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_a_convolution_takes_torch_s_arguments(options, padding_mode):
    ours, theirs = (
        kind(2, 3, padding_mode=padding_mode, **options) for kind in (nn.Conv2d, torch.nn.Conv2d)
    )
    theirs.load_state_dict({name: whole_map(*v.shape) for name, v in ours.state_dict().items()})
    ours.load_state_dict(theirs.state_dict())
    x = whole_map(2, 2, 6, 8)
    assert torch.equal(ours(x), theirs(x))
    assert torch.equal(ours(x[0]), theirs(x[0]))  # without its batch axis, as torch takes it
    if options.get("stride") is None:
        phase = torch.tensor([0, 0])
        assert torch.equal(ours(x, phase), theirs(x))


def test_a_convolution_crops_where_circular_padding_is_negative():
    ours, theirs = (
        kind(1, 1, 3, padding=(-1, 1), padding_mode="circular", bias=False)
        for kind in (nn.Conv2d, torch.nn.Conv2d)
    )
    theirs.weight.data = ours.weight.data = whole_map(1, 1, 3, 3)
    x = whole_map(1, 1, 6, 6)
    assert torch.equal(ours(x), theirs(x))
    assert torch.equal(ours(x, 0), theirs(x))


@pytest.mark.parametrize("dilation", [1, 2])
def test_a_max_pool_takes_torch_s_arguments_in_their_order(dilation):
    x = random_map(2, 3, 8, 9).relu()
    for arguments in [
        (3, 2, 1),
        (2,),
        ((3, 2), (2, 1)),
        (np.int64(3), torch.tensor(2), np.int8(1)),
    ]:
        plain = [part if isinstance(part, tuple) else int(part) for part in arguments]
        ours = nn.MaxPool2d(*arguments, padding_mode="zeros", dilation=dilation)
        theirs = torch.nn.MaxPool2d(*plain, dilation=dilation)
        assert torch.equal(ours(x), theirs(x))
        assert torch.equal(ours(x[0]), theirs(x[0]))


LAYERS = [
    (nn.Conv2d, {"in_channels": 1, "out_channels": 1, "kernel_size": 3}),
    (nn.MaxPool2d, {"kernel_size": 3}),
    (nn.LowPass2d, {"kernel_size": 3}),
    (nn.BlurPool2d, {"kernel_size": 3}),
    (nn.PolyphaseDownsample2d, {"stride": 2}),
]


@pytest.mark.parametrize(
    ("layer", "options"), LAYERS, ids=lambda part: getattr(part, "__name__", "")
)
def test_a_size_is_an_integer_of_any_kind_and_no_truth_value(layer, options):
    names = {"kernel_size", "stride", "padding", "dilation"} & {
        *options,
        *(["padding", "dilation", "stride"] if "Pool2d" in layer.__name__ else []),
    }
    for name in names - ({"padding", "dilation"} if layer is nn.BlurPool2d else set()):
        layer(**{**options, name: torch.tensor(2)})
        for value in (True, 1.5, "a"):
            with pytest.raises(
                TypeError, match=f"{layer.__name__}: {name} must be made of integers"
            ):
                layer(**{**options, name: value})


@pytest.mark.parametrize(
    "layer",
    [
        nn.LowPass2d(3),
        nn.BlurPool2d(),
        nn.PolyphaseDownsample2d(),
        nn.AlignPhase2d(),
        nn.SelectPhase2d(),
        nn.SelectPhase2d(2, nn.FirstPhase()),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_a_map_without_its_batch_axis_is_refused_with_the_way_out(layer):
    with pytest.raises(ValueError, match=r"add the batch axis with unsqueeze\(0\)"):
        layer(torch.zeros(3, 4, 4))


def test_a_part_of_a_layer_is_a_module():
    for part in (nn.LargestNorm, "largest", 3):
        with pytest.raises(TypeError, match="SelectPhase2d: selector must be a module, got"):
            nn.AlignPhase2d(2, part)
        for layer in (nn.PolyphaseDownsample2d, nn.PolyphaseUpsample2d):
            with pytest.raises(TypeError, match=f"{layer.__name__}: lowpass must be a module"):
                layer(2, lowpass=part)


def test_a_phase_without_a_batch_is_refused_with_the_way_out():
    conv = nn.Conv2d(1, 1, 3, 2, 1, padding_mode="circular")
    for layer in (conv, nn.MaxPool2d(3, 2, 1)):
        with pytest.raises(ValueError, match=r"add the batch axis with unsqueeze\(0\)"):
            layer(torch.zeros(1, 4, 4), torch.tensor([0]))
    up = nn.PolyphaseUpsample2d()
    with pytest.raises(ValueError, match=r"add the batch axis with unsqueeze\(0\)"):
        up(torch.zeros(1, 4, 4), torch.tensor([0]))
    assert torch.equal(up(torch.ones(2, 1, 2, 2), 3), ops.place_phase(torch.ones(2, 1, 2, 2), 3, 2))
