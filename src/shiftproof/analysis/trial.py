"""What is known of a module that nobody can look into: what it did in every trial."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from shiftproof.inputs import Inputs
from shiftproof.nested import map_nested, tensors_in

_ROUNDING = 1e-9
_SCALES = (1.0, 30.0, 1000.0)
"""Magnitudes of the noise, and factors of the network's own activations."""

Calls = dict[str, list[tuple[tuple[Any, ...], dict[str, Any], Any]]]


def watch(model: nn.Module, inputs: Inputs, names: Collection[str]) -> Calls:
    """Run a copy of a network on values and note what some of its modules are given and give.

    Args:
        model: The network; it is left as it is.
        inputs: Its arguments.
        names: Qualified names of the modules.

    Returns:
        Arguments, keyword arguments and results of every call, by name.
    """
    subject = copy.deepcopy(model).eval()
    calls: Calls = {name: [] for name in names}

    for name, kept in calls.items():

        def note(_: Any, args: Any, kwargs: Any, result: Any, kept: list[Any] = kept) -> None:
            kept.append(map_nested((args, kwargs, result), _kept))

        subject.get_submodule(name).register_forward_hook(note, with_kwargs=True)
    with torch.no_grad():
        subject(*map_nested(inputs.args, _kept), **map_nested(dict(inputs.kwargs), _kept))
    return calls


def _kept(leaf: Any) -> Any:
    return leaf.detach().clone() if isinstance(leaf, Tensor) else leaf


def moves_along(
    module: nn.Module,
    activations: Sequence[tuple[tuple[Any, ...], dict[str, Any], Any]],
    dims: Sequence[int],
    *,
    shuffled: bool,
) -> bool:
    """Whether a circular shift of what a module is given shifted what it gave, whenever tried.

    Only the first sample is shifted; the others must stay as they are.  It is tried on noise of
    several magnitudes with random parameters, and with its own parameters on what it is given
    inside the network, as it is and enlarged.  An exception counts as a failure.

    Args:
        module: The module; it is left as it is.
        activations: Arguments, keyword arguments and results of its calls inside the network.
        dims: Dimensions that move.
        shuffled: Whether any other order of the positions must do as well as a shift, because a
            dimension holds more than one axis.

    Returns:
        True if all trials agree; that is no proof.
    """
    own = copy.deepcopy(module).double().eval()
    drawn = copy.deepcopy(own)
    generator = torch.Generator().manual_seed(0)
    for tensor in (*drawn.parameters(), *drawn.buffers()):
        if tensor.is_floating_point():
            values = torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
            tensor.data.copy_(values + 0.5)
    trials: list[tuple[nn.Module, Tensor]] = []
    for args, _, _ in activations:
        x = tensors_in(args)[0].double()
        for scale in _SCALES:
            trials.append((own, x * scale))
            noise = torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x.device)
            trials += [(drawn, noise * scale), (own, noise * scale)]
    try:
        return bool(trials) and all(
            _commutes(subject, x, order, dim)
            for subject, x in trials
            for dim in dims
            for order in _orders(x.shape[dim], generator, shuffled)
        )
    except Exception:  # what it cannot compute it does not do either
        return False


def _orders(size: int, generator: torch.Generator, shuffled: bool) -> list[Tensor]:
    if shuffled:
        return [torch.randperm(size, generator=generator) for _ in range(3)]
    return [torch.arange(size).roll(amount) for amount in (1, 2, 5)]


def _commutes(module: nn.Module, x: Tensor, order: Tensor, dim: int) -> bool:
    order = order.to(x.device)
    with torch.no_grad():
        moved = _moved(module(x.clone()), order, dim)
        after = module(_moved(x, order, dim))
        scale = float(moved.abs().max()) or 1.0
        return bool((after - moved).abs().max() <= _ROUNDING * scale)


def _moved(x: Tensor, order: Tensor, dim: int) -> Tensor:
    """The first sample with its positions in another order, and the others as they are."""
    return torch.cat([x[:1].index_select(dim, order), x[1:]])
