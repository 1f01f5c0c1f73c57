"""The kernels of a GPU against the operations of torch, in Triton's interpreter and on a device."""

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from shiftproof import ops

pytest.importorskip("triton")

from shiftproof.ops import copy_kernels, kernels
from shiftproof.ops.lattice import read_lattice, write_lattice
from shiftproof.ops.overrides import may_launch
from shiftproof.ops.window import read_window

CASES = {
    "rows": ((3, 5, 12), (4,)),
    "square": ((2, 3, 8, 12), (2, 2)),
    "odd": ((1, 17, 9, 9), (3, 3)),
    "volume": ((2, 4, 4, 6, 8), (2, 2, 2)),
    "whole": ((2, 3, 4, 4), (4, 4)),
}
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if IS_INTERPRETED else "cuda"
needs_kernels = pytest.mark.skipif(
    not IS_INTERPRETED and not torch.cuda.is_available(), reason="needs a CUDA device"
)


def maps(shape: tuple[int, ...], dtype: torch.dtype, channels_last: bool) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    return x.movedim(1, -1).contiguous().movedim(-1, 1) if channels_last else x


def there(x: Tensor) -> Tensor:
    return x.to(DEVICE)


def require_same(found: Tensor, expected: Tensor) -> None:
    assert torch.equal(found.cpu(), expected)


@needs_kernels
@pytest.mark.cuda
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_kernels_do_what_torch_does(case: str, dtype: torch.dtype, channels_last: bool) -> None:
    shape, stride = CASES[case]
    x = maps(shape, dtype, channels_last)
    for order in (1, 2):
        scores = ops.phase_scores(x, stride, order)
        found = kernels.norm_scores(there(x), stride, order)
        torch.testing.assert_close(found.cpu(), scores, rtol=1e-5, atol=0)
    mirrored = torch.cat([x, x.flip(-1)], -1)
    even = torch.ones_like(mirrored)
    for pair in ([x], [mirrored], [mirrored, mirrored.square()], [even], [even, mirrored]):
        scores = ops.phase_scores(pair[0], stride)
        chosen = kernels.choose(there(scores), [there(y) for y in pair], stride)
        require_same(chosen, ops.select_phase(pair, stride))
    phase = torch.arange(len(x)) * 5 - 3
    start = ops.phase_offsets(phase, stride)
    require_same(kernels.offsets(there(phase), stride), start)
    counts = tuple(size // step for size, step in zip(x.shape[2:], stride, strict=True))
    kept = read_lattice(x, start, stride, counts)
    require_same(copy_kernels.read(there(x), there(start), stride, counts), kept)
    placed = write_lattice(kept, start, stride, x.shape[2:])
    require_same(copy_kernels.add(there(kept), there(start), stride, x.shape[2:]), placed)


@needs_kernels
@pytest.mark.cuda
@pytest.mark.parametrize("case", CASES)
def test_windows_and_their_adjoint(case: str) -> None:
    shape, stride = CASES[case]
    x = maps(shape, torch.float64, False).requires_grad_()
    start = ops.phase_offsets(torch.arange(len(x)), stride) - 1
    counts = tuple(size + 3 for size in x.shape[2:])
    window = read_window(x, start, -1, stride[-1] - 1, counts)
    one = (1,) * len(stride)
    require_same(copy_kernels.read(there(x.detach()), there(start), one, counts), window.detach())
    weights = torch.randn(window.shape, generator=torch.Generator().manual_seed(1)).double()
    (slope,) = torch.autograd.grad(window, x, weights)
    found = copy_kernels.add(there(weights), there(start), one, x.shape[2:])
    torch.testing.assert_close(found.cpu(), slope, rtol=1e-14, atol=1e-14)


@needs_kernels
@pytest.mark.cuda
def test_values_that_are_no_numbers_are_the_strongest() -> None:
    x = maps((4, 3, 8, 8), torch.float32, False)
    for sample, value in enumerate((float("nan"), float("inf"), -float("inf"), 3e38)):
        x[sample, 1, 3, 4] = value
    scores = kernels.norm_scores(there(x), (2, 2), 2)
    assert kernels.choose(scores, [there(x)], (2, 2)).tolist() == [2] * 4


def test_in_the_interpreter() -> None:
    if IS_INTERPRETED:
        pytest.skip("this is what it runs")
    command = [sys.executable, "-m", "pytest", "-q", "-W", "ignore::RuntimeWarning", __file__]
    selected = "square-torch or rows-torch.float32 or windows or no_numbers"
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    found = subprocess.run(
        [*command, "-k", selected], env=environment, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stdout
    assert "16 passed" in found.stdout


def test_they_take_no_part_on_the_cpu() -> None:
    assert not may_launch(torch.zeros(2, 3))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_choice_on_a_device_launches_few_kernels_and_is_captured() -> None:
    x = maps((4, 16, 32, 32), torch.float32, True).cuda()
    expected = ops.take_phase(x, ops.select_phase(x, 2), 2)
    torch.cuda.set_sync_debug_mode("error")
    try:
        ops.take_phase(x, ops.select_phase(x, 2), 2)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = ops.take_phase(x, ops.select_phase(x, 2), 2)
    graph.replay()
    assert torch.equal(kept, expected)
