"""Whether the right class is among the best."""

import torch
from torch import Tensor


def topk_correct(logits: Tensor, labels: Tensor, k: int) -> Tensor:
    """Whether the label is among the k classes with the largest logits.

    Of equal logits the class with the lower number goes first, as in ``argmax``; a constant output
    is therefore not correct for every label.  A sample with a NaN among its logits is not correct,
    whatever ``k``.

    Args:
        logits: Scores, ``(N, num_classes)``.
        labels: True classes, ``(N,)`` integers in ``[0, num_classes)``.
        k: Number of classes looked at; more than there are means all of them.

    Returns:
        One truth value per sample, ``(N,)`` bool, on the device of ``logits``.

    Raises:
        ValueError: If the shapes do not fit, ``k`` is not positive or a label is not a class.
        TypeError: If the labels are not integers.

    Examples:
        >>> topk_correct(torch.tensor([[0.1, 0.7, 0.2]]), torch.tensor([2]), k=2)
        tensor([True])
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(
            "topk_correct: logits must be (N, num_classes) and labels (N,), got "
            f"{tuple(logits.shape)} and {tuple(labels.shape)}; pass one label per row"
        )
    if k < 1:
        raise ValueError(f"topk_correct: k must be at least 1, got {k}; pass 1 for the best class")
    if labels.is_floating_point() or labels.is_complex():
        raise TypeError(
            f"topk_correct: labels must be class numbers, got {labels.dtype}; pass integers"
        )
    num_classes = logits.shape[1]
    if bool(((labels < 0) | (labels >= num_classes)).any()):
        raise ValueError(
            f"topk_correct: labels must lie in [0, {num_classes}), got {labels.min().item()} to "
            f"{labels.max().item()}; use a model with as many classes as the labels"
        )
    labels = labels.to(logits.device, torch.int64)[:, None]
    own = logits.gather(1, labels)
    before = torch.arange(num_classes, device=logits.device) < labels
    num_ahead = ((logits > own) | ((logits == own) & before)).sum(dim=1)
    return (num_ahead < k) & ~logits.isnan().any(dim=1)
