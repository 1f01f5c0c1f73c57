"""Apply a plan to a copy of the user's network, which stays of its class, with its own code."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn

from shiftproof import nn as layers
from shiftproof.analysis.capture import copied, is_layer
from shiftproof.analysis.changes import CircularWindow, Edit
from shiftproof.analysis.errors import ConversionError
from shiftproof.analysis.graph import keeps_hooks
from shiftproof.conversion.alignment import (
    Aligner,
    AlignInput,
    AlignOutput,
    KeepForward,
    RefuseSymbolic,
    Telling,
)
from shiftproof.conversion.forward import AlignedCall, AlignedWindow, EditedForward, EditedNetwork
from shiftproof.conversion.plan import Alignment, ConversionPlan

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = [kind(order) for kind in (layers.LargestNorm, layers.SmallestNorm) for order in (1, 2)]
_EXTREMA = [layers.LargestNorm(torch.inf), layers.SmallestNorm(torch.inf), layers.LargestValue()]
_SELECTORS = {repr(selector): selector for selector in (*_NORMS, *_EXTREMA, layers.FirstPhase())}


def selector_name(selector: nn.Module | None) -> str:
    """How a plan calls a selector.

    Args:
        selector: The selector; ``nn.LargestNorm(2)`` if None.

    Returns:
        Its text form.

    Raises:
        ValueError: If it has parameters or buffers, which a converted network has no place for.
    """
    chosen = layers.LargestNorm(2) if selector is None else selector
    if any(True for _ in (*chosen.parameters(), *chosen.buffers())):
        raise ValueError(
            "convert: a selector must have no parameters or buffers, got "
            f"{type(chosen).__name__} with some; score by a fixed rule"
        )
    return repr(chosen)


def refuse_converted(model: nn.Module) -> None:
    """Refuse a network of which a part was converted before.

    Args:
        model: The network.

    Raises:
        ConversionError: If it, or a module of it, was.
    """
    for name, module in model.named_modules():
        if _parts(module):
            raise ConversionError(
                "convert: the network must not be converted yet, got "
                f"{name or 'the network itself'} that is; convert the original, or load its "
                "weights into one"
            )


def _parts(module: nn.Module) -> list[Any]:
    """What a conversion added to a module."""
    ours = (EditedForward, AlignInput, AlignOutput, RefuseSymbolic)
    hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    return [part for part in (vars(module).get("forward"), *hooks) if isinstance(part, ours)]


def apply_plan(
    plan: ConversionPlan, model: nn.Module, *, selector: nn.Module | None = None
) -> nn.Module:
    """Convert a network by a plan, without an example and without analysing it again.

    Args:
        plan: What to change, from ``convert(...).plan`` or ``ConversionPlan.load``.
        model: A network like the one that the plan was made for; it stays as it is.
        selector: Scores the phases, where the plan was made with one that is not of this package.

    Returns:
        The converted network: a copy, of the same class, in the same mode.

    Raises:
        ConversionError: If the plan was not made for such a network, or it is converted already.  A
            ``ValueError``.
        ValueError: If the plan names a selector that is not given.

    Examples:
        >>> from shiftproof.conversion import convert
        >>> def network():
        ...     return nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.AdaptiveAvgPool2d(1))
        >>> plan = convert(network(), torch.randn(1, 1, 8, 8)).plan
        >>> model = apply_plan(plan, network())
        >>> x = torch.randn(1, 1, 8, 8)
        >>> torch.equal(model(x), model(x.roll(1, 3)))
        True
    """
    plan.check(model)
    if selector is None:
        if plan.selector not in _SELECTORS:
            raise ValueError(
                f"apply_plan: the selector of the plan must be given, got None for {plan.selector};"
                " pass selector="
            )
        selector = _SELECTORS[plan.selector]
    return apply_checked(plan, model, selector)


def apply_checked(plan: ConversionPlan, model: nn.Module, selector: nn.Module | None) -> nn.Module:
    """The same without checking that the plan was made for the network."""
    refuse_converted(model)
    with torch.inference_mode(False):  # so that the copy can be trained
        network = copied(model)
    _Surgery(plan, network, selector).operate()
    return network


class _Surgery:
    def __init__(
        self, plan: ConversionPlan, network: nn.Module, selector: nn.Module | None
    ) -> None:
        self.plan = plan
        self.network = network
        self.selector = selector
        self.modules = dict(network.named_modules())
        self.taking_phase: set[str] = set()

    def operate(self) -> None:
        """Change the modules in place."""
        fused = {a.site.module: a for a in self.plan.alignments if a.site.kind == "window"}
        for edit in self.plan.edits:
            if not self._is_native(edit, fused):
                self._forward(edit.module).edits.append(edit)
        for index, alignment in enumerate(self.plan.alignments):
            self._align(index, alignment)
        sizes = None if self.plan.any_size else self.plan.size
        if sizes is not None or self.plan.outputs:
            self._network().sizes, self._network().outputs = sizes, self.plan.outputs
        root = vars(self.network).get("forward")
        if isinstance(root, EditedNetwork) and not root.is_optional:
            for child in self.network.children():
                _opened(child).register_forward_pre_hook(RefuseSymbolic(), prepend=True)

    def _is_native(self, edit: Edit, fused: dict[str, Alignment]) -> bool:
        """Make the padding of a convolution of torch circular, where that is all there is to do."""
        module = self.modules[edit.module]
        is_own = edit.function.startswith("conv")  # and no call of a hook on the module
        if not isinstance(module, _CONVOLUTIONS) or not is_native(module) or not is_own:
            return False
        change = edit.change
        if not isinstance(change, CircularWindow) or not _keeps_widths(module, change):
            return False
        takes_phase = type(module) in (nn.Conv2d, layers.Conv2d) and edit.module
        if takes_phase and not isinstance(module.padding, str):
            module.__class__ = layers.Conv2d
            self.taking_phase.add(edit.module)
        elif edit.module in fused:
            return False
        module.padding_mode = "circular"
        return True

    def _forward(self, name: str) -> EditedForward:
        module = self.modules[name]
        forward = vars(module).get("forward")
        if not isinstance(forward, EditedForward):
            _require_copies(module, name)
            forward = (EditedForward if name else EditedNetwork)(module)
            if isinstance(forward, EditedNetwork):
                forward.images, forward.remainders = self.plan.images, self.plan.remainders
            if is_layer(module):
                _opened(module).register_forward_pre_hook(KeepForward(), prepend=True)
            module.forward = forward
        return forward

    def _network(self) -> EditedNetwork:
        network = self._forward("")
        assert isinstance(network, EditedNetwork)
        return network

    def _align(self, index: int, alignment: Alignment) -> None:
        site = alignment.site
        aligner = Aligner(
            index,
            alignment.stride,
            alignment.dims,
            alignment.sizes,
            alignment.ndim,
            alignment.full,
            bool(self.plan.outputs),
            alignment.steps,
            self.plan.multiples,
            self.selector,
        )
        module = self.modules[site.module]
        if site.kind in ("output", "hooked"):
            # Hooks that keep the output, to read it later, shall keep the aligned one.
            first = site.kind == "output"
            _opened(module).register_forward_hook(AlignOutput(aligner), prepend=first)
        elif site.kind == "input":
            if not site.module:
                self._network().inputs.append(aligner)
                return
            hook = AlignInput(aligner, site.positions)
            _opened(module).register_forward_pre_hook(hook, prepend=True, with_kwargs=True)
        elif site.kind == "result":
            call = AlignedCall((site.function, site.ndim), site.number, site.total, aligner)
            self._forward(site.module).calls.append(call)
        elif site.module in self.taking_phase:
            hook = AlignInput(aligner, (0,), gives_phase=True)
            module.register_forward_pre_hook(hook, with_kwargs=True)
        else:
            forward = self._forward(site.module)
            index = next(i for i, e in enumerate(forward.edits) if e.function == site.function)
            edit = forward.edits[index]
            forward.edits[index] = AlignedWindow(**vars(edit), aligner=aligner)


def _require_copies(module: nn.Module, name: str) -> None:
    """Refuse to change the forward pass of a module whose copies would not have the change."""
    graph = isinstance(module, torch.fx.GraphModule)
    if graph or not keeps_hooks(module):
        kind = "a graph of torch.fx" if graph else f"{type(module).__name__}, which copies itself"
        way = "before it is traced or exported" if graph else "without it, or skip it"
        raise ConversionError(
            "convert: what is changed must have a forward pass of its own, got "
            f"{name or 'the network itself'}, {kind}, whose copies lose it; convert the network "
            f"{way}"
        )


def _opened(module: nn.Module) -> nn.Module:
    """Let ``torch.fx``, which does not look into layers of torch, look into one that is changed.

    It would go on with the layer as it was: so does quantisation, which makes another of it.
    """
    if is_layer(module):
        vars(module)["__module__"] = __name__
    return module


def is_native(module: nn.Module) -> bool:
    """Whether a layer of torch runs torch's own forward pass."""
    own = type(module).forward.__module__
    return own.startswith(("torch.nn.modules.", "shiftproof.nn.")) and "forward" not in vars(module)


def _keeps_widths(module: nn.Module, change: CircularWindow) -> bool:
    """Whether circular padding as torch does it, on both sides alike, is what is planned."""
    conv = cast(Any, module)
    if conv.padding_mode == "zeros" and change.cropped:
        return False
    if isinstance(conv.padding, str):
        return conv.padding == "same" and all(size % 2 for size in conv.kernel_size)
    if tuple(conv.padding) != change.before:
        return False
    axes = zip(
        *(conv.kernel_size, conv.dilation, conv.stride, change.before, change.after), strict=True
    )
    for size, dilation, stride, first, last in axes:
        # More on one side than is needed must not make room for another window.
        room = (first + last - dilation * (size - 1) - 1) % stride
        if not 0 <= first - last < stride - room:
            return False
    return True


def call_with_offset(model: nn.Module, *args: Any, **kwargs: Any) -> tuple[Any, torch.Tensor]:
    """Call a converted network, and say where in the input its outputs lie.

    A converted network chooses its grid by the content.  An output map as fine as the input is put
    back to where the content is.  A coarser one is put back by whole pixels of its own, cells of
    the input: a circular shift by whole cells moves it by as many.  The rest of a shift, less than
    a cell, is in the offset.  Where no map is returned, but decoded boxes for instance, they are as
    they were found on the aligned input, and all of the shift is in the offset.

    So pixel ``j`` of a map of stride ``s`` lies at ``s * j + offset`` in the input, and a box at
    ``box + offset``, modulo the size of the input.  Where maps of several strides are returned, the
    offset is less than their least common multiple, and that of stride ``s`` is ``offset % s``.
    What is returned beside maps and cannot be moved back, such as boxes, lies where all of the
    shift says, which is not told then: return it without the maps.

    Args:
        model: A network that ``convert`` or ``apply_plan`` returned.
        args: Its arguments.
        kwargs: Its keyword arguments.

    Returns:
        What the network returns, and the offset, ``(N, D)`` float32, in pixels of the input.

    Raises:
        TypeError: If the model was not converted, or aligns nothing: the offset is 0 then.
        ValueError: If a converted network is called twice inside of it.

    Equivariance:
        Exact: under a circular shift of the input by ``d``, ``s * j + offset`` moves by ``d``,
        modulo the size.  Checked by ``tests/conversion/test_offsets.py``.

    Examples:
        >>> from shiftproof import convert
        >>> model = convert(nn.Conv2d(1, 1, 4, stride=4), torch.randn(1, 1, 16, 16)).model
        >>> x = torch.randn(1, 1, 16, 16)
        >>> maps, offset = call_with_offset(model, x)
        >>> moved, other = call_with_offset(model, x.roll((4, 1), (2, 3)))
        >>> ((other - offset) % 4).tolist()
        [[0.0, 1.0]]
    """
    if not isinstance(model, nn.Module) or not any(map(_parts, model.modules())):
        raise TypeError(
            "call_with_offset: the model must be one that convert returned, and that chooses a "
            f"phase, got {type(model).__name__}; convert it first, and if its plan aligns nothing, "
            "call it: the offset is 0"
        )
    with Telling() as told:
        result = model(*args, **kwargs)
    if not told:
        raise TypeError(
            "call_with_offset: the model must choose a phase, got one that aligns nothing or is "
            "compiled; call the model that convert returned, and if its plan aligns nothing, the "
            "offset is 0"
        )
    total = torch.stack([*told.values()]).sum(0)
    forwards = [vars(module).get("forward") for module in model.modules()]
    remainders = next((f.remainders for f in forwards if isinstance(f, EditedNetwork)), ())
    return result, total.remainder(total.new_tensor(remainders)) if remainders else total
