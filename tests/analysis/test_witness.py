"""The second witness: the strides of torch.export's graph are those that the analysis found.

``torch.export`` follows a network by other means, to operations of ATen.  From their arguments
alone, along the graph, follows at which steps of the input something samples with a stride.
"""

import math

import pytest
import torch
from tests.conversion.convertible import NETWORKS
from torch import nn

from shiftproof.analysis import analyse, capture
from shiftproof.nn import AlignPhase2d

STRIDED = {
    "conv2d.default": 3,
    "max_pool2d.default": 2,
    "avg_pool2d.default": 2,
    "convolution.default": 3,
}
"""Position of the stride among the arguments of operations of ATen."""


def of_export(model: nn.Module, x: torch.Tensor) -> set[tuple[int, ...]]:
    """Steps of the input, per axis, by which operations of ATen sample."""
    steps: dict[object, tuple[int, int]] = {}
    found = set()
    graph = torch.export.export(model, (x,)).graph
    for node in graph.nodes:
        given = [steps[source] for source in node.all_input_nodes if source in steps]
        if node.op == "placeholder" and node.meta["val"].shape == x.shape:
            steps[node] = (1, 1)
        if not given:
            continue
        step = (max(s[0] for s in given), max(s[1] for s in given))
        name = getattr(node.target, "__name__", "")
        if name in STRIDED:
            place = STRIDED[name]
            stride = node.args[place] if len(node.args) > place else [1, 1]
            rows, columns = (list(stride) * 2)[:2]
            step = (step[0] * rows, step[1] * columns)
            if max(rows, columns) > 1:
                found.add(step)
        steps[node] = step
    return found


def of_analysis(model: nn.Module, x: torch.Tensor) -> set[tuple[int, ...]]:
    """The same from the periods that were found, by the steps of the results."""
    found = set()
    findings = analyse(capture(model, (x,)))
    for finding in findings.calls:
        if finding.periods and not finding.is_unknown:
            assert finding.record is not None
            value = finding.record.result
            layout = findings.layout(value)
            assert layout is not None
            steps = [math.prod(f.step for f in part) for part in layout[2:]]
            found.add(tuple(int(step) for step in steps))
    return found


NO_STRIDE = "sampled without an argument that is a stride"
RESIZED = "enlarged in between, after which a stride keeps every position of the input"
DIFFERENCES = {
    "adaptive pool": NO_STRIDE,
    "power-average pool": NO_STRIDE,
    "space to depth": NO_STRIDE,
    "space to depth by slices": NO_STRIDE,
    "interpolation down": NO_STRIDE,
    "windows": NO_STRIDE,
    "attention between patches": NO_STRIDE,
    "coarser branch": RESIZED,
    "interpolation": RESIZED,
    "down to one pixel": "a stride over one position keeps it; then positions are flattened",
}
"""Where the second witness is blind, which only knows strides that are arguments, and why."""


@pytest.mark.parametrize("name", NETWORKS)
def test_two_witnesses_agree_on_the_strides(name: str) -> None:
    torch.manual_seed(0)
    model, x = NETWORKS[name]().eval(), torch.randn(2, 3, 32, 32)
    ours, exported = of_analysis(model, x), of_export(model, x)
    reason = DIFFERENCES.get(name)
    if reason == NO_STRIDE:
        assert exported < ours
    elif reason == RESIZED:
        assert ours < exported
    else:
        assert (ours == exported) == (reason is None)


@pytest.mark.parametrize(
    "name",
    [
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("resnet18", "regnet_y_400mf")),
        "mobilenet_v2",
    ],
)
def test_two_witnesses_agree_on_networks_of_torchvision(name: str) -> None:
    models = pytest.importorskip("torchvision.models")
    model, x = models.get_model(name, weights=None).eval(), torch.randn(2, 3, 64, 64)
    assert of_analysis(model, x) == of_export(model, x)


def test_control_an_alignment_of_ours_is_no_stride() -> None:
    model = nn.Sequential(AlignPhase2d(2), NETWORKS["strided"]()).eval()
    x = torch.randn(2, 3, 32, 32)
    assert of_analysis(model, x) != of_export(
        model, x
    )  # the first stride asks for nothing any more
