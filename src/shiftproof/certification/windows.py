"""Why a sliding window, strided or padded, does not follow a shift."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from shiftproof import nn as layers
from shiftproof.certification.observation import Observation
from shiftproof.certification.trace import Step

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_MAX_POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
_POOLS = (
    *_MAX_POOLS,
    *(nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.LPPool1d, nn.LPPool2d),
)
_LOWPASSES = (layers.LowPass1d, layers.LowPass2d, layers.LowPass3d)
_BLUR_POOLS = (layers.BlurPool1d, layers.BlurPool2d, layers.BlurPool3d)

BORDERS = {
    "zeros": "zero padding",
    "constant": "constant padding",
    "reflect": "reflect padding",
    "replicate": "replicate padding",
}
"""What pads with something else than the other side of the map."""


def shown(values: Sequence[int]) -> str:
    """Sizes as text, for instance ``7 x 7``.

    Args:
        values: Sizes per axis.

    Returns:
        The text.
    """
    return " x ".join(map(str, values))


def _pixels(widths: Sequence[int]) -> str:
    if len(set(widths)) > 1:
        return f"of {shown(widths)} pixels"
    return "of 1 pixel" if widths[0] == 1 else f"of {widths[0]} pixels"


def _per_axis(value: Any, num_dims: int) -> tuple[int, ...]:
    if isinstance(value, (list, tuple)):
        return tuple(value) * (num_dims if len(value) == 1 else 1)
    return (value,) * num_dims


@dataclass(frozen=True)
class Window:
    """A sliding window.

    Attributes:
        kernel_size: Its size per axis.
        stride: Its steps per axis.
        border: What is padded with, in words; empty for nothing or a circular border.
        ceil_mode: Whether a window may hang over the border.
    """

    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    border: str = ""
    ceil_mode: bool = False

    def faults(self, source: Observation, sizes: tuple[int, ...] | None, pair: int) -> list[str]:
        """Reasons why this window does not follow a shift.

        Args:
            source: The map that it reads.
            sizes: Spatial sizes of its output, if known.
            pair: Number of the pair.

        Returns:
            Reasons in words, the largest first.
        """
        if source.grid is None or source.shifts is None:
            return []
        faults = [self.border] if self.border else []
        stride = shown(self.stride) if len(set(self.stride)) > 1 else str(self.stride[0])
        divides = all(size % step == 0 for size, step in zip(source.grid, self.stride, strict=True))
        if not divides:
            faults.append(
                f"stride {stride} on a map of {shown(source.grid)}, which it does not divide"
            )
        elif any(d % step for d, step in zip(source.shifts[pair], self.stride, strict=True)):
            faults.append(f"stride {stride} keeps phase 0 whatever the content")
        full = tuple(size // step for size, step in zip(source.grid, self.stride, strict=True))
        hangs = (
            self.ceil_mode
            and not self.border
            and any(
                (size - length) % step
                for size, length, step in zip(
                    source.grid, self.kernel_size, self.stride, strict=True
                )
            )
        )
        if hangs:
            faults.append("ceil_mode adds a window that hangs over the border")
        elif sizes is not None and any(a < b for a, b in zip(sizes, full, strict=True)):
            faults.append(
                f"a window of {shown(self.kernel_size)} without padding leaves {shown(sizes)} of "
                f"{shown(full)}"
            )
        return faults


def _border(mode: str, widths: Any, num_dims: int) -> str:
    if mode == "circular" or widths == "valid":
        return ""
    if widths == "same":
        return f"{BORDERS[mode]} ('same')"
    pixels = _per_axis(widths, num_dims)
    return f"{BORDERS[mode]} {_pixels(pixels)}" if any(pixels) else ""


def module_window(module: nn.Module) -> Window | None:
    """Read a module as a sliding window.

    Args:
        module: Any module.

    Returns:
        The window; None if it is another kind of module.
    """
    if isinstance(module, _CONVOLUTIONS):
        num_dims = len(module.kernel_size)
        kernel = tuple(
            dilation * (size - 1) + 1
            for size, dilation in zip(module.kernel_size, module.dilation, strict=True)
        )
        border = _border(module.padding_mode, module.padding, num_dims)
        if module.padding == "same" and max(kernel) == 1:
            border = ""
        return Window(kernel, tuple(module.stride), border)
    if isinstance(module, _POOLS):
        num_dims = int(type(module).__name__[-2])
        kernel = _per_axis(module.kernel_size, num_dims)
        widths = getattr(module, "padding", 0)
        border = _border("zeros", widths, num_dims)
        if isinstance(module, _MAX_POOLS):
            border = border.replace("zero padding", "padding with minus infinity")
        stride = _per_axis(module.kernel_size if module.stride is None else module.stride, num_dims)
        return Window(kernel, stride, border, bool(module.ceil_mode))
    if isinstance(module, (*_LOWPASSES, *_BLUR_POOLS)):
        stride = module.stride if isinstance(module, _BLUR_POOLS) else (1,) * module.num_dims
        width = module.kernel_size // 2
        return Window(
            (module.kernel_size,) * module.num_dims,
            stride,
            _border(module.padding_mode, width, module.num_dims),
        )
    if isinstance(module, layers.MaxPool2d):
        inner = module_window(module.pool)
        assert inner is not None
        return Window(
            inner.kernel_size, inner.stride, _border(module.padding_mode, max(module.padding), 2)
        )
    return None


def transposed_fault(module: nn.Module) -> str | None:
    """Why a transposed convolution does not follow a shift.

    Args:
        module: Any module.

    Returns:
        The reason; None if it is another kind of module, or its windows do not overlap.
    """
    if not isinstance(module, _TRANSPOSED):
        return None
    if module.kernel_size == module.stride and not any(_per_axis(module.padding, 1)):
        return None
    return (
        f"a transposed convolution of {shown(module.kernel_size)} cuts its overlapping windows off "
        "at the border"
    )


def function_window(step: Step) -> Window | None:
    """Read a call of a function as a sliding window.

    Args:
        step: The call.

    Returns:
        The window; None if it is another function.
    """
    kind, num_dims = step.function.lstrip("_").rstrip("d")[:-1], step.function.rstrip("d")[-1:]
    if not num_dims.isdigit() or kind not in ("conv", "max_pool", "avg_pool"):
        return None
    dims = int(num_dims)
    names = {
        "conv": ("input", "weight", "bias", "stride", "padding", "dilation", "groups"),
        "max_pool": ("input", "kernel_size", "stride", "padding", "dilation", "ceil_mode"),
        "avg_pool": ("input", "kernel_size", "stride", "padding", "ceil_mode"),
    }[kind]
    given = {**dict(zip(names, step.arguments, strict=False)), **step.options}
    if kind == "conv":
        kernel = tuple(given["weight"].shape[2:])
        stride = _per_axis(given.get("stride", 1), dims)
    else:
        kernel = _per_axis(given["kernel_size"], dims)
        stride = kernel if not given.get("stride") else _per_axis(given["stride"], dims)
    border = _border("zeros", given.get("padding", 0), dims)
    if kind == "max_pool":
        border = border.replace("zero padding", "padding with minus infinity")
    return Window(kernel, stride, border, bool(given.get("ceil_mode")))
