"""A network of a third party, and what it is called with."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Network:
    """One line of the table.

    Attributes:
        key: ``"library:Name"``.
        build: Gives the network, in eval mode, with seeded random weights.
        args: Gives its arguments.
        kwargs: Gives its keyword arguments.
        images: Which of them are images, and their spatial axes; see ``convert``.
    """

    key: str
    build: Callable[[], nn.Module]
    args: Callable[[], tuple[Any, ...]]
    kwargs: Callable[[], dict[str, Any]]
    images: Any = None


def draw(*shapes: tuple[int, ...]) -> tuple[Tensor, ...]:
    """Seeded noise, with a smooth part along all axes behind the first two."""
    generator = torch.Generator().manual_seed(0)

    def one(shape: tuple[int, ...]) -> Tensor:
        fine = torch.randn(shape, generator=generator)
        few = [min(size, 4) for size in shape[2:]]
        coarse = torch.randn(*shape[:2], *few, generator=generator)
        mode = {3: "linear", 4: "bilinear", 5: "trilinear"}[len(shape)]
        return fine + nn.functional.interpolate(coarse, size=shape[2:], mode=mode)

    return tuple(map(one, shapes))


def network(
    key: str,
    create: Callable[[], nn.Module],
    *shapes: tuple[int, ...],
    names: tuple[str, ...] = (),
    images: Any = None,
    **others: Any,
) -> Network:
    """A network that takes tensors of these shapes, by position or by these names, and others."""

    def build() -> nn.Module:
        torch.manual_seed(0)
        return create().eval()

    def args() -> tuple[Any, ...]:
        return () if names else draw(*shapes)

    def kwargs() -> dict[str, Any]:
        return {**(dict(zip(names, draw(*shapes), strict=True)) if names else {}), **others}

    return Network(key, build, args, kwargs, images)
