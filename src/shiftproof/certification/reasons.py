"""Why a module or a function loses the orbit, in words."""

import math
import re
from collections.abc import Callable
from typing import Any

from torch import nn

from shiftproof import nn as layers
from shiftproof.certification.observation import Observation
from shiftproof.certification.trace import Step
from shiftproof.certification.windows import (
    BORDERS,
    function_window,
    module_window,
    shown,
    transposed_fault,
)

UNEXPLAINED = "its output is no circular shift of what it was"
UNSTEADY = "its output differs for the same input"

_ADDITIONS = {"add", "radd", "iadd", "sub", "rsub", "isub", "cat", "concat", "concatenate", "stack"}
_PRODUCTS = {"mul", "rmul", "imul", "multiply", "div", "truediv", "rtruediv", "divide"}

_POSITION = re.compile(r"(^|_)pos(_|$|ition|emb)")

_DOWNSAMPLES = (
    layers.PolyphaseDownsample1d,
    layers.PolyphaseDownsample2d,
    layers.PolyphaseDownsample3d,
)


def _first_map(values: list[Observation]) -> Observation | None:
    return next((value for value in values if value.grid is not None), None)


def _grid_of(values: list[Observation]) -> tuple[int, ...] | None:
    found = _first_map(values)
    return None if found is None else found.grid


def _sides_of(values: list[Observation]) -> tuple[int, ...] | None:
    found = _first_map(values)
    return None if found is None else found.sides


def _cells(target: tuple[int, ...] | None) -> str | None:
    if target is None or math.prod(target) == 1:
        return None
    return f"adaptive pooling to {shown(target)} cells, which stay where they are"


def _interpolation(source: Observation, target: tuple[int, ...] | None, mode: str) -> str | None:
    if source.grid is None or target is None:
        return None
    pairs = list(zip(source.grid, target, strict=True))
    if any(new % old and old % new for old, new in pairs):
        return f"interpolation from {shown(source.grid)} to {shown(target)}, which is no multiple"
    if any(new < old for old, new in pairs):
        return f"interpolation from {shown(source.grid)} to {shown(target)} keeps a fixed grid"
    if mode.startswith("nearest"):
        return None
    return f"{mode} interpolation repeats the pixels at the border"


def _padding_module(module: nn.Module) -> str | None:
    name = type(module).__name__.lower()
    for start, mode in {
        "zeropad": "zeros",
        "constantpad": "constant",
        "reflectionpad": "reflect",
        "replicationpad": "replicate",
    }.items():
        if name.startswith(start):
            return BORDERS[mode]
    return None


def _space_to_depth(factor: object) -> str:
    return f"space to depth by {factor} turns phases into channels, which then change places"


def _flattening(source: Observation) -> str | None:
    if source.grid is None or math.prod(source.grid) == 1:
        return None
    return f"flattens a map of {shown(source.grid)}, so that what follows sees each position"


def _mixing(step: Step) -> str | None:
    source = _first_map(step.inputs)
    if not isinstance(step.module, nn.Linear) or source is None or source.grid is None:
        return None
    positions = math.prod(source.grid)
    if step.module.in_features != positions:
        return None
    return f"a linear layer across {positions} positions, with weights of its own for each"


def _is_vector(values: list[Observation]) -> bool:
    return bool(values) and len(values[0].shape) == 2


def module_reason(step: Step, pair: int) -> str | None:
    """Explain a module by what it is.

    Args:
        step: A call of a module that loses the orbit.
        pair: Number of the pair for which it does.

    Returns:
        The reason; None if the module is of no known kind, or does nothing wrong that is known.
    """
    module, source = step.module, _first_map(step.inputs)
    if source is None or source.grid is None:
        return None
    target = _grid_of(step.outputs)
    window = module_window(module)
    if window is not None:
        faults = window.faults(source, _sides_of(step.outputs), pair)
        return "; ".join(faults) or None
    if isinstance(module, _DOWNSAMPLES):
        selector = type(module.select.selector).__name__
        return f"the phase that {selector} chooses does not move with the content"
    name = type(module).__name__
    if name.startswith(("AdaptiveAvgPool", "AdaptiveMaxPool")):
        return _cells(target)
    if isinstance(module, nn.Upsample):
        return _interpolation(source, target, module.mode)
    if isinstance(module, nn.PixelUnshuffle):
        return _space_to_depth(module.downscale_factor)
    if isinstance(module, nn.Linear):
        return _mixing(step)
    if isinstance(module, nn.Flatten):
        return _flattening(source)
    if isinstance(module, nn.LayerNorm) and len(module.normalized_shape) > 1:
        return "normalisation with weights of its own for each position"
    return transposed_fault(module) or _padding_module(module)


def likely_reason(step: Step) -> str | None:
    """Explain a module by what its shapes and names suggest, where nothing better is known.

    Args:
        step: A call of a module that loses the orbit.

    Returns:
        The reason; None if nothing suggests one.
    """
    module, source = step.module, _first_map(step.inputs)
    if source is None or source.grid is None:
        return None
    if source.sides is not None and source.sides != source.grid:
        return (
            f"reads a map of {shown(source.grid)} that circular padding has made "
            f"{shown(source.sides)}, and pads or pools it again"
        )
    if hasattr(module, "window_size"):
        size: Any = module.window_size
        window = size if isinstance(size, (list, tuple)) else [size] * len(source.grid)
        return f"attention in windows of {shown(window)}, which stay where they are"
    if any(_POSITION.search(key) for key, _ in module.named_parameters(recurse=False)):
        return "position embedding"
    return next((fault for fault in map(_mixing, step.children) if fault), None)


def _pad(step: Step) -> str | None:
    given = [*step.arguments, *step.options.values()]
    mode = next((value for value in given if isinstance(value, str)), "constant")
    value = step.options.get("value", step.arguments[3] if len(step.arguments) > 3 else None)
    return BORDERS.get("zeros" if mode == "constant" and not value else mode)


def _combination(step: Step, pair: int) -> str | None:
    """Two maps that moved differently, or a map and something that stays where it is."""
    maps = [value for value in step.inputs if value.shifts is not None and value.grid]
    moved = {value.shifts[pair] for value in maps if value.shifts is not None}
    fixed = [
        value
        for value in (*_observations(step.arguments), *maps)
        if value.is_constant and math.prod(value.shape[1:] if value.in_orbit else value.shape) > 1
    ]
    operation = step.function.strip("_")
    if fixed and any(not value.is_constant for value in maps):
        source = fixed[0].source or "a tensor"
        if operation in _ADDITIONS:
            return f"position embedding: {source} stays where it is"
        if operation in _PRODUCTS:
            return f"weights of positions: {source} stays where it is"
        return None
    if len(moved) < 2:
        return None
    parts = [
        f"{value.source or 'an input'} moved by {value.shifts[pair]}"
        for value in maps
        if value.shifts is not None
    ]
    return f"two branches aligned differently: {', '.join(parts)}"


def _observations(arguments: object) -> list[Observation]:
    if isinstance(arguments, Observation):
        return [arguments]
    if isinstance(arguments, tuple):
        return [value for part in arguments for value in _observations(part)]
    return []


def _slicing(step: Step) -> str | None:
    index = step.arguments[1] if len(step.arguments) > 1 else None
    parts = index if isinstance(index, tuple) else (index,)
    strides = [
        part.step for part in parts if isinstance(part, slice) and part.step not in (None, 1)
    ]
    if strides:
        return f"slicing with stride {max(strides)} keeps phase 0 whatever the content"
    return "slicing cuts the map at a fixed place"


def _phases(step: Step) -> str | None:
    if step.function in ("take_phase", "align_phase", "place_phase"):
        return f"{step.function} is given a phase that does not move with the content"
    return None


def function_reason(step: Step, pair: int) -> str | None:
    """Explain a call of a function between modules.

    Args:
        step: A call that loses the orbit.
        pair: Number of the pair for which it does.

    Returns:
        The reason; None if the function is not known.
    """
    source = _first_map(step.inputs)
    if source is None or source.grid is None:
        return None
    target = _grid_of(step.outputs)
    window = function_window(step)
    if window is not None:
        faults = window.faults(source, _sides_of(step.outputs), pair)
        return "; ".join(faults) or None
    if step.function in ("interpolate", "upsample"):
        mode = step.options.get("mode", step.arguments[3] if len(step.arguments) > 3 else "nearest")
        return _interpolation(source, target, str(mode))
    if "adaptive" in step.function:
        return _cells(target)
    if step.function == "pixel_unshuffle":
        return _space_to_depth(step.options.get("downscale_factor", step.arguments[-1]))
    if step.function == "__getitem__":
        return _slicing(step)
    if _is_vector(step.outputs) and step.function in ("flatten", "reshape", "view"):
        return _flattening(source)
    explain: tuple[Callable[[], str | None], ...] = (
        lambda: _pad(step) if step.function == "pad" else None,
        lambda: _phases(step),
        lambda: _combination(step, pair),
    )
    return next((reason for reason in (attempt() for attempt in explain) if reason), None)
