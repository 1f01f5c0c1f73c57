"""Nodes of an ONNX graph that cut windows, and a graph put in front of another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any

from shiftproof.extras import require

MODES = {"reflect": "reflect", "replicate": "edge", "zeros": "constant"}
"""Paddings of the lock that ONNX has at opset 18, and what they are called there."""


class Nodes:
    """A list of nodes in the making, whose names begin alike.

    Args:
        prefix: What no name of the network begins with.
    """

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._helper: Any = require("onnx.helper", extra="onnx")
        self._arrays: Any = require("onnx.numpy_helper", extra="onnx")
        self._numpy: Any = require("numpy", extra="onnx")

    def _name(self) -> str:
        return f"{self.prefix}{len(self.nodes)}_{len(self.constants)}"

    def constant(self, values: Sequence[float], dtype: str = "int64") -> str:
        """Add an initialiser; returns its name."""
        name = f"{self._name()}_constant"
        array = self._numpy.array(values, dtype)
        self.constants.append(self._arrays.from_array(array, name))
        return name

    def add(self, kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Add a node of one output; returns the output's name."""
        name = output or self._name()
        label = f"{self.prefix}{len(self.nodes)}_{kind}"
        self.nodes.append(self._helper.make_node(kind, inputs, [name], label, **attributes))
        return name

    def windows(self, x: str, first: str, size: str, dtype: int) -> str:
        """Cut a window out of each sample, ``(N, C, H, W)``, at starts ``(N, 2)``."""
        make, name = self._helper, self._name()
        axes = self.constant([1, 2])
        inner = [f"{name}_{part}" for part in ("image", "start", "end", "window")]
        body = make.make_graph(
            [
                make.make_node("Add", [inner[1], size], [inner[2]]),
                make.make_node("Slice", [inner[0], inner[1], inner[2], axes], [inner[3]]),
            ],
            f"{name}_body",
            [
                make.make_tensor_value_info(inner[0], dtype, [None] * 3),
                make.make_tensor_value_info(inner[1], 7, [2]),
            ],
            [make.make_tensor_value_info(inner[3], dtype, [None] * 3)],
        )
        return self.add("Scan", x, first, num_scan_inputs=2, body=body)

    def padded(self, x: str, reach: Sequence[int], mode: str) -> str:
        """A border on every side of images."""
        widths = self.constant([0, 0, *reach, 0, 0, *reach])
        return self.add("Pad", x, widths, mode=mode)

    def size(self, x: str, less: Sequence[int] = (0, 0)) -> str:
        """Height and width of images, less some pixels."""
        return self.add("Sub", self.add("Shape", x, start=2, end=4), self.constant(less))

    def crop_whole(
        self, x: str, start: str, size: str, reach: Sequence[int], mode: str, dtype: int
    ) -> str:
        """Windows that start at the nearest whole pixel."""
        nearest = self.add("Floor", self.add("Add", start, self.constant([0.5], "float32")))
        first = self.add("Add", self.add("Cast", nearest, to=7), self.constant(reach))
        return self.windows(self.padded(x, reach, mode), first, size, dtype)

    def crop_linear(self, x: str, start: str, size: str, reach: Sequence[int], dtype: int) -> str:
        """Windows that start between pixels, by linear interpolation; edges are replicated."""
        before = self.add("Floor", start)
        fraction = self.add("Unsqueeze", self.add("Sub", start, before), self.constant([2, 3]))
        borders = [pixels + 1 for pixels in reach]
        first = self.add("Add", self.add("Cast", before, to=7), self.constant(borders))
        longer = self.add("Add", size, self.constant([1, 1]))
        y = self.windows(self.padded(x, borders, "edge"), first, longer, dtype)
        for axis in (0, 1):
            at = [self.constant([value]) for value in (axis, axis + 1)]
            after = self.add("Cast", self.add("Slice", fraction, *at, self.constant([1])), to=dtype)
            ends = [self.constant([value]) for value in (0, -1, 1, 2**31 - 1)]
            dims = self.constant([2 + axis])
            parts = [self.add("Slice", y, *ends[i : i + 2], dims) for i in (0, 2)]
            rise = self.add("Mul", self.add("Sub", parts[1], parts[0]), after)
            y = self.add("Add", parts[0], rise)
        return y

    def moved_back(
        self,
        y: str,
        offset: str,
        steps: Sequence[Fraction],
        reach: Sequence[int],
        *,
        ndim: int,
        dtype: int,
        whole: bool,
        output: str,
    ) -> None:
        """Move an output map back by what the image was moved."""
        scale = self.constant([-float(step) for step in steps], "float32")
        start = self.add("Div", offset, scale)
        x = y if ndim == 4 else self.add("Unsqueeze", y, self.constant([1]))
        kind = dtype
        if dtype == 9:  # truth values, which cannot be padded everywhere
            x, kind = self.add("Cast", x, to=2), 2
        size = self.add("Shape", x, start=2, end=4)
        if whole:
            x = self.crop_whole(x, start, size, reach, "edge", kind)
        else:
            x = self.crop_linear(x, start, size, reach, kind)
        if kind != dtype:
            x = self.add("Cast", x, to=dtype)
        if ndim == 4:
            self.add("Identity", x, output=output)
        else:
            self.add("Squeeze", x, self.constant([1]), output=output)


def renamed(nodes: Iterable[Any], names: dict[str, str]) -> None:
    """Give values other names wherever nodes read or write them, also in inner graphs.

    Args:
        nodes: The nodes, which are changed.
        names: New names by old ones.
    """
    for node in nodes:
        for values in (node.input, node.output):
            for index, value in enumerate(values):
                values[index] = names.get(value, value)
        for attribute in node.attribute:
            graphs = [attribute.g, *attribute.graphs] if attribute.HasField("g") else []
            for graph in graphs or attribute.graphs:
                renamed(graph.node, names)
                for output in graph.output:
                    output.name = names.get(output.name, output.name)


def free_prefix(model: Any) -> str:
    """A beginning of names that none of a model's has.

    Args:
        model: An ONNX model.

    Returns:
        ``"shiftproof/"``, or something longer.
    """
    graph, prefix = model.graph, "shiftproof/"
    used = {name for node in graph.node for name in (*node.input, *node.output, node.name)}
    used |= {value.name for value in (*graph.input, *graph.output, *graph.initializer)}
    while any(name.startswith(prefix) for name in used):
        prefix = f"{prefix[:-1]}_/"
    return prefix
