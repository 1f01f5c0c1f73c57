"""What leaves eager mode keeps the promise: exported programs, ONNX, traces."""

import pytest
import torch
from torch.export import Dim, export

import shiftproof
from shiftproof import ops

NAMES = ("cifar_resnet20_aps3", "cifar_resnet20_pa")


def images(count: int = 4, height: int = 16, width: int = 16) -> torch.Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(0))


def model(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return shiftproof.create_model(name).eval()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_an_exported_program_takes_any_batch_and_any_valid_size(name):
    net, batch = model(name), Dim("batch", min=1, max=64)
    sizes = {2: 4 * Dim("rows", min=2, max=64), 3: 4 * Dim("columns", min=2, max=64)}
    program = export(net, (images(),), dynamic_shapes=({0: batch, **sizes},)).module()
    for x in (images(), images(2, 24, 16), images(1, 8, 32)):
        with torch.no_grad():
            torch.testing.assert_close(program(x), net(x), rtol=1e-4, atol=1e-5)
            moved = program(ops.circular_shift(x, (3, -5)))
            torch.testing.assert_close(moved, program(x), rtol=1e-4, atol=1e-5)
