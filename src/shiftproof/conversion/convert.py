"""One call that makes a network shift invariant that somebody else has built and trained."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from shiftproof.analysis.errors import ConversionError, IndivisibleError
from shiftproof.analysis.graph import values_in
from shiftproof.conversion.apply import apply_checked, refuse_converted, selector_name
from shiftproof.conversion.check import check_converted
from shiftproof.conversion.plan import ConversionPlan
from shiftproof.conversion.planning import decide, make_plan
from shiftproof.conversion.study import Study
from shiftproof.inputs import Images, at_least_two, find_inputs
from shiftproof.nn import FirstPhase

Padding = Literal["circular", "keep"]
Parts = Collection["str | type[nn.Module]"]


@dataclass(frozen=True)
class Conversion:
    """A converted network and what was changed in it.

    Attributes:
        model: The network: a copy of the original, of the same class.
        plan: What was aligned and padded; printing it gives a report.
    """

    model: nn.Module
    plan: ConversionPlan

    @property
    def summary(self) -> ConversionPlan:
        """The plan, which reads as a report."""
        return self.plan


@torch.inference_mode(False)  # so that the copy can be trained
def convert(
    model: nn.Module,
    args: Tensor | tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    images: Images | None = None,
    padding: Padding = "circular",
    selector: nn.Module | None = None,
    equivariant: Parts = (),
    skip: Parts = (),
    allow_full_size: bool = True,
    allow_shape_change: bool = False,
    example_input: Tensor | None = None,
) -> Conversion:
    """Make a network exactly invariant to circular shifts, with its own weights and its own code.

    The forward pass is followed from the input to the output.  Wherever something depends on the
    origin of the map (a stride, a window, a patch, a position embedding), the map in front of it is
    aligned with a phase that its content selects, at the last place that everything behind it
    passes through.  Paddings become circular.  The network stays the object it was: its class,
    attributes, hooks, control flow and the names, shapes and values of its parameters.

    Where positions are mixed in a way that nothing short of the whole map aligns (a flattened map,
    a position embedding), the map is aligned by its full size; everything behind that place is left
    as it is, paddings included.

    Args:
        model: The network; it stays as it is, and a copy is converted.
        args: Its arguments, or the images alone: ``(N, C, *spatial)``, of the size that the network
            is used at.
        kwargs: Its keyword arguments.
        images: Which arguments hold images, by name, key or position, or a dictionary from those
            to the spatial axes of each: ``{"clip": (3, 4)}`` for ``(N, T, C, H, W)``.  Images move
            together, with one phase, which the content of the first selects; other tensors stay as
            they are.  By default the first batch of maps, and all others of its batch, dimensions
            and spatial sizes.
        padding: ``"circular"`` makes the paddings circular; ``"keep"`` leaves them, and with them
            the dependence on the border.
        selector: Scores the phases, ``(x, stride) -> (N, P)``; copied for every choice;
            ``nn.LargestNorm(2)`` if None.
        equivariant: Modules, by name or class, that move with their input, which is taken on trust.
        skip: Modules, by name or class, to leave alone; the map in front of them is aligned by its
            full size.
        allow_full_size: Whether a map may be aligned by its full size; refused if not.
        allow_shape_change: Whether outputs may get another shape than the original's, where windows
            that leave out the border come to wrap around it.
        example_input: The old name of ``args``; works for one release.

    Returns:
        The converted network, in the mode of the original, and the plan.

    Raises:
        ConversionError: If the network cannot be followed or aligned, or a stride does not divide a
            map; the message names the module and the way out.  A ``ValueError``.
        TypeError: If the model is no module or there is no tensor among the arguments.
        ValueError: If ``padding`` is unknown or the images are no batch of maps.

    Equivariance:
        Invariant, or equivariant where the output is a map, under circular shifts of inputs of the
        example's size: exact or to rounding, see ``certify``.  Checked by
        ``tests/conversion/test_convert.py`` and for every network of torchvision and every family
        of timm by ``python -m benchmarks.coverage``.

    Examples:
        >>> network = nn.Sequential(
        ...     nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        ... )
        >>> conversion = convert(network, torch.randn(1, 1, 8, 8))
        >>> x = torch.randn(1, 1, 8, 8)
        >>> torch.equal(conversion.model(x), conversion.model(x.roll(1, 3)))
        True
    """
    if example_input is not None:
        warnings.warn("convert: example_input is now args", DeprecationWarning, stacklevel=3)
        args = example_input
    _check(model, padding)
    name = selector_name(selector)
    model = _unwrapped(model)
    inputs = at_least_two(find_inputs("convert", model, args, kwargs, images))
    refuse_converted(model)
    circular, trusted = padding == "circular", _names(model, equivariant)
    study = Study(model, inputs, circular, trusted, _names(model, skip), allow_shape_change)
    try:
        findings = study.findings()
        if not values_in(findings.graph.output):
            raise ConversionError(
                "convert: the network must return tensors, or dicts, lists, tuples or dataclasses "
                f"of them, got {type(findings.graph.output).__name__}; wrap it so that it does"
            )
        decided = decide(findings)
    except IndivisibleError as error:
        raise ConversionError(f"{error}; {study.sizes_near(error)}") from None
    full = [a for a in decided.alignments if a.full and math.prod(a.stride) > 1]
    if full and not allow_full_size:
        raise ConversionError(
            "convert: no map must be aligned by its full size (allow_full_size=False), got "
            f"{full[0]}; allow it, or replace what needs it"
        )
    plan = make_plan(
        model,
        inputs,
        decided,
        least_size=study.least_size(decided),
        accepted=study.accepted,
        notes=[*filter(None, [str(inputs)]), *decided.told, *study.notes, *study.training_notes()],
        selector=name,
    )
    converted = apply_checked(plan, model, selector)
    moves = circular and not isinstance(selector, FirstPhase)
    unchecked = check_converted(converted, inputs, decided if moves else None)
    if unchecked:
        plan = dataclasses.replace(plan, notes=(*plan.notes, unchecked))
    return Conversion(converted, plan)


def _check(model: nn.Module, padding: str) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"convert: model must be a torch.nn.Module, got {type(model).__name__}; convert the "
            "module it was made from"
        )
    if padding not in ("circular", "keep"):
        raise ValueError(
            f"convert: padding must be 'circular' or 'keep', got {padding!r}; circular keeps the "
            "guarantee"
        )


def _unwrapped(model: nn.Module) -> nn.Module:
    """The network inside what compiles it or spreads it over devices."""
    model = getattr(model, "_orig_mod", model)
    parallel = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    return model.module if isinstance(model, parallel) else model


def _names(model: nn.Module, parts: Parts) -> list[str]:
    """Qualified names of the modules that are meant.

    Raises:
        ConversionError: If there is no such module.
    """
    found: list[str] = []
    for part in parts:
        names = [
            name
            for name, module in model.named_modules()
            if name and (name == part if isinstance(part, str) else isinstance(module, part))
        ]
        if not names:
            told = part if isinstance(part, str) else part.__name__
            raise ConversionError(
                f"convert: equivariant and skip must name modules of the network, got {told}; see "
                "model.named_modules()"
            )
        found += names
    return found
