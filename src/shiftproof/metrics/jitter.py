"""How much the answers of a network change from frame to frame."""

from __future__ import annotations

from torch import Tensor


def _check_frames(operation: str, frames: Tensor) -> None:
    if frames.ndim < 2 or frames.shape[0] < 2:
        raise ValueError(
            f"{operation}: frames must be two or more along the first axis, then images and "
            f"classes, got shape {tuple(frames.shape)}; stack the outputs of the frames"
        )


def jitter(probabilities: Tensor) -> Tensor:
    """Mean total variation distance of the class probabilities of neighbouring frames.

    ``mean over t of sum over classes of |p(t + 1) - p(t)| / 2``: the share of probability that
    moves from one class to others per frame.  It grows with the motion per frame, which is given
    beside it.  Frames of one pan depend on each other: for an interval of a difference, pass one
    number per pan to ``paired_difference``.

    Args:
        probabilities: ``(T, ..., num_classes)``, T frames in their order.

    Returns:
        One number per pan, ``(...)``, in [0, 1].

    Raises:
        ValueError: If there are fewer than two frames.

    Examples:
        >>> import torch
        >>> jitter(torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.5, 0.5]]))
        tensor(0.2500)
    """
    _check_frames("jitter", probabilities)
    changes = (probabilities[1:] - probabilities[:-1]).abs().sum(-1) / 2
    return changes.mean(0)


def flip_rate(scores: Tensor) -> Tensor:
    """How often the class changes, per 100 frames.

    Args:
        scores: Probabilities or logits, ``(T, ..., num_classes)``, T frames in their order.

    Returns:
        One number per pan, ``(...)``, in [0, 100].

    Raises:
        ValueError: If there are fewer than two frames.

    Examples:
        >>> import torch
        >>> flip_rate(torch.tensor([[1.0, 0.0], [0.4, 0.6], [0.3, 0.7]]))
        tensor(50.)
    """
    _check_frames("flip_rate", scores)
    classes = scores.argmax(-1)
    return 100 * (classes[1:] != classes[:-1]).to(scores.dtype).mean(0)
