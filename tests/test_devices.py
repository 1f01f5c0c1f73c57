"""What an accelerator would run, without one: fake tensors that neither the host nor Python reads.

On ``cuda`` shapes and devices are followed forwards; on ``meta``, whose gradients need no driver,
also backwards.  Both take the way of an accelerator in eager mode.
"""

import functools
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import shiftproof
from shiftproof import motion, nn, ops
from shiftproof.data import transforms
from shiftproof.motion.pans import Pan
from shiftproof.ops import overrides

DEVICES = ("cuda", "meta")
DYNAMIC = {torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output}


class WaitingError(Exception):
    """The host would have waited for the accelerator."""


class RefuseWaiting(TorchDispatchMode):
    """Refuses reads of values, copies from and to the host, and operations that mix the two."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        away = [x for x in given if x.device.type != "cpu"]
        masks = [x for x in given[1:] if x.dtype in (torch.bool, torch.uint8)]
        is_index = func in (torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default)
        if away and DYNAMIC & set(func.tags) and (masks or not is_index):
            raise WaitingError(f"{func} reads values")
        if away and any(x.device.type == "cpu" and x.ndim > 0 for x in given):
            raise WaitingError(f"{func} mixes the host and the device")
        result = func(*args, **(kwargs or {}))
        made = [x for x in tree_leaves(result) if isinstance(x, Tensor)]
        kinds = {x.device.type for x in (*given, *made)}
        if given and made and len(kinds) > 1 and "copy" in str(func):
            raise WaitingError(f"{func} copies between the host and the device")
        return result


@pytest.fixture(autouse=True)
def _as_in_eager_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fake tensors are asked nothing that tensors of an accelerator are not asked."""
    original = overrides.may_read_values
    for name, module in list(sys.modules.items()):
        if name.startswith("shiftproof.") and vars(module).get("may_read_values") is original:
            monkeypatch.setattr(
                module, "may_read_values", lambda x: not torch.compiler.is_compiling()
            )


def moved(module: torch.nn.Module, device: str) -> torch.nn.Module:
    """The module with parameters and buffers without values on a device."""
    for part in module.modules():
        for table, kind in ((part._parameters, torch.nn.Parameter), (part._buffers, torch.Tensor)):
            for name, x in table.items():
                if x is not None:
                    value = torch.empty(x.shape, dtype=x.dtype, device=device)
                    table[name] = value if kind is torch.Tensor else kind(value)
    return module


def run(made: Callable[[], Callable[..., Any]], device: str, *shapes: tuple[int, ...]) -> None:
    """Run a module or function forwards, and backwards where that can be."""
    with FakeTensorMode():
        call = made()
        call = moved(call, device) if isinstance(call, torch.nn.Module) else call
        given = [torch.empty(shape, device=device, requires_grad=True) for shape in shapes]
        with RefuseWaiting():
            outputs = [x for x in tree_leaves(call(*given)) if isinstance(x, Tensor)]
            assert all(x.device.type == device for x in outputs)
            slopes = [x.square().sum() for x in outputs if x.requires_grad]
            if slopes and device == "meta":
                functools.reduce(torch.add, slopes).backward()


def phases(x: Tensor) -> Tensor:
    return torch.arange(x.shape[0], device=x.device)


def rows(x: Tensor) -> Tensor:
    return torch.stack([phases(x)] * (x.ndim - 2), 1)


OPERATIONS: dict[str, tuple[Callable[..., Any], ...]] = {
    "align_phase": (
        lambda x: ops.align_phase(x, phases(x), 2),
        lambda x: ops.align_phase(x, phases(x), (2, 4), (3, 1), (0, 2)),
        lambda x: ops.align_phase(x.to(memory_format=torch.channels_last), phases(x), 2),
    ),
    "circular_shift": (
        lambda x: ops.circular_shift(x, (1, -2)),
        lambda x: ops.circular_shift(x, rows(x)),
    ),
    "crop_shift": (
        lambda x: ops.crop_shift(x, (1, 0), (4, 4)),
        lambda x: ops.crop_shift(x, rows(x), (4, 4)),
    ),
    "first_phase": (lambda x: ops.first_phase(x, 2),),
    "fractional_shift": (
        lambda x: ops.fractional_shift(x, (0.25, -1)),
        lambda x: ops.fractional_shift(x, 0.3 * rows(x)),
        lambda x: ops.fractional_shift(x, 0.3 * rows(x), "bilinear"),
    ),
    "global_mean": (lambda x: ops.global_mean(x),),
    "largest_values": (lambda x: ops.largest_values(x, 2),),
    "lowpass": (
        lambda x: ops.lowpass(x, x.new_ones(3, 3)),
        lambda x: ops.lowpass(x, x.new_ones(1, 1), stride=(2, 4)),
        lambda x: ops.lowpass(x, x.new_ones(2, 4), "reflect", 2),
    ),
    "pad": (
        *(lambda x, m=mode: ops.pad(x, (1, 1), (0, 2), m) for mode in ops.padding.PADDING_MODES),
        *(lambda x, m=mode: ops.pad(x, (9, 1), (0, 30), m) for mode in ops.padding.PADDING_MODES),
    ),
    "phase_index": (lambda x: ops.phase_index(rows(x), (2, 4)),),
    "phase_offsets": (lambda x: ops.phase_offsets(phases(x), (2, 4)),),
    "phase_scores": tuple(
        lambda x, n=norm: ops.phase_scores(x, (2, 4), n) for norm in (1, 2, float("inf"))
    ),
    "place_phase": (
        lambda x: ops.place_phase(x, phases(x), 2),
        lambda x: ops.place_phase(x.to(memory_format=torch.channels_last), phases(x), (2, 3)),
    ),
    "polyphase_merge": (lambda x: ops.polyphase_merge(ops.polyphase_split(x, 2), 2),),
    "polyphase_split": (lambda x: ops.polyphase_split(x, (2, 4)),),
    "select_phase": (
        lambda x: ops.select_phase(x, 2),
        lambda x: ops.select_phase((x, x.square()), (2, 4)),
        lambda x: ops.select_phase(x, 2, ops.largest_values(x, 2)),
    ),
    "shift_phase": (
        lambda x: ops.shift_phase(phases(x), rows(x), (2, 4)),
        lambda x: ops.shift_phase(phases(x), rows(x), (2, 2)),
    ),
    "take_phase": (
        lambda x: ops.take_phase(x, phases(x), 2),
        lambda x: ops.take_phase(x.to(memory_format=torch.channels_last), phases(x), (2, 4)),
    ),
    "zero_fill_shift": (
        lambda x: ops.zero_fill_shift(x, (1, 0)),
        lambda x: ops.zero_fill_shift(x, rows(x)),
    ),
}
SELECTORS: dict[str, tuple[Callable[[], torch.nn.Module], ...]] = {
    "CornerStrength": (nn.CornerStrength,),
    "DifferenceOfGaussians": (nn.DifferenceOfGaussians,),
    "Energy": (nn.Energy, lambda: nn.Energy(1)),
    "FirstPhase": (nn.FirstPhase,),
    "LargestNorm": (nn.LargestNorm, lambda: nn.LargestNorm(1), lambda: nn.LargestNorm(torch.inf)),
    "LargestValue": (nn.LargestValue,),
    "DarkestPhase": (nn.DarkestPhase,),
    "SmallestNorm": (nn.SmallestNorm,),
    "Tapered": (nn.Tapered, lambda: nn.Tapered(taper="tukey")),
}


def scored(selector: Callable[[], torch.nn.Module]) -> Callable[..., Any]:
    return lambda x: selector()(x, 2)


class Upsampled(torch.nn.Module):
    """Down and up again, with one phase."""

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.select = getattr(nn, f"SelectPhase{dims}d")(2)
        lowpass = getattr(nn, f"LowPass{dims}d")(3)
        self.up = getattr(nn, f"PolyphaseUpsample{dims}d")(2, lowpass)

    def forward(self, x: Tensor) -> Tensor:
        phase = self.select(x)
        return self.up(ops.take_phase(x, phase, 2), phase)


def layers(dims: int) -> dict[str, Callable[[], torch.nn.Module]]:
    """The layers of a number of axes, by name."""
    lowpass = getattr(nn, f"LowPass{dims}d")
    options: dict[str, Callable[[], tuple[Any, ...]]] = {
        "AlignPhase": lambda: (2,),
        "BlurPool": lambda: (3,),
        "GridLock": lambda: (4, None, None, "replicate"),
        "LowPass": lambda: (4, "reflect"),
        "PolyphaseDownsample": lambda: (2, None, lowpass(3)),
        "SelectPhase": lambda: (2,),
    }
    made = {
        f"{name}{dims}d": lambda name=name, given=given: getattr(nn, f"{name}{dims}d")(*given())
        for name, given in options.items()
    }
    return {**made, f"PolyphaseUpsample{dims}d": lambda: Upsampled(dims)}


LAYERS: dict[str, tuple[int, Callable[[], torch.nn.Module]]] = {
    **{name: (dims, made) for dims in (1, 2, 3) for name, made in layers(dims).items()},
    "Conv2d": (2, lambda: nn.Conv2d(3, 4, 3, 2, 1, padding_mode="circular")),
    "GlobalMean": (2, nn.GlobalMean),
    "MaxPool2d": (2, lambda: nn.MaxPool2d(3, 2, (1, 1))),
}
INTERPOLATIONS: dict[str, Callable[[], torch.nn.Module]] = {
    "BandLimited": nn.BandLimited,
    "WholePixels": nn.WholePixels,
}


def test_nothing_public_is_left_out() -> None:
    # A kernel is made once, on the host, and kept in a buffer.
    assert {*OPERATIONS, "binomial_kernel"} == set(ops.__all__)
    assert {*LAYERS, *SELECTORS, *INTERPOLATIONS} == set(nn.__all__)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_do_not_wait(name: str, device: str) -> None:
    for operation in OPERATIONS[name]:
        run(lambda operation=operation: operation, device, (2, 3, 8, 12))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", [*LAYERS, *SELECTORS])
def test_layers_do_not_wait(name: str, device: str) -> None:
    if name in LAYERS:
        dims, made = LAYERS[name]
        return run(made, device, (2, 3, *(8, 12, 16)[:dims]))
    for selector in SELECTORS[name]:
        run(lambda selector=selector: scored(selector), device, (2, 3, 8, 12))
    return None


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("selector", SELECTORS)
def test_locks_do_not_wait(selector: str, interpolation: str, device: str) -> None:
    def lock() -> torch.nn.Module:
        parts = SELECTORS[selector][0](), INTERPOLATIONS[interpolation]()
        return nn.GridLock2d((4, 2), *parts, padding_mode="replicate", margin=(4, 0))

    run(lock, device, (2, 3, 16, 12))


def locked_model() -> torch.nn.Module:
    """Two maps and a class of each pixel, moved back; outside of fake tensors."""

    class Segmenter(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 4, 3, (4, 2), 1)

        def forward(self, x: Tensor) -> list[Tensor]:
            y = self.conv(x)
            return [y, torch.nn.functional.interpolate(y, x.shape[2:]).argmax(1)]

    return shiftproof.lock_grid(Segmenter(), torch.zeros(1, 3, 32, 32))


@pytest.mark.parametrize("device", DEVICES)
def test_a_locked_network_does_not_wait(device: str) -> None:
    locked = locked_model()
    assert len(locked.summary.outputs) == 2
    run(lambda: locked, device, (2, 3, 32, 32))


PREPARED: dict[str, Callable[[], Callable[[Tensor], Any]]] = {
    "LockedCrop": lambda: motion.LockedCrop(16, 4),
    "LockedCrop between pixels": lambda: motion.LockedCrop(
        (16, 20), (4, 2), resize_size=(30, 25), interpolation="bilinear"
    ),
    "Pan": lambda: lambda x: Pan((0.5, 1.0), 3, 16).frames(x[0]),
    "Normalize": lambda: (
        lambda x: transforms.Normalize((0.4, 0.5, 0.6), (0.2,))(
            x.detach().to(torch.uint8), torch.Generator()
        )
    ),
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", PREPARED)
def test_images_are_prepared_without_waiting(name: str, device: str) -> None:
    run(PREPARED[name], device, (2, 3, 48, 40))


QUICK = ("resnet18_lpf3", "resnet18_aps3", "resnet18_pa", "resnet50_pa", "cifar_resnet20_aps3")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
        for name in shiftproof.list_models()
    ],
)
def test_the_zoo_does_not_wait(name: str, device: str) -> None:
    run(lambda: shiftproof.create_model(name), device, (2, 3, 64, 64))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("mobilenet_v3_small", "vit_b_32")),
        pytest.param("swin_t", marks=pytest.mark.slow),
    ],
)
def test_converted_networks_do_not_wait(name: str, device: str) -> None:
    models = pytest.importorskip("torchvision.models")
    options = {"image_size": 64} if name.startswith("vit") else {}
    with torch.device("meta"):
        model = models.get_model(name, weights=None, **options)
        conversion = shiftproof.convert(model.eval(), torch.zeros(2, 3, 64, 64))
    run(lambda: conversion.model, device, (2, 3, 64, 64))


def asks(x: Tensor) -> Tensor:
    return -x if x.max() > 0 else x


CONTROLS: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "a constant moved over": (lambda x: x + torch.tensor([1.0, 2.0]).to(x.device), "copies"),
    "a constant made there": (lambda x: x + torch.tensor([1.0, 2.0], device=x.device), "copies"),
    "one like the input": (lambda x: x + x.new_tensor([1.0, 2.0]), "copies"),
    "a copy into the input": (lambda x: x.clone().copy_(torch.ones(2)), "mixes"),
    "a copy to the host": (lambda x: x.cpu(), "copies"),
    "a branch": (asks, "reads"),
    "values in a list": (lambda x: x.tolist(), "reads"),
    "a comparison": (lambda x: torch.equal(x, x), "reads"),
    "a mask": (lambda x: x[x > 0], "reads"),
    "places of a mask": (lambda x: (x > 0).nonzero(), "reads"),
    "an index of the host": (lambda x: x[torch.tensor([0, 1])], "mixes"),
    "writing to an index of the host": (
        lambda x: x.clone().index_put_((torch.arange(2),), x),
        "mix",
    ),
}


@pytest.mark.parametrize("name", CONTROLS)
def test_control_what_waits_is_refused(name: str) -> None:
    operation, message = CONTROLS[name]
    with pytest.raises(WaitingError, match=message):
        run(lambda: operation, "cuda", (2, 2))


def test_control_the_way_of_the_host_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("scores", "shift", "resample"):
        monkeypatch.setattr(sys.modules[f"shiftproof.ops.{name}"], "may_branch", lambda x: True)
    for made in (lambda: nn.SelectPhase2d(2), lambda: nn.GridLock2d(2), PREPARED["LockedCrop"]):
        with pytest.raises(WaitingError, match="reads values"):
            run(made, "cuda", (2, 3, 48, 40))


class Constants(torch.nn.Module):
    """What takes numbers per axis: strides, borders, reaches, factors and shifts."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        start = x.mean((1, 3))[:, :2]
        return (
            *ops.shift_phase(phases(x), rows(x), (2, 4)),
            ops.align_phase(x, phases(x), (2, 4), (3, 1), (0, 2)),
            ops.circular_shift(x, (1, -2)),
            nn.BandLimited()(x, start, (8, 8), (1, 2), "replicate"),
            nn.WholePixels()(x, start, (8, 8), (1, 2), "replicate"),
            nn.GridLock2d((4, 2), margin=(4, 2))(x, start),
        )


def test_an_exported_program_holds_no_constants() -> None:
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    program = torch.export.export(Constants(), (x,), strict=True)
    assert not program.constants
    # A window between pixels is summed in another order in a graph.
    torch.testing.assert_close(tuple(program.module()(x)), Constants()(x))
