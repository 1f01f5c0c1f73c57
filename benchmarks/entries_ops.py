"""Entries of single operations, forward and backward."""

import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import published
from benchmarks.entry import Candidate, Entry, Prepared, Setup
from benchmarks.equivariance import MapFunction, map_error, scores_error
from benchmarks.maps import FORMATS, feature_map, some_phases
from shiftproof import nn, ops

SHAPES = ((32, 64, 112, 112), (32, 128, 28, 28), (16, 3, 224, 224), (256, 16, 32, 32))
HALF_SHAPES = SHAPES[:1]
"""Shapes that are measured in bfloat16 too."""

Cost = Callable[[int, int, int, int], float]
"""Values that must move at least, from the shape of the map."""

_TESTS = "tests/ops/test_polyphase.py", "tests/nn/test_layers.py"
_SCORE_TESTS = "tests/ops/test_scores.py", "tests/ops/test_ties.py"
_PAD_TESTS = ("tests/ops/test_padding.py",)


@dataclass(frozen=True)
class Op:
    """One operation and the formulations of it.

    Attributes:
        name: Short name.
        what: One line for the reader.
        functions: Formulations by name, each a function of a map and of a phase per sample.
        baseline: The one that the others are compared with.
        tests: Test files of ours.
        cost: Values that must be read and written.
        error: Measure of the error; None where the law does not speak of the operation.
        backward: Whether the backward pass alone is timed.
    """

    name: str
    what: str
    functions: dict[str, MapFunction]
    baseline: str
    tests: tuple[str, ...]
    cost: Cost
    error: Callable[[MapFunction, Tensor, Tensor], float] | None = None
    backward: bool = False


def _pad(x: Tensor) -> Tensor:
    return ops.pad(x, (1, 1), (1, 1), "circular")


def _torch_pad(x: Tensor) -> Tensor:
    return F.pad(x, (1, 1, 1, 1), mode="circular")


_ALIGN_AND_PAD: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "ours": lambda x, phase: ops.align_phase(x, phase, 2, (1, 1), (1, 1)),
    "one after the other": lambda x, phase: _pad(ops.align_phase(x, phase, 2)),
    "pad alone": lambda x, phase: _pad(x),
}


def _strided(x: Tensor) -> Tensor:
    return x[..., ::2, ::2]


def _strided_copy(x: Tensor) -> Tensor:
    """A copy that keeps the layout, as every operation that writes a map makes it."""
    layout = torch.contiguous_format if x.is_contiguous() else torch.channels_last
    return _strided(x).contiguous(memory_format=layout)


def _wide_sums(x: Tensor) -> Tensor:
    components = [x[:, :, row::2, column::2] for row in (0, 1) for column in (0, 1)]
    return torch.stack([part.double().square().sum((1, 2, 3)) for part in components], 1)


def _norms(x: Tensor) -> Tensor:
    components = [x[:, :, row::2, column::2] for row in (0, 1) for column in (0, 1)]
    return torch.stack([torch.linalg.vector_norm(part, dim=(1, 2, 3)) for part in components], 1)


def _map_values(n: int, c: int, h: int, w: int) -> float:
    return n * c * h * w


def _read_and_quarter(n: int, c: int, h: int, w: int) -> float:
    return 1.25 * n * c * h * w


def _read_and_write(n: int, c: int, h: int, w: int) -> float:
    return 2.0 * n * c * h * w


def _read_and_pad(n: int, c: int, h: int, w: int) -> float:
    return n * c * (h * w + (h + 2) * (w + 2))


_downsample = nn.PolyphaseDownsample2d(2)


@functools.cache
def _blur_pool(device: torch.device) -> nn.BlurPool2d:
    return nn.BlurPool2d(3).to(device)


SELECT_AND_TAKE = Op(
    "select_and_take",
    "choose a component of each sample and keep it",
    {
        "ours": lambda x, phase: _downsample(x),
        "published": lambda x, phase: published.take(x)[0],
        "plain stride": lambda x, phase: _strided_copy(x),
        "max_pool2d": lambda x, phase: F.max_pool2d(x, 2),
        "BlurPool": lambda x, phase: _blur_pool(x.device)(x),
    },
    "plain stride",
    _TESTS + _SCORE_TESTS,
    _read_and_quarter,
    functools.partial(map_error, step=2),
)

OPS = (
    SELECT_AND_TAKE,
    Op(
        "take_backward",
        "gradient of keeping a component: a map of zeros but for one component",
        {
            "ours": lambda x, phase: ops.take_phase(x, phase, 2),
            "published": lambda x, phase: published.take(x, phase)[0],
            "plain stride": lambda x, phase: _strided(x),
        },
        "plain stride",
        _TESTS,
        _read_and_quarter,
        backward=True,
    ),
    Op(
        "scores",
        "strength of the four components of each sample",
        {
            "ours": lambda x, phase: ops.phase_scores(x, 2),
            "norm in the map's type": lambda x, phase: _norms(x),
            "float64 sum": lambda x, phase: _wide_sums(x),
        },
        "norm in the map's type",
        _SCORE_TESTS,
        _map_values,
        scores_error,
    ),
    Op(
        "align",
        "shift each sample so that its component lies at the origin",
        {
            "ours": lambda x, phase: ops.align_phase(x, phase, 2),
            "torch.roll, one shift for all": lambda x, phase: torch.roll(x, (-1, -1), (2, 3)),
            "clone": lambda x, phase: x.clone(),
        },
        "clone",
        _TESTS,
        _read_and_write,
        functools.partial(map_error, step=1),
    ),
    Op(
        "align_and_pad",
        "align each sample, then wrap one pixel around the border",
        _ALIGN_AND_PAD,
        "pad alone",
        _TESTS + _PAD_TESTS,
        _read_and_pad,
    ),
    Op(
        "align_and_pad_backward",
        "gradient of aligning and padding",
        _ALIGN_AND_PAD,
        "pad alone",
        _TESTS + _PAD_TESTS,
        _read_and_pad,
        backward=True,
    ),
    Op(
        "pad",
        "wrap one pixel around the border",
        {"ours": lambda x, phase: _pad(x), "F.pad": lambda x, phase: _torch_pad(x)},
        "F.pad",
        _PAD_TESTS,
        _read_and_pad,
    ),
    Op(
        "pad_backward",
        "gradient of wrapping one pixel around the border",
        {"ours": lambda x, phase: _pad(x), "F.pad": lambda x, phase: _torch_pad(x)},
        "F.pad",
        _PAD_TESTS,
        _read_and_pad,
        backward=True,
    ),
)


def _prepare(
    op: Op,
    group: str,
    shape: tuple[int, int, int, int],
    dtype: torch.dtype,
    layout: str,
    device: str,
) -> Prepared:
    x = feature_map(shape, dtype, layout, device)
    phase, function = some_phases(x), op.functions[group]
    if op.backward:
        x = x.detach().requires_grad_()
        y = function(x, phase)
        gradient = torch.randn_like(y)
        return Prepared(lambda: torch.autograd.grad(y, x, gradient, retain_graph=True))
    error = None
    if op.error is not None:
        measure = op.error
        # A few samples are enough: a law that fails, fails on each.
        error = torch.no_grad()(lambda: measure(function, x[:4], phase[:4]))
    return Prepared(torch.no_grad()(lambda: function(x, phase)), error)


def _entry(
    op: Op,
    shape: tuple[int, int, int, int],
    dtype: torch.dtype,
    device: str,
    name: str | None = None,
    point: tuple[str, int] | None = None,
) -> Entry:
    size, numel = dtype.itemsize, shape[0] * shape[1] * shape[2] * shape[3]
    shown = "x".join(map(str, shape))
    return Entry(
        name=name or f"ops/{op.name}/{shown}/{str(dtype).removeprefix('torch.')}",
        what=f"{op.what}, {shown} {str(dtype).removeprefix('torch.')}",
        candidates=tuple(
            Candidate(
                group,
                layout,
                functools.partial(_prepare, op, group, shape, dtype, layout, device),
            )
            for group in op.functions
            for layout in FORMATS
        ),
        baseline=op.baseline,
        tests=op.tests,
        map_bytes=numel * size,
        floor_bytes=round(op.cost(*shape) * size),
        seconds=1.5 if point else 2.5,
        memory=point is None,
        point=point,
    )


def op_entries(setup: Setup) -> Iterator[Entry]:
    """Each operation at each shape, at some in bfloat16 too."""
    cases = [(shape, torch.float32) for shape in SHAPES]
    cases += [(shape, torch.bfloat16) for shape in HALF_SHAPES]
    for op, ((batch, *sizes), dtype) in itertools.product(OPS, cases):
        channels, height, width = sizes
        batch = max(batch // 8, 1) if setup.quick else batch
        yield _entry(op, (batch, channels, height, width), dtype, setup.device)


def growth_entries(setup: Setup) -> Iterator[Entry]:
    """Select and take, over the size of the map and over the batch."""
    batch = 4 if setup.quick else 32
    sizes = [8, 28, 56] if setup.quick else [8, 14, 28, 56, 112]
    batches = [1, 4, 16] if setup.quick else [1, 2, 4, 8, 16, 32, 64]
    points = [("map size", size, (batch, 64, size, size)) for size in sizes]
    points += [("batch", number, (number, 64, 56, 56)) for number in batches]
    for axis, value, shape in points:
        name = f"growth/{axis.replace(' ', '_')}/{value}"
        yield _entry(SELECT_AND_TAKE, shape, torch.float32, setup.device, name, (axis, value))
