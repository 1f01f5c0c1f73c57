"""What every module and every function between modules does to the orbit, in one run."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from shiftproof.certification.observation import Observation, Observer
from shiftproof.certification.outputs import tensors_in


@dataclass
class Step:
    """One call of a module, or of a function in a module's forward.

    Attributes:
        name: Qualified name of the module; for a function, of the module whose forward calls it.
        module: That module.
        function: Name of the function; empty for a module.
        inputs: The tensors it takes that hold a row per image.
        outputs: The tensors it returns that do.
        arguments: What the function was called with, observations in place of tensors.
        options: Its keyword arguments, likewise.
        children: For a module, the steps inside it.
        order: Position in the order in which steps end.
    """

    name: str
    module: nn.Module
    function: str = ""
    inputs: list[Observation] = field(default_factory=list)
    outputs: list[Observation] = field(default_factory=list)
    arguments: tuple[Any, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    children: list[Step] = field(default_factory=list)
    order: int = -1

    @property
    def described(self) -> str:
        """Name of the function, and of the parameter it is called with, if any."""
        values = (*self.arguments, *self.options.values())
        names = (v.source for v in values if isinstance(v, Observation) and not v.in_orbit)
        parameter = next((name for name in names if name), "")
        return f"{self.function} with {parameter}" if parameter else self.function

    def is_given_orbit(self, pair: int) -> bool:
        """Whether every input is a circular shift of what it was, or the same.

        Args:
            pair: Number of the pair.

        Returns:
            False also where an input cannot be read.
        """
        return all(value.in_orbit[pair] for value in self.inputs)

    def loses_orbit(self, pair: int) -> bool:
        """Whether the inputs are in their orbit and an output is not.

        Args:
            pair: Number of the pair.

        Returns:
            Outputs that cannot be read do not count.
        """
        return self.is_given_orbit(pair) and any(
            value.role != "unknown" and not value.in_orbit[pair] for value in self.outputs
        )

    def regains_orbit(self, pair: int) -> bool:
        """Whether an input is out of its orbit, or unreadable, and a moving output is in it.

        Args:
            pair: Number of the pair.

        Returns:
            The answer.
        """
        return not self.is_given_orbit(pair) and any(
            value.in_orbit[pair] and value.shifts is not None and any(value.shifts[pair])
            for value in self.outputs
        )


class Tracer(TorchFunctionMode):
    """Runs a model and observes the tensors between its modules and functions.

    Args:
        model: The model; hooks are added while it runs, and removed.
        observer: Reads tensors.
    """

    def __init__(self, model: nn.Module, observer: Observer) -> None:
        super().__init__()
        self.model = model
        self.observer = observer
        self._names = {
            id(value): name
            for values in (model.named_parameters(), model.named_buffers())
            for name, value in values
        }
        self._stack: list[Step] = []
        self._count = 0
        self._busy = False
        # An operation in place changes a tensor and its version, but not its identity.
        self._seen: dict[int, tuple[weakref.ref[Tensor], int, Observation]] = {}

    def trace(self, batch: Tensor) -> Step:
        """Run the model.

        Args:
            batch: The images of all pairs, then their shifted copies.

        Returns:
            The call of the model, with all steps inside it.
        """
        caller = Step("", self.model)
        handles = []
        for name, module in self.model.named_modules():
            enter, leave = self._hooks(name)
            handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
            handles.append(module.register_forward_hook(leave, with_kwargs=True))
        self._stack = [caller]
        try:
            with torch.no_grad(), self:
                self.model(batch)
        finally:
            for handle in handles:
                handle.remove()
        return caller.children[-1]

    def _hooks(self, name: str) -> tuple[Callable[..., None], Callable[..., None]]:
        def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._busy = True
            self._stack.append(Step(name, module, inputs=self._observe_all((args, kwargs), [])))
            self._busy = False

        def leave(
            module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
        ) -> None:
            self._busy = True
            step = self._stack.pop()
            step.outputs = self._observe_all(result, step.inputs)
            for value in step.outputs:
                if not any(value is given for given in step.inputs):
                    value.source = name
            self._record(step)
            self._busy = False

        return enter, leave

    def _record(self, step: Step) -> None:
        step.order = self._count
        self._count += 1
        self._stack[-1].children.append(step)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Call a function and observe what it does."""
        kwargs = kwargs or {}
        frame = self._stack[-1]
        name = getattr(func, "__name__", type(func).__name__)
        if self._busy or name in ("__get__", "__set__") or _is_ordinary_leaf(frame.module):
            return func(*args, **kwargs)
        step = Step(frame.name, frame.module, name)
        step.inputs = self._observe_all((args, kwargs), [])
        step.arguments, step.options = self._describe(args), self._describe(kwargs)
        result = func(*args, **kwargs)
        source = next((value.source for value in step.inputs if value.shifts is not None), "")
        for value in tensors_in(result):
            observation = self._observe(value, step.inputs)
            if observation is None:
                constants = [part for part in step.arguments if isinstance(part, Observation)]
                if constants and constants[0].source:
                    self._keep(value, _constant(value, constants[0].source))
                continue
            observation.source = observation.source or source
            step.outputs.append(observation)
        if step.outputs:
            self._record(step)
        return result

    def _observe_all(self, values: Any, inputs: list[Observation]) -> list[Observation]:
        found = (self._observe(value, inputs) for value in tensors_in(values))
        return [observation for observation in found if observation is not None]

    def _observe(self, value: Tensor, inputs: list[Observation]) -> Observation | None:
        """Observe a tensor that holds a row per image; None for any other."""
        rows = 2 * self.observer.num_pairs
        if not value.is_floating_point() or value.ndim < 2 or value.shape[0] != rows:
            return None
        if id(value) in self._names:
            return None
        known = self._recall(value)
        if known is None:
            known = self.observer.observe(value, inputs)
            self._keep(value, known)
        return known

    def _recall(self, value: Tensor) -> Observation | None:
        reference, version, observation = self._seen.get(id(value), (None, 0, None))
        if reference is None or reference() is not value or version != value._version:
            return None
        return observation

    def _keep(self, value: Tensor, observation: Observation) -> None:
        self._seen[id(value)] = (weakref.ref(value), value._version, observation)

    def _describe(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            known = self._recall(value)
            return known or _constant(value, self._names.get(id(value), ""))
        if isinstance(value, dict):
            return {key: self._describe(part) for key, part in value.items()}
        if isinstance(value, (list, tuple)):
            return tuple(self._describe(part) for part in value)
        return value


def _constant(value: Tensor, source: str) -> Observation:
    return Observation(tuple(value.shape), "fixed", (), is_constant=True, source=source)


def _is_ordinary_leaf(module: nn.Module) -> bool:
    """Whether a module is one of torch's own layers, which its type explains."""
    return type(module).__module__.startswith("torch.nn.modules.") and not list(module.children())
