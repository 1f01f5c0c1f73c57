"""How ops meet tracers, compilers and tensor subclasses."""

import functools
import importlib.util
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor
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


def needs_gradient(x: Tensor) -> bool:
    """Whether a backward pass through an operation on this tensor may follow.

    Args:
        x: The tensor.

    Returns:
        False where a function with a derivative of its own can be saved.
    """
    return x.requires_grad and torch.is_grad_enabled()


def is_jit_tracing() -> bool:
    """Whether ``torch.jit.trace`` records operations, which cannot save Python functions."""
    return torch._C._get_tracing_state() is not None


def _holds_values(x: Tensor) -> bool:
    """Whether this is memory, and not what stands for it while operations are recorded."""
    return (
        type(x) is Tensor
        and not x.is_meta
        and not torch.compiler.is_compiling()
        and not is_jit_tracing()
        and not torch._C._functorch.is_functorch_wrapped_tensor(x)
    )


def may_read_values(x: Tensor) -> bool:
    """Whether Python may look at a tensor's values: not while operations are being recorded.

    Args:
        x: The tensor.

    Returns:
        False under compilation, export, tracing, ``torch.func`` transforms, fake or meta tensors
        and the capture of a CUDA graph.
    """
    return _holds_values(x) and not (x.is_cuda and torch.cuda.is_current_stream_capturing())


_MOST_SAMPLES = 65535
"""More samples than this are no axis of a grid of programs."""

_KERNEL_DTYPES = {
    *(torch.float64, torch.float32, torch.bfloat16, torch.float16),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8),
}


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def may_launch(x: Tensor) -> bool:
    """Whether kernels of Triton may take the place of operations of torch.

    Args:
        x: The tensor that they would read.

    Returns:
        True for memory of a CUDA device, outside of recordings and of forward-mode derivatives, if
        Triton is installed.
    """
    return (
        x.is_cuda
        and _holds_values(x)  # first, since a recording would bound its sizes by what follows
        and x.dtype in _KERNEL_DTYPES
        and x.numel() > 0
        and x.shape[0] <= _MOST_SAMPLES
        and torch.autograd.forward_ad._current_level < 0
        and _has_triton()
    )


def may_branch(x: Tensor) -> bool:
    """Whether Python may choose its way by a tensor's values: not where it would have to wait.

    An accelerator computes behind the host, which one look at a value stops until it is done.

    Args:
        x: The tensor.

    Returns:
        ``may_read_values`` on the CPU; False on any other device.
    """
    return x.device.type == "cpu" and may_read_values(x)
