"""Training and evaluation mode, module by module: what a user has frozen stays frozen."""

import contextlib
from collections.abc import Iterator, Sequence

from torch import nn


def frozen_modules(model: nn.Module) -> list[nn.Module]:
    """Modules that a user keeps in evaluation mode while the network trains, batch norm above all.

    Args:
        model: The network.

    Returns:
        The modules; none where the network itself is in evaluation mode, which says nothing about
        its parts.
    """
    return [module for module in model.modules() if model.training and not module.training]


def train_except(model: nn.Module, frozen: Sequence[nn.Module]) -> None:
    """Put a network in training mode, but for some of its modules.

    Args:
        model: The network.
        frozen: Modules that stay in evaluation mode.
    """
    model.train()
    for module in frozen:
        module.training = False


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a network in evaluation mode; each module gets its own mode back, after an error too.

    Args:
        model: The network.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
