"""One decorator that lets tracers and tensor subclasses see an op as a whole."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from torch.overrides import handle_torch_function, has_torch_function

_P = ParamSpec("_P")
_R = TypeVar("_R")


def overridable(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Make a function take part in the ``__torch_function__`` protocol.

    A ``torch.fx`` tracer then records the call as one node, wherever the function was imported
    from, instead of failing on the arithmetic inside it; a tensor subclass may replace it.
    Plain tensors pass straight through.

    Args:
        function: A function whose arguments may be tensors, or lists or tuples of them.

    Returns:
        The same function, dispatched through the protocol.
    """

    @functools.wraps(function)
    def dispatched(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        values: list[object] = []
        for value in (*args, *kwargs.values()):
            values.extend(value if isinstance(value, (list, tuple)) else [value])
        if has_torch_function(tuple(values)):
            result: _R = handle_torch_function(dispatched, tuple(values), *args, **kwargs)
            return result
        return function(*args, **kwargs)

    return dispatched
