"""For which sizes of the input a network does what it did with the example."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import CodeType
from typing import Any

import torch
from torch import Tensor, nn
from torch._dispatch.python import enable_python_dispatcher
from torch._dynamo.source import ConstantSource
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext
from torch.utils._sympy.printers import PythonPrinter

from shiftproof.analysis.capture import Tracer
from shiftproof.inputs import Inputs
from shiftproof.nested import tensors_in

_LONGEST = 60
"""Operations in the formula of a size, at most."""

_LARGEST = 64
"""Multiples of the period that are tried, per axis."""


class _Simple(Tracer):
    """Gives up where sizes become formulas that take torch minutes to simplify."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Call a function, and look at the sizes of what it gives."""
        result = super().__torch_function__(func, types, args, kwargs)
        sizes: list[Any] = [size for tensor in tensors_in((result, args)) for size in tensor.shape]
        symbols = [size for size in sizes if isinstance(size, torch.SymInt)]
        if any(size.node.expr.count_ops() > _LONGEST for size in symbols):
            raise RuntimeError("sizes that are too complicated")
        return result


def least_sizes(model: nn.Module, inputs: Inputs, periods: Sequence[int]) -> tuple[int, ...] | None:
    """The smallest multiples of some periods from which on Python decides nothing else by sizes.

    The network is followed with symbols in the place of the sizes of the images; every comparison
    that its code makes is then a condition on them.

    Args:
        model: The network; it is left as it is.
        inputs: Its arguments.
        periods: What a size must be a multiple of, per axis.

    Returns:
        The sizes; None if there are none, or the network cannot be followed in this way.
    """
    env = ShapeEnv()
    mode = FakeTensorMode(shape_env=env, static_shapes=False, allow_non_fake_inputs=True)
    images, dims = inputs.tensors[0], inputs.dims
    dynamic = [
        DimDynamic.DYNAMIC if dim in dims else DimDynamic.STATIC for dim in range(images.ndim)
    ]
    fake = mode.from_tensor(
        images,
        source=ConstantSource("images"),
        symbolic_context=StatelessSymbolicContext(dynamic_sizes=dynamic),
    )
    sizes = [fake.shape[dim] for dim in dims]
    if not all(isinstance(size, torch.SymInt) for size in sizes):
        return None
    symbols = [size.node.expr for size in sizes]  # type: ignore[attr-defined]

    def like(x: Tensor, own: tuple[int, ...]) -> Tensor:
        """Images of the same symbolic sizes."""
        if x is images:
            return fake
        shape = [sizes[own.index(d)] if d in own else size for d, size in enumerate(x.shape)]
        with mode:
            return torch.empty(shape, dtype=x.dtype, device=x.device)

    try:
        with enable_python_dispatcher():  # composite functions take symbols only so
            _Simple(model, fake_mode=mode).run(inputs.mapped(like))
        texts = {PythonPrinter().doprint(guard.expr) for guard in env.guards if _is_told(guard)}
    except Exception:  # an operation without symbolic sizes
        return None
    conditions = [compile(text, "<condition on sizes>", "eval") for text in texts]
    failing = 0
    for times in _trials(len(dims)):
        tried = [period * number for period, number in zip(periods, times, strict=True)]
        known = dict(zip(map(str, symbols), tried, strict=True))
        if not all(_holds(condition, known) for condition in conditions):
            failing = max(failing, min(times))
    least = tuple(period * (failing + 1) for period in periods)
    if failing == _LARGEST or any(a < b for a, b in zip(inputs.sizes, least, strict=True)):
        return None
    return least


def _is_told(guard: Any) -> bool:
    """Whether a comparison is one of the network's, and not of how torch stores tensors."""
    frame = getattr(guard.sloc, "framework_loc", None)
    file = Path(getattr(frame, "filename", ""))
    inside = Path(torch.__file__).parent
    return not file.is_relative_to(inside) or file.is_relative_to(inside / "nn")


def _trials(count: int) -> list[tuple[int, ...]]:
    """Multiples per axis: all equal, and one axis larger than the others."""
    equal = [(times,) * count for times in range(1, _LARGEST + 1)]
    uneven = [
        tuple(times * (4 if axis == other else 1) for other in range(count))
        for times in range(1, _LARGEST + 1)
        for axis in range(count if count > 1 else 0)
    ]
    return [*equal, *uneven]


def _holds(condition: CodeType, sizes: Mapping[str, int]) -> bool:
    try:
        return bool(
            eval(condition, {"math": math, "__builtins__": {"max": max, "min": min}}, sizes)
        )
    except (ArithmeticError, NameError, TypeError):
        return False
