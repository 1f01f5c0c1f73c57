"""Follow a forward pass by running it on fake tensors, which have shapes and no values.

The network's own Python code runs, on a copy whose parameters are fake too, so that nothing is
computed and nothing of the user's is touched.  A mode of this thread sees every function of torch,
hooks on the copy see every module.  Code that asks for a value cannot get one: the module that asks
is then known as a whole.
"""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    FakeCopyMode,
    FakeTensor,
    FakeTensorMode,
    unset_fake_temporarily,
)
from torch.overrides import TorchFunctionMode

from shiftproof.analysis.changes import Edit, function_name
from shiftproof.analysis.errors import CaptureError, ConversionError
from shiftproof.analysis.graph import CallRecord, Graph, Value, Visit, keeps_hooks
from shiftproof.inputs import Inputs, find_inputs
from shiftproof.nested import map_nested, tensors_in

_READS = frozenset(
    {
        *("__bool__", "__contains__", "__float__", "__index__", "__int__", "allclose", "equal"),
        *("is_nonzero", "item", "numpy", "tolist", "__array__"),
    }
)
_OWN = frozenset({"_parameters", "_buffers", "_modules"})
_VIEWS = frozenset({"T", "mT", "H", "mH", "data", "real", "imag"})


class Tracer(TorchFunctionMode):
    """Runs a copy of a network on fake tensors and writes down what it calls.

    Args:
        model: The network; it is left as it is.
        opaque: Names of modules into which nobody looks.
        replays: For modules that cannot run on fake tensors, what each of their calls gave.
        edits: Changes that are in force, by name of the module whose forward pass makes the call.
        fake_mode: Makes the fake tensors; one of its own if None.
        training: The mode in which the network is followed.
    """

    def __init__(
        self,
        model: nn.Module,
        opaque: Collection[str] = (),
        replays: Mapping[str, Sequence[Any]] | None = None,
        edits: Mapping[str, Sequence[Edit]] | None = None,
        fake_mode: FakeTensorMode | None = None,
        training: bool = False,
    ) -> None:
        super().__init__()
        self.fake_mode = (
            FakeTensorMode(allow_non_fake_inputs=True) if fake_mode is None else fake_mode
        )
        self.model = copied(model, fake_mode=self.fake_mode).train(training)
        self.opaque = {*opaque, *(replays or {})}
        self.replays = {name: list(results) for name, results in (replays or {}).items()}
        self.edits = edits or {}
        self.calls: list[CallRecord] = []
        self.visits: list[Visit] = []
        self._stack: list[Visit] = []
        self._values: dict[int, Value] = {}
        self._kept: list[Tensor] = []  # so that no identity is used twice
        self._stores: dict[int, list[Value]] = {}
        self._real = dict(zip(map(id, _held(self.model)), _held(model), strict=True))
        self._names: dict[int, str] = {}
        self._quiet = 0

    def run(self, inputs: Inputs) -> Graph:
        """Run the network.

        Args:
            inputs: Its arguments, real or fake.

        Returns:
            The recorded forward pass.

        Raises:
            CaptureError: If something inside cannot be followed; names the innermost module.
        """
        given = inputs.mapped(lambda x, _: self._faked(x), self._faked)
        sources = tuple(self._track(images, "input") for images in given.tensors)
        for tensor in given.others:
            self._track(tensor, "another input")
        for name, module in self.model.named_modules():
            if isinstance(module, torch.jit.ScriptModule):
                raise CaptureError(name, "is a scripted module")
            enter, begin, give, leave = self._hooks(name)
            module.register_forward_pre_hook(enter, prepend=True, with_kwargs=True)
            module.register_forward_pre_hook(begin)
            module.register_forward_hook(give, prepend=True)
            module.register_forward_hook(leave, with_kwargs=True)
            if name in self.replays:
                module.forward = self._replay(name)
        try:
            with torch.no_grad(), _silence(), self.fake_mode, self:
                output = self.model(*given.args, **given.kwargs)
        except CaptureError:
            raise
        except Exception as error:
            name = self._stack[-1].name if self._stack else ""
            raise CaptureError(name, _told(error)) from error
        output = map_nested(output, self._described)
        dims = tuple(image.dims for image in inputs.images)
        return Graph(sources, dims, self.calls, self.visits, output)

    def _faked(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or isinstance(value, FakeTensor):
            return value
        return self.fake_mode.from_tensor(value)

    def _replay(self, name: str) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            if not self.replays[name]:
                raise CaptureError("", f"calls {name} another number of times than on values")
            return map_nested(self.replays[name].pop(0), self._faked)

        return forward

    def _hooks(self, name: str) -> tuple[Callable[..., None], ...]:
        def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
            parent = self._stack[-1] if self._stack else None
            visit = Visit(name, type(module).__name__, is_layer(module), parent, len(self.calls))
            visit.args, visit.kwargs = map_nested((args, kwargs), self._described)
            visit.keeps_hooks = keeps_hooks(module)
            self._stack.append(visit)
            self.visits.append(visit)
            self._quiet += name in self.opaque

        def begin(module: nn.Module, args: Any) -> None:
            self._stack[-1].in_hooks = False

        def give(module: nn.Module, args: Any, result: Any) -> None:
            self._stack[-1].in_hooks = True
            self._quiet += 1
            self._stack[-1].given = map_nested(result, self._described)
            self._quiet -= 1

        def leave(module: nn.Module, args: Any, kwargs: Any, result: Any) -> None:
            visit = self._stack.pop()
            while visit.name != name:  # left by an exception that was caught
                self._quiet -= visit.name in self.opaque
                visit = self._stack.pop()
            self._quiet -= name in self.opaque
            is_whole = name in self.opaque and not self._quiet
            self._quiet += 1  # what is asked of tensors here is no part of the network
            if is_whole:
                self._record(visit.type, visit, visit.args, visit.kwargs, result, is_module=True)
            visit.end = len(self.calls)
            visit.result = map_nested(result, self._described)
            self._quiet -= 1

        return enter, begin, give, leave

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Call a function and write it down."""
        kwargs = kwargs or {}
        if self._quiet or not self._stack:
            return func(*args, **kwargs)
        raw = getattr(func, "__name__", type(func).__name__)
        if raw in ("__get__", "__set__"):
            raw = getattr(getattr(func, "__self__", None), "__name__", raw)
            if raw not in _VIEWS:
                return func(*args, **kwargs)
        if raw in _READS:
            known = self._real.get(id(args[0])) if len(args) == 1 else None
            if known is not None:  # a parameter or a buffer
                with torch._C.DisableTorchFunction(), unset_fake_temporarily():
                    return func(known)
        function = function_name(func, raw)
        given = map_nested((args, kwargs), self._argument)
        versions = {id(tensor): _version(tensor) for tensor in tensors_in((args, kwargs))}
        edit = self._edit_of(func, args, kwargs)
        result = func(*args, **kwargs) if edit is None else edit.run(func, args, kwargs)
        given_tensors = tensors_in((args, kwargs))
        written = [t for t in given_tensors if _version(t) != versions[id(t)]]
        for value in (v for t in written for v in self._stores.get(_memory(t), ())):
            value.is_written = True
        for tensor in written:
            self._values.pop(id(tensor))  # what it holds now is another value
        if raw == "__setitem__":
            result = args[0]
        if tensors_in(result):
            in_place = any(t is result for t in written)
            self._record(function, self._owner, given[0], given[1], result, in_place=in_place)
        return None if raw == "__setitem__" else result

    @property
    def _owner(self) -> Visit:
        """Whose forward pass makes a call; what hooks of a module do, the module around it does."""
        visit = self._stack[-1]
        while visit.in_hooks and visit.parent is not None:
            visit = visit.parent
        return visit

    def _edit_of(self, func: Any, args: Any, kwargs: Any) -> Edit | None:
        edits = self.edits.get(self._owner.name, ())
        return next((edit for edit in edits if edit.matches(func, args, kwargs)), None)

    def _record(
        self,
        function: str,
        owner: Visit,
        args: Any,
        kwargs: Any,
        result: Any,
        *,
        is_module: bool = False,
        in_place: bool = False,
    ) -> None:
        kind = (function, getattr(result, "ndim", -1))
        number = owner.counts.get(kind, 0)
        visit: Visit | None = owner
        while visit is not None:
            visit.counts[kind] = visit.counts.get(kind, 0) + 1
            visit = visit.parent
        index = len(self.calls)
        call = CallRecord(index, function, owner, args, kwargs, None, number, is_module, in_place)
        call.is_outside = owner.in_hooks and not is_module
        for value in call.inputs:
            value.users.append(index)
        # A function that has nothing to do, such as a cast, returns the tensor it was given.
        call.result = map_nested(
            result, lambda leaf: self._values.get(id(leaf)) or self._track(leaf, birth=index)
        )
        self.calls.append(call)

    def _track(self, value: Any, name: str = "", birth: int = -1) -> Any:
        """Give a tensor a value of its own, also one that was written to."""
        if not isinstance(value, Tensor):
            return value
        known = Value(tuple(value.shape), value.is_floating_point(), birth, name)
        self._values[id(value)] = known
        self._kept.append(value)
        self._stores.setdefault(_memory(value), []).append(known)
        return known

    def _described(self, leaf: Any) -> Any:
        """A recorded tensor, or what stands there."""
        return self._values.get(id(leaf), leaf) if isinstance(leaf, Tensor) else leaf

    def _argument(self, leaf: Any) -> Any:
        """What a function is called with; a tensor from nowhere is refused."""
        if not isinstance(leaf, Tensor) or id(leaf) in self._values:
            return self._described(leaf)
        if not isinstance(leaf, FakeTensor):  # made outside: a constant
            return self._track(leaf, "a tensor")
        if id(leaf) not in self._names:  # perhaps an attribute that was set since
            self._names.update(names_of_tensors(self.model))
        name = self._names.get(id(leaf))
        if name is None:
            raise CaptureError(
                self._stack[-1].name,
                "uses a tensor that no function of torch made, as far as was seen",
            )
        return self._track(leaf, name)


@contextmanager
def _silence() -> Iterator[None]:
    """Leave out what torch logs of this thread when a fake tensor does not fit: it is an answer."""
    thread, logger = threading.get_ident(), logging.getLogger("torch._subclasses.fake_tensor")

    def is_other(record: logging.LogRecord) -> bool:
        return record.thread != thread

    logger.addFilter(is_other)
    try:
        yield
    finally:
        logger.removeFilter(is_other)


def _version(tensor: Tensor) -> int:
    """How often a tensor was written to; inference tensors do not count."""
    return 0 if tensor.is_inference() else tensor._version


def _memory(tensor: Tensor) -> int:
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):  # sparse tensors and the like
        return id(tensor)


def _held(model: nn.Module) -> list[Tensor]:
    """Parameters and buffers, in order."""
    return [*model.parameters(), *model.buffers()]


def _told(error: Exception) -> str:
    words = str(error).lower()
    if "DataDependent" in type(error).__name__ or "fake" in words or ".numpy()" in words:
        return "reads values that depend on the input"
    message = (str(error).splitlines() or [""])[0]
    return f"raises {type(error).__name__}: {message[:200]}"


def copied(
    model: nn.Module, operation: str = "convert", fake_mode: FakeTensorMode | None = None
) -> nn.Module:
    """A copy of a network.

    Args:
        model: The network.
        operation: Name of the caller, for the error message.
        fake_mode: Makes fake tensors, so that the copy is without its numbers; real ones if None.

    Returns:
        The copy.

    Raises:
        ConversionError: If the network cannot be copied.
    """
    try:
        with nullcontext() if fake_mode is None else FakeCopyMode(fake_mode):
            return copy.deepcopy(model)
    except Exception as error:
        raise ConversionError(
            f"{operation}: a network must survive copy.deepcopy, because a copy of it is used, got "
            f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}; use the forms of "
            "torch.nn.utils.parametrizations for weight and spectral norm"
        ) from error


def is_layer(module: nn.Module) -> bool:
    """Whether a module is one of torch's or this package's own."""
    return type(module).__module__.startswith(("torch.nn.", "torch.ao.", "shiftproof.nn."))


def names_of_tensors(model: nn.Module) -> dict[int, str]:
    """Qualified names of the attributes that hold tensors, also inside lists and dicts.

    Args:
        model: The network.

    Returns:
        The names by the tensors' identity.
    """
    found: dict[int, str] = {}
    for name, module in model.named_modules():
        stores = (module._parameters, module._buffers, vars(module))
        for key, held in ((key, held) for store in stores for key, held in store.items()):
            for tensor in () if key in _OWN else tensors_in(held):
                found.setdefault(id(tensor), f"{name}.{key}" if name else key)
    return found


def capture(
    model: nn.Module,
    args: Inputs | tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
    *,
    opaque: Collection[str] = (),
    replays: Mapping[str, Sequence[Any]] | None = None,
    edits: Mapping[str, Sequence[Edit]] | None = None,
    training: bool = False,
) -> Graph:
    """Follow a forward pass.

    Args:
        model: The network; it is left as it is.
        args: Its arguments, of which some are images.
        kwargs: Its keyword arguments.
        opaque: Names of modules into which nobody looks.
        replays: For modules that cannot run on fake tensors, what each of their calls gave.
        edits: Changes that are in force, by module.
        training: The mode in which the network is followed.

    Returns:
        The recorded forward pass.

    Raises:
        CaptureError: If something inside cannot be followed; names the innermost module.
        ConversionError: If the network cannot be copied.
    """
    if not isinstance(args, Inputs):
        args = find_inputs("capture", model, args, kwargs, None)
    return Tracer(model, opaque, replays, edits, training=training).run(args)
