"""One step of training of converted networks, under DistributedDataParallel in two processes."""

import gc

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from shiftproof.conversion import convert

CASES = {"resnet18": (2, 64), "googlenet": (4, 64), "mobilenet_v3_small": (4, 64)}


def build(name: str) -> nn.Module:
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    options = {"init_weights": False} if name == "googlenet" else {}
    return models.get_model(name, weights=None, num_classes=5, **options)


def step(rank: int, name: str, file: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    num, size = CASES[name]
    images = torch.randn(num, 3, size, size, generator=torch.Generator().manual_seed(rank))
    converted = convert(build(name).train(), images).model
    model = DistributedDataParallel(converted)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(2):  # the second step fails where a parameter was not used in the first
        optimizer.zero_grad()
        outputs = model(images)
        heads = outputs if isinstance(outputs, tuple) else (outputs,)
        loss = sum(head.square().mean() for head in heads if head is not None)
        loss.backward()
        optimizer.step()
    first = next(converted.parameters()).detach().clone()
    other = first.clone()
    dist.broadcast(other, 0)
    assert torch.equal(first, other)
    assert all(parameter.grad is not None for parameter in converted.parameters())
    del model, converted, optimizer, outputs, heads, loss
    gc.collect()
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_two_processes_train_a_converted_network(name: str, tmp_path) -> None:
    pytest.importorskip("torchvision")
    torch.multiprocessing.spawn(step, (name, str(tmp_path / "group")), nprocs=2)
