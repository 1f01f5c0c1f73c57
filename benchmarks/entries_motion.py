"""Entries of the grid lock: what its parts cost beside a network, and beside one copy."""

import functools
from collections.abc import Callable, Iterator

import torch

from benchmarks.entry import Candidate, Entry, Prepared, Setup
from shiftproof.extras import require
from shiftproof.nn import GridLock2d, WholePixels

BATCH, SIZE, STRIDE = 16, 224, 32
NETWORK = "resnet18, forward"
OFFSET, OFFSET_COMPILED = "offset", "offset, compiled"
COPY, WHOLE, BETWEEN = "copy", "whole pixels", "between pixels"


def _images(batch: int, size: int, device: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(batch, 3, size // 4, size // 4, generator=generator)
    return torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic").to(device)


def _offset(group: str, batch: int, size: int, device: str) -> Prepared:
    x = _images(batch, size, device)
    if group == NETWORK:
        torch.manual_seed(0)
        model = require("torchvision.models", extra="train").resnet18().eval().to(device)
        return Prepared(torch.no_grad()(lambda: model(x)))
    find: Callable[[torch.Tensor], torch.Tensor] = GridLock2d(STRIDE).to(device).offset
    if group == OFFSET_COMPILED:
        find = torch.compile(find)
    return Prepared(torch.no_grad()(lambda: find(x)))


def _move(group: str, batch: int, size: int, device: str) -> Prepared:
    x = _images(batch, size, device)
    if group == COPY:
        return Prepared(x.clone)
    lock = GridLock2d(STRIDE, interpolation=WholePixels() if group == WHOLE else None)
    offset = lock.offset(x)
    return Prepared(torch.no_grad()(lambda: lock(x, offset)))


def motion_entries(setup: Setup) -> Iterator[Entry]:
    """The offset, and the move."""
    batch, size = (2, 64) if setup.quick else (BATCH, SIZE)
    count = batch * 3 * size * size * 4
    groups = {
        "motion/offset": (_offset, (NETWORK, OFFSET, OFFSET_COMPILED)),
        "motion/move": (_move, (COPY, WHOLE, BETWEEN)),
    }
    for name, (prepare, candidates) in groups.items():
        yield Entry(
            name=name,
            what=f"{name.split('/')[1]}, {batch} images of {size}x{size}, stride {STRIDE}, float32",
            candidates=tuple(
                Candidate(
                    group,
                    "",
                    functools.partial(prepare, group, batch, size, setup.device),
                )
                for group in candidates
            ),
            baseline=candidates[0],
            tests=("tests/nn/test_grid.py",),
            map_bytes=count,
            floor_bytes=2 * count if name == "motion/move" else None,
            images=batch,
            seconds=20,
        )
