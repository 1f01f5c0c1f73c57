"""Where to align: the last place that everything behind it passes through.

A place where the map can be aligned is a tensor that everything computed later depends on alone:
then all branches behind it see one shift of the same content, and what joins again fits together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from torch import fx

from shiftproof.conversion.analysis import Finding
from shiftproof.conversion.calls import least_common_multiple
from shiftproof.conversion.layout import BATCH, Layout, factors
from shiftproof.conversion.refusal import ConversionError, IndivisibleError
from shiftproof.conversion.windows import WindowPlan

Periods = dict[int, Fraction]


@dataclass
class MapForm:
    """How a tensor holds a map.

    Attributes:
        dims: Dimension of each spatial axis; one dimension if they are flattened into it.
        sizes: Size of each axis.
        steps: Pixels of the input per position of each axis.
    """

    dims: tuple[int, ...]
    sizes: tuple[int, ...]
    steps: tuple[Fraction, ...]


def map_form(layout: object, num_axes: int) -> MapForm | None:
    """How a tensor holds a map with samples in front, if that is what it is.

    Args:
        layout: Its layout.
        num_axes: Number of spatial axes of the input.

    Returns:
        The form, or None.
    """
    if not isinstance(layout, tuple) or len(layout) < 3:
        return None
    if [factor.axis for factor in layout[0]] != [BATCH]:
        return None
    found = [
        (dim, factor) for dim, part in enumerate(layout) for factor in part if factor.is_spatial
    ]
    moving = [factor for _, factor in found if factor.moves and not factor.has_margin]
    if len(found) != num_axes or len(moving) != num_axes:
        return None
    found.sort(key=lambda pair: int(pair[1].axis or 0))
    if [factor.axis for _, factor in found] != list(range(num_axes)):
        return None
    dims = tuple(dim for dim, _ in found)
    sizes = tuple(factor.size for _, factor in found)
    steps = tuple(factor.step for _, factor in found)
    if all(len(layout[dim]) == 1 for dim in dims):
        return MapForm(dims, sizes, steps)
    if len(set(dims)) == 1 and layout[dims[0]] == tuple(factor for _, factor in found):
        return MapForm(dims[:1], sizes, steps)
    return None


@dataclass
class Frame:
    """An alignment, which holds for everything behind it up to the next one.

    Attributes:
        index: Position of the node in the graph.
        node: The tensor that is aligned.
        form: How it holds the map.
        periods: By how many pixels of the input, per axis.
        readers: The calls that need it.
        reasons: Why, in words.
    """

    index: int
    node: fx.Node
    form: MapForm
    periods: Periods
    readers: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    @property
    def strides(self) -> tuple[int, ...]:
        """By how many positions of the tensor."""
        strides = []
        for axis, (step, size) in enumerate(zip(self.form.steps, self.form.sizes, strict=True)):
            period = least_common_multiple(self.periods.get(axis, step), step)
            strides.append(int(period / step))
            if size % strides[-1]:
                raise IndivisibleError(
                    " and ".join(self.readers), self.form.sizes, strides, {axis: period}
                )
        return tuple(strides)

    @property
    def is_full(self) -> bool:
        """Whether nothing moves any more behind it."""
        return self.strides == self.form.sizes

    def satisfies(self, periods: Periods) -> bool:
        """Whether what is needed holds already."""
        return all(
            (self.periods.get(axis, self.form.steps[axis]) / period).denominator == 1
            for axis, period in periods.items()
        )

    def add(self, periods: Periods) -> None:
        """Align by more."""
        for axis, period in periods.items():
            known = self.periods.get(axis, Fraction(1))
            self.periods[axis] = least_common_multiple(known, period)


def _reads_values(node: fx.Node) -> bool:
    if node.op == "call_method" and node.target in ("size", "numel"):
        return False
    return not (node.target is getattr and node.args[1] in ("device", "dtype"))


def find_cuts(
    findings: dict[fx.Node, Finding], num_axes: int
) -> list[tuple[int, fx.Node, MapForm]]:
    """Tensors that everything computed later depends on alone.

    Args:
        findings: What is known about each node, in order.
        num_axes: Number of spatial axes of the input.

    Returns:
        Their positions, nodes and forms, in order.
    """
    nodes = list(findings)
    index = {node: position for position, node in enumerate(nodes)}
    cuts = []
    live: dict[fx.Node, int] = {}
    for position, node in enumerate(nodes):
        live = {other: last for other, last in live.items() if last > position}
        finding = findings[node]
        if not finding.moves:
            continue
        last = max((index[user] for user in node.users if _reads_values(user)), default=-1)
        form = map_form(finding.layout, num_axes)
        if not live and form is not None and finding.is_float:
            cuts.append((position, node, form))
        if last > position:
            live[node] = last
    return cuts


def place(findings: dict[fx.Node, Finding], num_axes: int) -> list[Frame]:
    """Decide where to align, and by what.

    Args:
        findings: What is known about each node, in order.
        num_axes: Number of spatial axes of the input.

    Returns:
        The alignments, in order.

    Raises:
        IndivisibleError: If what must be aligned by does not divide the map.
        ConversionError: If the input itself cannot be aligned.
    """
    cuts = find_cuts(findings, num_axes)
    if not cuts:
        raise ConversionError(
            "convert: the input must be made of floating-point numbers, got integers; convert the "
            "network behind its embedding"
        )
    frames: list[Frame] = []
    demands: list[tuple[int, Periods]] = []
    for position, (_, finding) in enumerate(findings.items()):
        if not finding.periods:
            continue
        demands.append((position, finding.periods))
        if not (frames and frames[-1].satisfies(finding.periods)):
            _open(frames, cuts, demands, position, findings)
        frames[-1].readers.append(finding.place)
        frames[-1].reasons += [r for r in finding.reasons if r not in frames[-1].reasons]
    for frame in frames:
        assert frame.strides
    return frames


def _open(
    frames: list[Frame],
    cuts: Sequence[tuple[int, fx.Node, MapForm]],
    demands: Sequence[tuple[int, Periods]],
    position: int,
    findings: dict[fx.Node, Finding],
) -> None:
    first = frames[-1].index if frames else 0
    possible = [cut for cut in cuts if first <= cut[0] < position]
    latest = possible[-1]
    if frames and latest[2].steps == frames[-1].form.steps:
        frames[-1].add(demands[-1][1])  # the resolution is that of the last alignment
        return
    needed = dict(demands[-1][1])
    for _, periods in (demand for demand in demands if demand[0] > latest[0]):
        needed = {
            axis: least_common_multiple(
                needed.get(axis, Fraction(1)), periods.get(axis, Fraction(1))
            )
            for axis in {*needed, *periods}
        }
    others = [place for place, _ in demands if place <= latest[0]]
    joins = [
        place
        for place, finding in enumerate(findings.values())
        if len(finding.reads) > 1 and place <= latest[0]
    ]
    start = max([*others, *joins], default=-1)
    same = [cut for cut in possible if cut[0] >= start and cut[2].steps == latest[2].steps] or [
        latest
    ]
    smallest = min(math.prod(findings[cut[1]].shape) for cut in same)
    same = [cut for cut in same if math.prod(findings[cut[1]].shape) == smallest]
    uneven = [cut for cut in same if not _has_even_pixels(findings[cut[1]])]
    index, node, form = (uneven or same)[-1]
    frames.append(Frame(index, node, form, needed))


def _has_even_pixels(finding: Finding) -> bool:
    """Whether each pixel was brought to one norm, which leaves little to choose by."""
    place = finding.place.lower().replace("_", "")
    return any(name in place for name in ("layernorm", "rmsnorm", "normalize in"))


def samplers(
    frame: Frame, findings: dict[fx.Node, Finding], following: Frame | None
) -> list[fx.Node] | None:
    """The windows that can sample the chosen phase themselves, so that nothing need be aligned.

    Between the tensor and these windows nothing may depend on the origin, and nothing that moves
    may go past them.

    Args:
        frame: The alignment.
        findings: What is known about each node, in order.
        following: The next alignment.

    Returns:
        The calls, or None if the tensor must be aligned as it is.
    """
    region = {frame.node}
    found = []
    strides = frame.strides
    for node, finding in findings.items():
        if not region.intersection(finding.reads):
            continue
        if node.op == "output" or (following is not None and node is following.node):
            return None
        if not region.issuperset(finding.reads):
            return None  # it joins what is aligned and what is not
        if isinstance(finding.plan, WindowPlan) and finding.periods:
            if finding.plan.strides != strides or not finding.plan.aligned:
                return None
            form = map_form(findings[finding.reads[0]].layout, len(strides))
            margins = isinstance(findings[finding.reads[0]].layout, tuple) and any(
                f.has_margin for f in factors(_layout(findings[finding.reads[0]]))
            )
            if not margins and (form is None or form.steps != frame.form.steps):
                return None
            found.append(node)
        elif finding.periods:
            return None
        elif finding.moves:
            region.add(node)
    return found or None


def _layout(finding: Finding) -> Layout:
    assert isinstance(finding.layout, tuple)
    return finding.layout
