"""What is known of an ONNX network before a lock stands in front of it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shiftproof.extras import require

OPSET = 18
"""The oldest opset that the lock can be written in."""

_FLOATS = {1: torch.float32, 10: torch.float16}
_SIZES = (64, 128, 224, 256, 320, 384, 512)
"""Sizes that are tried where a network takes any."""


@dataclass
class Network:
    """A network read from a file.

    Attributes:
        path: The file.
        proto: The ONNX model.
        image: Its image input.
        is_external: Whether its weights are in another file.
    """

    path: Path
    proto: Any
    image: Any
    is_external: bool
    _session: Any = None

    @property
    def dims(self) -> list[int | None]:
        """The declared sizes of the images; None where they are open."""
        found = self.image.type.tensor_type.shape.dim
        return [d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in found]

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the images."""
        return _FLOATS[self.image.type.tensor_type.elem_type]

    @property
    def channels(self) -> int:
        """Channels of the images, read from the first convolution where they are open."""
        declared = self.dims[1]
        if declared is not None:
            return declared
        shapes = {value.name: value.dims for value in self.proto.graph.initializer}
        for node in self.proto.graph.node:
            if node.op_type == "Conv" and self.image.name in node.input:
                groups = [a.i for a in node.attribute if a.name == "group"]
                return int(shapes[node.input[1]][1]) * (groups[0] if groups else 1)
        return 3

    @property
    def outputs(self) -> list[str]:
        """Names of its outputs."""
        return [output.name for output in self.proto.graph.output]

    def run(self, images: Tensor) -> list[Any]:
        """Run it on images alone; arrays in the order of the outputs."""
        if self._session is None:
            self._session = session(self.path)
        found: list[Any] = self._session.run(None, {self.image.name: images.numpy()})
        return found

    def example(self, more: int = 0, least: int = 0) -> Tensor:
        """Random images that it runs on.

        Args:
            more: Pixels to add to open sizes.
            least: Smallest open size; smaller ones are tried after those.

        Returns:
            The images.
        """
        batch, _, *sizes = self.dims
        generator = torch.Generator().manual_seed(0)
        problem: Exception | None = None
        for open_size in sorted(_SIZES, key=lambda size: (size < least, abs(size - least))):
            shape = [size or open_size + more for size in sizes]
            images = torch.rand(batch or 1, self.channels, *shape, generator=generator)
            try:
                self.run(images.to(self.dtype))
            except Exception as error:  # whatever onnxruntime raises
                problem = error
                if all(sizes):
                    break
            else:
                return images.to(self.dtype)
        raise ValueError(
            f"lock_file: {self.path} must run in onnxruntime on random images alone, got "
            f"{' '.join(str(problem).split())[:200]}; pass a network of images"
        )


def session(source: str | os.PathLike[str] | bytes) -> Any:
    """A quiet ``onnxruntime.InferenceSession`` on the CPU.

    Args:
        source: The file, or what it holds.

    Returns:
        What runs it.
    """
    runtime = require("onnxruntime", extra="onnx")
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    network = source if isinstance(source, bytes) else os.fspath(source)
    return runtime.InferenceSession(network, options, providers=["CPUExecutionProvider"])


def read_network(path: Path, name: str | None) -> Network:
    """Read a network and find its image input.

    Args:
        path: The file.
        name: Name of the input that holds the images; found if None.

    Returns:
        The network.

    Raises:
        ValueError: If it is no ONNX file, or has no input that can be locked, or several.
        RuntimeError: If the file does not exist, or onnx or onnxruntime is not installed.
    """
    onnx = require("onnx", extra="onnx")
    if not path.is_file():
        raise RuntimeError(f"lock_file: the network must be a file, got {path}; check its name")
    try:
        proto = onnx.load(path, load_external_data=False)
        external = any(
            onnx.external_data_helper.uses_external_data(t) for t in proto.graph.initializer
        )
        if external:
            onnx.external_data_helper.load_external_data_for_model(proto, str(path.parent))
    except Exception as error:  # of protobuf, or of a file of weights that is missing
        raise ValueError(
            f"lock_file: the file must hold an ONNX network, got {path} "
            f"({' '.join(str(error).split())[:100]}); export it again"
        ) from error
    if not proto.graph.node or not proto.opset_import:
        raise ValueError(
            f"lock_file: the file must hold an ONNX network, got {path} without nodes; export it "
            "again"
        )
    return Network(path, proto, _image(proto, path, name), external)


def _image(proto: Any, path: Path, name: str | None) -> Any:
    weights = {value.name for value in proto.graph.initializer}
    inputs = [value for value in proto.graph.input if value.name not in weights]
    names = ", ".join(value.name for value in inputs)
    images = [v for v in inputs if len(v.type.tensor_type.shape.dim) == 4]
    if name is not None:
        images = [value for value in inputs if value.name == name]
        if not images:
            raise ValueError(
                f"lock_file: --input must be one of {names}, got {name}; choose one of them"
            )
    elif len(images) > 1:
        named = ", ".join(value.name for value in images)
        raise ValueError(
            f"lock_file: the network must have one input of images, got {named}; choose one with "
            "--input NAME"
        )
    kinds = [
        f"{v.name} {_kind(v)} ({', '.join(d.dim_param or str(d.dim_value) for d in dims)})"
        for v in inputs
        for dims in [v.type.tensor_type.shape.dim]
    ]
    if not images or len(images[0].type.tensor_type.shape.dim) != 4:
        raise ValueError(
            "lock_file: the network must have an input of images (N, C, H, W), got "
            f"{'; '.join(kinds)} in {path}; export it for images"
        )
    if images[0].type.tensor_type.elem_type not in _FLOATS:
        raise ValueError(
            f"lock_file: images must be float32 or float16, got {_kind(images[0])} for "
            f"{images[0].name}; export the network behind its normalisation"
        )
    sizes = [dim.dim_value for dim in images[0].type.tensor_type.shape.dim]
    if sizes[3] in (1, 3, 4) and sizes[1] not in (1, 3, 4):
        raise ValueError(
            f"lock_file: images must be (N, C, H, W), got {images[0].name} with {sizes[3]} "
            "channels last; export the network with channels first"
        )
    return images[0]


def _kind(value: Any) -> str:
    helper = require("onnx.helper", extra="onnx")
    number = value.type.tensor_type.elem_type
    return str(helper.tensor_dtype_to_np_dtype(number)) if number else "no tensor"


def at_least(network: Network, opset: int) -> Any:
    """The network in an opset that is not older, with the same answers.

    Args:
        network: The network.
        opset: The oldest opset.

    Returns:
        The ONNX model, a copy.

    Raises:
        ValueError: If it cannot be converted.
    """
    onnx = require("onnx", extra="onnx")
    converter = require("onnx.version_converter", extra="onnx")
    numpy = require("numpy", extra="onnx")
    proto = onnx.ModelProto()
    proto.CopyFrom(network.proto)
    if opset_of(proto) >= opset:
        return proto
    try:
        newer = converter.convert_version(proto, opset)
        images = network.example()
        checked = session(newer.SerializeToString())
        found = checked.run(None, {network.image.name: images.numpy()})
        pairs = zip(network.run(images), found, strict=True)
        problem = "" if all(numpy.allclose(a, b, 1e-3, 1e-4) for a, b in pairs) else "other answers"
    except Exception as error:  # of the converter, or of onnxruntime
        problem = " ".join(str(error).split())[:150]
    if problem:
        raise ValueError(
            f"lock_file: the network must be of opset {opset} or convert to it, got opset "
            f"{opset_of(proto)} ({problem}); export it again with opset {opset}"
        )
    for attribute in ("metadata_props", "opset_import"):
        kept = getattr(newer, attribute)
        known = {(v.key if attribute == "metadata_props" else v.domain) for v in kept}
        for value in getattr(proto, attribute):
            if (value.key if attribute == "metadata_props" else value.domain) not in known:
                kept.append(value)
    return newer


def opset_of(proto: Any) -> int:
    """The opset of ONNX's own operators."""
    return max((v.version for v in proto.opset_import if v.domain in ("", "ai.onnx")), default=1)


def steps_of(
    network: Network, name: str, stride: Sequence[int]
) -> tuple[int, tuple[Fraction, ...]]:
    """Axes of an output map, and pixels of the image per position of it.

    Args:
        network: The network.
        name: The output.
        stride: The total stride.

    Returns:
        The number of axes, and the step per axis.

    Raises:
        ValueError: If the output is no map of the image.
    """
    index = network.outputs.index(name)
    images = network.example(least=2 * max(stride))
    found = network.run(images)[index].shape
    if len(found) not in (3, 4):
        raise ValueError(
            f"lock_file: --dense must name maps (N, C, H, W) or (N, H, W), got {name} of shape "
            f"{found}; leave it out"
        )
    steps = []
    is_open = [size is None for size in network.dims[2:]]
    larger = found
    if any(is_open):
        pixels = 4 * max(stride)
        larger = network.run(network.example(pixels, 2 * max(stride)))[index].shape
    for axis in (0, 1):
        positions, more = found[axis - 2], larger[axis - 2] - found[axis - 2]
        if is_open[axis] and more <= 0:
            raise ValueError(
                f"lock_file: --dense must name maps that grow with the image, got {name} of shape "
                f"{found}; leave it out"
            )
        step = (
            Fraction(pixels, more) if is_open[axis] else Fraction(images.shape[2 + axis], positions)
        )
        steps.append(step.limit_denominator(64))
    return len(found), tuple(steps)
