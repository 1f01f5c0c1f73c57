"""Write down a forward pass as a graph, by running it.

``torch.fx`` calls a network with stand-ins for tensors, which cannot answer questions about their
shape, and gives up where Python asks one.  Here the network runs on real tensors; every function of
torch that it calls becomes a node, as does every module that is known as a whole.  Sizes are
recorded too, so that the graph works for every batch.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode

from shiftproof.conversion.integers import RecordedInt
from shiftproof.conversion.refusal import RecordingError

_CONTAINERS = (
    nn.Sequential,
    nn.ModuleList,
    nn.ModuleDict,
    nn.ParameterList,
    nn.ParameterDict,
    nn.TransformerEncoder,
    nn.TransformerDecoder,
)
_WITH_STATE = (
    nn.modules.batchnorm._NormBase,
    nn.modules.dropout._DropoutNd,
    nn.GroupNorm,
    nn.LayerNorm,
)
_ATTRIBUTES = frozenset({"T", "mT", "H", "mH", "data", "real", "imag"})
_READS = frozenset(
    {
        *("__bool__", "__contains__", "__float__", "__index__", "__int__", "allclose", "equal"),
        *("is_nonzero", "item", "numpy", "tolist"),
    }
)
_IGNORED = frozenset({"_assert", "__len__", "dim", "is_floating_point", "is_complex", "stride"})


def is_leaf(module: nn.Module) -> bool:
    """Whether a module is recorded as one node.

    Args:
        module: Any module.

    Returns:
        True for the layers of torch and of this package, for classes made from them that keep their
        forward pass, and for norms and dropout, which do something else in training.
    """
    if isinstance(module, _CONTAINERS):
        return False
    if isinstance(module, torch.jit.ScriptModule):
        return True
    kind = type(module)
    if kind.__module__.startswith(("torch.nn.", "torch.ao.", "shiftproof.nn.")):
        return True
    bases = [base for base in kind.__mro__ if base.__module__.startswith("torch.nn.modules.")]
    bases = [base for base in bases if base is not nn.Module and base not in _CONTAINERS]
    if not bases:
        return False
    if isinstance(module, _WITH_STATE):
        return True
    own = kind.__mro__[: kind.__mro__.index(bases[0])]
    return not any("forward" in vars(base) for base in own)


class Recorder(TorchFunctionMode):
    """Runs a network and writes down what it does.

    Args:
        model: The network; it is left as it was, but for what its forward pass changes.
        opaque: Qualified names of modules to record as one node.
    """

    def __init__(self, model: nn.Module, opaque: Iterable[str] = ()) -> None:
        super().__init__()
        self.model = model
        self.graph = fx.Graph()
        self._opaque = frozenset(opaque)
        self._names = {id(module): name for name, module in model.named_modules()}
        self._tensors: dict[int, fx.Node] = {}
        self._kept: list[Any] = []  # so that no identity is used twice
        self._inputs: set[fx.Node] = set()  # nodes that depend on the input
        self._stack: list[str] = [""]
        self._paused = False
        self._input: fx.Node | None = None
        self._example: Tensor | None = None

    def record(self, example_input: Tensor) -> fx.Graph:
        """Run the network.

        Args:
            example_input: Its input.

        Returns:
            The graph.

        Raises:
            RecordingError: If something cannot be written down.
        """
        node = self.graph.placeholder("input")
        self._example = example_input
        self._input = node
        self._inputs.add(node)
        self._register(example_input, node)
        with self._leaves(), torch.no_grad(), self:
            result = self.model(example_input)
        self.graph.output(self._argument(result))
        return self.graph

    @contextmanager
    def _leaves(self) -> Iterator[None]:
        original = nn.Module.__call__

        def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            if self._paused:
                return original(module, *args, **kwargs)
            name = self._names.get(id(module))
            if name is None:
                raise RecordingError(self._stack[-1], "calls a module that is not a part of it")
            if name and (is_leaf(module) or name in self._opaque):
                return self._call_leaf(original, module, name, args, kwargs)
            if name and _is_identity(original, self, module, args, kwargs):
                return self._call_leaf(original, module, name, args, kwargs)
            self._stack.append(name)
            result = original(module, *args, **kwargs)
            self._stack.pop()
            return result

        apply = vars(torch.autograd.Function)["apply"]  # a class method, of Python or of C

        def apply_own(function: Any, *args: Any, **kwargs: Any) -> Any:
            if not self._paused:  # its derivative would be lost
                raise RecordingError(self._stack[-1], f"applies {function.__name__}")
            return apply.__get__(None, function)(*args, **kwargs)

        patched = mock.patch.object(torch.autograd.Function, "apply", classmethod(apply_own))
        with mock.patch.object(nn.Module, "__call__", call), patched:
            yield

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Record nothing for a while."""
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before

    def _call_leaf(
        self,
        original: Callable[..., Any],
        module: nn.Module,
        name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        self._stack.append(name)
        places = self._argument(args), self._argument(kwargs)
        self._stack.pop()
        with self.paused():
            result = original(module, *args, **kwargs)
        node = self.graph.call_module(name, *places)
        self._finish(node, result)
        return result

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if self._paused or name in _IGNORED:
            return func(*args, **kwargs)
        if name == "__get__":
            return self._get_attribute(func, args)
        if name in _READS:
            return self._read(func, name, args, kwargs)
        if name in ("size", "numel"):
            return self._measure(func, name, args, kwargs)
        places = self._argument(args), self._argument(kwargs)
        with self.paused():
            result = func(*args, **kwargs)
        if name == "__setitem__":
            node = self.graph.call_function(operator.setitem, *places)
            if self._depends(node):
                self._inputs.add(places[0][0])
            self._inputs.add(node)
            return result
        if not _holds_tensor(result):
            return result
        if name == "__getitem__":
            node = self.graph.call_function(operator.getitem, *places)
        elif _is_method(func):
            node = self.graph.call_method(name, *places)
        else:
            node = self.graph.call_function(func, *places)
        self._finish(node, result)
        return result

    def _get_attribute(self, func: Any, args: tuple[Any, ...]) -> Any:
        name = func.__self__.__name__
        result = func(*args)
        if name == "shape":
            node = self._argument(args[0])
            return torch.Size(
                RecordedInt(size, self.graph.call_method("size", (node, axis)))
                for axis, size in enumerate(result)
            )
        if name in _ATTRIBUTES:
            node = self.graph.call_function(getattr, (self._argument(args[0]), name))
            self._finish(node, result)
        return result

    def _measure(
        self, func: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        result = func(*args, **kwargs)
        tensor = self._argument(args[0])
        if isinstance(result, int):
            rest = tuple(map(self._argument, args[1:]))
            node = self.graph.call_method(name, (tensor, *rest), self._argument(kwargs))
            return RecordedInt(result, node)
        return torch.Size(
            RecordedInt(size, self.graph.call_method("size", (tensor, axis)))
            for axis, size in enumerate(result)
        )

    def _read(
        self, func: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        places = self._argument((args, kwargs))
        nodes: list[fx.Node] = []
        fx.node.map_arg(places, nodes.append)
        if self._inputs.intersection(nodes):
            raise RecordingError(
                self._stack[-1], f"reads values that depend on the input ({name.strip('_')})"
            )
        return func(*args, **kwargs)

    def _depends(self, node: fx.Node) -> bool:
        return any(
            source in self._inputs
            for source in node.all_input_nodes
            if not (source.op == "call_method" and source.target in ("size", "numel"))
        )

    def _finish(self, node: fx.Node, result: Any) -> None:
        if self._depends(node):
            self._inputs.add(node)
        node.meta["module"] = self._stack[-1]
        if isinstance(result, Tensor):
            with self.paused():
                node.meta["shape"] = tuple(result.shape)
        self._register(result, node)

    def _register(self, result: Any, node: fx.Node) -> None:
        if isinstance(result, Tensor):
            self._tensors[id(result)] = node
            self._kept.append(result)
        elif isinstance(result, (tuple, list)):
            for index, value in enumerate(result):
                if _holds_tensor(value):
                    item = self.graph.call_function(operator.getitem, (node, index))
                    self._finish(item, value)
        elif isinstance(result, dict):
            for key, value in result.items():
                if _holds_tensor(value):
                    self._finish(self.graph.call_function(operator.getitem, (node, key)), value)

    def _argument(self, value: Any) -> Any:
        """What stands in the graph for a value."""
        if isinstance(value, RecordedInt):
            return value.node
        if isinstance(value, Tensor):
            return self._tensor(value)
        if isinstance(value, (tuple, list)):
            return (
                type(value)(map(self._argument, value))
                if type(value) in (tuple, list)
                else (tuple(map(self._argument, value)))
            )
        if isinstance(value, dict):
            return {key: self._argument(item) for key, item in value.items()}
        if isinstance(value, slice):
            return slice(*map(self._argument, (value.start, value.stop, value.step)))
        return self._constant(value)

    def _constant(self, value: Any) -> Any:
        assert self._example is not None
        if isinstance(value, torch.device) and value == self._example.device:
            return self.graph.call_function(getattr, (self._input, "device"))
        if value is self._example.dtype:
            return self.graph.call_function(getattr, (self._input, "dtype"))
        plain = (int, float, str, bool, complex, type(None), type(Ellipsis))
        if isinstance(
            value, (*plain, torch.dtype, torch.device, torch.memory_format, torch.layout)
        ):
            return value
        if hasattr(value, "item") and getattr(value, "shape", None) == ():
            return value.item()
        raise RecordingError(
            self._stack[-1],
            f"returns a {type(value).__name__}, or passes it to a function of torch",
        )

    def _tensor(self, value: Tensor) -> fx.Node:
        node = self._tensors.get(id(value))
        if node is not None:
            return node
        name = next(iter(_attributes_holding(self.model, value)), None)
        if name is None:
            raise RecordingError(
                self._stack[-1], "uses a tensor that no function of torch made, as far as was seen"
            )
        node = self.graph.get_attr(name)
        self._finish(node, value)
        return node


def _is_identity(
    original: Callable[..., Any],
    recorder: Recorder,
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> bool:
    """Whether a module without parameters returns what it is given, as stochastic depth does."""
    if module._modules or module._parameters or module._buffers or len(args) != 1 or kwargs:
        return False
    with recorder.paused():
        return original(module, *args) is args[0]


def _attributes_holding(model: nn.Module, value: Tensor) -> Iterator[str]:
    for name, module in model.named_modules():
        stores = (module._parameters, module._buffers, vars(module))
        for key, held in ((key, held) for store in stores for key, held in store.items()):
            if held is value and "." not in key:
                yield f"{name}.{key}" if name else key


def _is_method(func: Any) -> bool:
    if hasattr(func, "__objclass__"):
        return True
    return getattr(func, "__module__", "") == "torch._tensor"


def _holds_tensor(value: Any) -> bool:
    if isinstance(value, Tensor):
        return True
    if isinstance(value, (tuple, list)):
        return any(map(_holds_tensor, value))
    return isinstance(value, dict) and any(map(_holds_tensor, value.values()))


def record(model: nn.Module, example_input: Tensor) -> fx.Graph:
    """Record a network; modules that cannot be seen into become one node each.

    Args:
        model: The network, in the mode to be recorded.
        example_input: Its input.

    Returns:
        The graph.

    Raises:
        RecordingError: If the network itself cannot be seen into.
    """
    opaque: list[str] = []
    while True:
        recorder = Recorder(model, opaque)
        try:
            graph = recorder.record(example_input.clone())
        except RecordingError as error:
            if not error.module or error.module in opaque:
                raise
            opaque.append(error.module)
            continue
        graph.lint()
        return graph
