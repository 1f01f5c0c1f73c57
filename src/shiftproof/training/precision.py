"""The number type in which the forward pass computes."""

import platform
from contextlib import AbstractContextManager

import torch

AMP_MODES = ("auto", "bfloat16", "off")
"""What ``--amp`` accepts."""


def _cpu_computes_bfloat16() -> bool:
    if platform.machine().lower() in ("x86_64", "amd64"):
        # oneDNN also accepts bfloat16 on processors that must emulate it, slower than float32.
        return bool(torch.cpu._is_avx512_bf16_supported())
    # A torch built without oneDNN lacks the question.
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return supported is not None and bool(supported())


def uses_bfloat16(device: torch.device, amp: str = "auto") -> bool:
    """Whether the forward pass computes in bfloat16 where that is safe.

    float16 is not offered: its range would need gradient scaling.

    Args:
        device: Where the model is.
        amp: ``"bfloat16"``, ``"off"``, or ``"auto"``: bfloat16 where the device has instructions
            for it.

    Returns:
        True for bfloat16 autocasting, False for the parameters' own type.

    Raises:
        ValueError: If ``amp`` is none of these.
    """
    if amp not in AMP_MODES:
        raise ValueError(
            f"autocast: amp must be one of {', '.join(AMP_MODES)}, got {amp!r}; "
            "auto chooses for this device"
        )
    if amp == "auto" and device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if amp == "auto":
        return device.type == "cpu" and _cpu_computes_bfloat16()
    return amp == "bfloat16"


def autocast(device: torch.device, amp: str = "auto") -> AbstractContextManager[None]:
    """Context for the forward pass and the loss.

    Args:
        device: Where the model is.
        amp: ``"auto"``, ``"bfloat16"`` or ``"off"``; see ``uses_bfloat16``.

    Returns:
        A context manager; with ``"off"`` it ends an autocast around it.

    Raises:
        ValueError: If ``amp`` is none of these.
    """
    enabled = uses_bfloat16(device, amp)
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)
