"""A lock in front of a network that is a file: ONNX in, ONNX out."""

from __future__ import annotations

import hashlib
import math
import os
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from shiftproof.analysis.errors import shown
from shiftproof.extras import require
from shiftproof.files import writing
from shiftproof.motion.joints import MODES, Nodes, free_prefix, renamed
from shiftproof.motion.lock import moved_by
from shiftproof.motion.networks import (
    OPSET,
    Network,
    at_least,
    opset_of,
    read_network,
    session,
    steps_of,
)
from shiftproof.motion.strides import measure_stride
from shiftproof.nn.grid import GridLock2d, WholePixels
from shiftproof.ops.phases import per_axis
from shiftproof.ops.resample import EdgeMode

OFFSET = "shiftproof_offset"
"""Output that says by how many pixels each image was moved."""

_LARGE = 1 << 30
"""Networks of more bytes are written with their weights in a second file."""


@dataclass(frozen=True)
class MovedOutput:
    """An output map that is moved back.

    Attributes:
        name: Name of the output.
        steps: Pixels of the image per position of the output, per axis.
    """

    name: str
    steps: tuple[Fraction, ...]


@dataclass(frozen=True)
class FileLock:
    """What was written.

    Attributes:
        path: The file that was written.
        input: Name of the input that holds the images.
        stride: Total stride of the network, in pixels per axis.
        is_given: Whether the stride was given and not measured.
        margin: Pixels by which images are larger than what the network sees, per axis.
        padding_mode: What is shown beyond the edge.
        outputs: Outputs that are moved back.
        opset: The opset of the network as it was, and as it is.
    """

    path: str
    input: str
    stride: tuple[int, ...]
    is_given: bool
    margin: tuple[int, ...]
    padding_mode: str
    outputs: tuple[MovedOutput, ...]
    opset: tuple[int, int]

    def __str__(self) -> str:
        source = "as given" if self.is_given else "measured"
        lines = [
            f"{self.path}: {self.input} is locked to its content modulo "
            f"{shown(self.stride)} pixels ({source})",
            f"  edge      {self.padding_mode}",
        ]
        if any(self.margin):
            lines.append(f"  window    cut from images larger by {shown(self.margin)} pixels")
        for output in self.outputs:
            steps = shown(output.steps)
            lines.append(f"  output    {output.name}: moved back, {steps} pixels per position")
        lines.append(f"  output    {OFFSET}: pixels by which each image was moved, (N, 2)")
        if self.opset[0] != self.opset[1]:
            lines.append(f"  note      opset {self.opset[0]} was converted to {self.opset[1]}")
        return "\n".join(lines)


class _Front(nn.Module):
    """The lock as it is exported: the offset, and the moved images unless others cut them."""

    def __init__(self, lock: GridLock2d, cuts: bool) -> None:
        super().__init__()
        self.lock, self.cuts = lock, cuts

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        offset = moved_by(self.lock, images)
        found = offset.to(torch.float32)
        return (found, self.lock(images, offset)) if self.cuts else (found,)


def lock_file(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    stride: int | Sequence[int] | None = None,
    dense: Sequence[str] = (),
    image: str | None = None,
    selector: nn.Module | None = None,
    interpolation: nn.Module | None = None,
    padding_mode: EdgeMode = "reflect",
    margin: int | Sequence[int] = 0,
) -> FileLock:
    """Put a lock in front of an ONNX network, and write the two as one ONNX network.

    Names, metadata and open sizes of the network stay.  What is written runs in onnxruntime alone.

    Args:
        path: The network, which takes images ``(N, C, H, W)`` in float32 or float16.
        out: The file to write; an old one is replaced once the new one has run.
        stride: Total stride in pixels; measured if None, by moving content on an even background.
        dense: Names of outputs that are maps, to be moved back by what the image was moved.
        image: Name of the input that holds the images; needed where there are several.
        selector: What the content is, see ``shiftproof.motion.locate_grid``.
        interpolation: How windows between pixels are read; ``nn.BandLimited()`` if None.
        padding_mode: What is shown beyond the edge of the images.
        margin: Pixels by which images will be larger than what the network shall see, even.

    Returns:
        What was written, to be printed.

    Raises:
        ValueError: If the file is no network of images, the stride is not clear, an output is
            unknown or no map, or an argument of the lock is wrong.
        RuntimeError: If a file is missing or cannot be written, or a package is not installed.

    Equivariance:
        Approximate: measured in docs/guide/motion.md.  Checked by
        ``tests/motion/test_lock_files.py``.
    """
    path, out = Path(path), Path(out)
    if not out.absolute().parent.is_dir():
        raise RuntimeError(f"lock_file: the folder of --out must exist, got {out}; create it")
    network = read_network(path, image)
    for name in dense:
        if name not in network.outputs:
            raise ValueError(
                f"lock_file: --dense must name outputs, got {name}; choose from "
                f"{', '.join(network.outputs)}"
            )
    if OFFSET in network.outputs:
        raise ValueError(
            f"lock_file: the network must not be locked already, got {path} with an output "
            f"{OFFSET}; lock the one it was made of"
        )
    strides = _measured(network) if stride is None else per_axis("lock_file", stride, 2)
    lock = GridLock2d(strides, selector, interpolation, padding_mode, margin).eval()
    steps = {name: steps_of(network, name, strides) for name in dense}
    proto = at_least(network, OPSET)
    _join(proto, network, lock, steps)
    _write(proto, network, lock, out)
    outputs = tuple(MovedOutput(name, found) for name, (_, found) in steps.items())
    opset = (opset_of(network.proto), opset_of(proto))
    margins = tuple(lock.margin)
    return FileLock(
        str(out), network.image.name, strides, stride is not None, margins, padding_mode, outputs,
        opset,
    )  # fmt: skip


def _measured(network: Network) -> tuple[int, int]:
    images = network.example(least=384)
    batch = len(images)

    def answers(x: Tensor) -> list[Tensor]:
        found = [torch.as_tensor(y) for y in network.run(x.expand(batch, -1, -1, -1).contiguous())]
        return [y for y in found if y.is_floating_point()]

    sizes = tuple(images.shape[2:])
    stride = measure_stride(answers, images.shape[1], sizes, network.dtype)
    if stride is None:
        raise ValueError(
            f"lock_file: the stride must show in the answers, got none that is clear for "
            f"{network.path}; pass --stride"
        )
    return stride


def _exported(network: Network, lock: GridLock2d, cuts: bool, opset: int) -> Any:
    """The lock as an ONNX model, with the open sizes of the network's images."""
    dims = network.dims
    least = 2 * max(lock.stride) + 32
    multiples = [-(-least // s) * s + more * s for s, more in zip(lock.stride, (0, 1), strict=True)]
    shape = [dims[0] or 2, network.channels]
    pairs = zip(dims[2:], lock.margin, multiples, strict=True)
    shape += [(size or multiple) + pixels for size, pixels, multiple in pairs]
    dynamic: Any = torch.export.Dim.DYNAMIC
    shapes = {axis: dynamic for axis, size in enumerate(dims) if size is None and axis != 1}
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(network.dtype)
    front = _Front(lock, cuts)
    with torch.no_grad():
        front(images)  # errors of its own, such as images that are too small, are one line
    onnx = require("onnx", extra="onnx")
    require("onnxscript", extra="onnx")
    converter = require("onnx.version_converter", extra="onnx")
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.export.export(front, (images,), dynamic_shapes=(shapes or None,))
            exported: Any = torch.onnx.export(
                program, dynamo=True, verbose=False, opset_version=OPSET
            )
        proto = onnx.load_from_string(exported.model_proto.SerializeToString())
        return converter.convert_version(proto, opset) if opset_of(proto) < opset else proto
    except Exception as error:  # of torch's exporter
        raise ValueError(
            "lock_file: the lock must export at the sizes of the network, got "
            f"{type(error).__name__} for {lock.selector}; leave selector and interpolation, or fix "
            "the sizes of the network"
        ) from error


def _join(
    proto: Any, network: Network, lock: GridLock2d, dense: dict[str, tuple[int, Any]]
) -> None:
    """Put the lock in front of a network and move its maps back, in place."""
    onnx = require("onnx", extra="onnx")
    compose = require("onnx.compose", extra="onnx")
    graph, prefix, name = proto.graph, free_prefix(proto), network.image.name
    is_whole = isinstance(lock.interpolation, WholePixels) and lock.padding_mode in MODES
    front = _exported(network, lock, not is_whole, opset_of(proto))
    outer = front.graph.input[0].name
    front = compose.add_prefix(front, f"{prefix}lock/")
    inner = front.graph
    moved, offset = f"{prefix}moved", OFFSET
    ends = {f"{prefix}lock/{outer}": name, inner.output[0].name: offset}
    if not is_whole:
        ends[inner.output[1].name] = moved
    renamed(inner.node, ends)
    for value in inner.initializer:  # an offset that depends on nothing is a constant
        value.name = ends.get(value.name, value.name)

    nodes = Nodes(f"{prefix}window/")
    kind = network.image.type.tensor_type.elem_type
    if is_whole:
        half = [pixels // 2 for pixels in lock.margin]
        start = nodes.add("Add", offset, nodes.constant(half, "float32"))
        reach = [max(0, s // 2 + 1 - h) for s, h in zip(lock.stride, half, strict=True)]
        size = nodes.size(name, lock.margin)
        cut = nodes.crop_whole(name, start, size, reach, MODES[lock.padding_mode], kind)
        nodes.add("Identity", cut, output=moved)

    names = {name: moved}
    behind = Nodes(f"{prefix}back/")
    for output in graph.output:
        if output.name in dense:
            ndim, steps = dense[output.name]
            names[output.name] = f"{prefix}before/{output.name}"
            elem = output.type.tensor_type.elem_type
            reach = [math.ceil(s / 2 / step) for s, step in zip(lock.stride, steps, strict=True)]
            whole = elem not in (1, 10, 11) or (is_whole and set(steps) == {1})
            behind.moved_back(
                names[output.name], offset, steps, reach,
                ndim=ndim, dtype=elem, whole=whole, output=output.name,
            )  # fmt: skip
    renamed(graph.node, names)
    for value in graph.value_info:
        value.name = names.get(value.name, value.name)
    kept = list(graph.node)
    del graph.node[:]
    graph.node.extend([*inner.node, *nodes.nodes, *kept, *behind.nodes])
    graph.initializer.extend([*inner.initializer, *nodes.constants, *behind.constants])
    graph.value_info.extend(v for v in inner.value_info if v.name not in ends)
    proto.functions.extend(front.functions)
    _describe(proto, network, lock, onnx)
    known = {entry.domain for entry in proto.opset_import}
    proto.opset_import.extend(e for e in front.opset_import if e.domain not in known)
    proto.ir_version = max(proto.ir_version, 8)


def _describe(proto: Any, network: Network, lock: GridLock2d, onnx: Any) -> None:
    """Say in the graph what its input and its offset are."""
    name = network.image.name
    dims = next(v for v in proto.graph.input if v.name == name).type.tensor_type.shape.dim
    for size, pixels in zip(dims[2:], lock.margin, strict=True):
        if size.HasField("dim_value") and size.dim_value > 0:
            size.dim_value += pixels
        elif pixels:
            size.dim_param = f"{size.dim_param or 'size'}_and_margin"
    batch = dims[0].dim_value or dims[0].dim_param or None
    proto.graph.output.append(onnx.helper.make_tensor_value_info(OFFSET, 1, [batch, 2]))


def _write(proto: Any, network: Network, lock: GridLock2d, out: Path) -> None:
    """Write the file and run it; only then it takes the place of an old one."""
    onnx = require("onnx", extra="onnx")
    size = proto.ByteSize()
    with writing(out):
        if out.is_dir():
            raise IsADirectoryError(21, "Is a directory")
        holder = tempfile.TemporaryDirectory(prefix=".shiftproof", dir=out.absolute().parent)
    with holder as folder:
        draft = Path(folder) / out.name
        data = None
        with writing(out):
            if network.is_external or size > _LARGE:
                # Named by the content, so that an old file and its weights stay a pair.
                parts = (value.raw_data for value in proto.graph.initializer)
                digest = hashlib.sha256()
                for part in parts:
                    digest.update(part)
                data = f"{out.name}.{digest.hexdigest()[:8]}.data"
                onnx.save(
                    proto, draft, save_as_external_data=True, location=data, size_threshold=1024
                )
            else:
                draft.write_bytes(proto.SerializeToString())
        _check(draft, network, lock)
        with writing(out):
            if data is not None and (Path(folder) / data).exists():
                (Path(folder) / data).replace(out.absolute().parent / data)
            draft.replace(out)


def _check(draft: Path, network: Network, lock: GridLock2d) -> None:
    """Run what was written once; a network that it would break is refused."""
    images = network.example(least=2 * max(lock.stride) + 32)
    batch, channels, height, width = images.shape
    sizes = [height + lock.margin[0], width + lock.margin[1]]
    wide = torch.rand(batch, channels, *sizes, generator=torch.Generator().manual_seed(1))
    try:
        found = session(draft).run(None, {network.image.name: wide.to(network.dtype).numpy()})
        shapes = [tuple(value.shape) for value in found[:-1]]
        expected = [tuple(value.shape) for value in network.run(images)]
        problem = "" if shapes == expected else f"shapes {shapes} in place of {expected}"
    except Exception as error:  # of onnxruntime
        problem = " ".join(str(error).split())[:200]
    if problem:
        raise ValueError(
            f"lock_file: the locked network must run in onnxruntime, got {problem}; export "
            f"{network.path} with another opset, or fix its sizes"
        )
