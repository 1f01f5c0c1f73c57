"""How clearly a network chooses its phases."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn


def phase_gap(scores: Tensor) -> Tensor:
    """By how much the best score leads the second, relative to the larger of their magnitudes.

    0 where they tie: then the choice hangs on the rule for ties.  Near 0, rounding or noise may
    change it.  Scores of whole numbers are subtracted exactly.

    Args:
        scores: Scores of the phases, ``(N, P)``, as ``ops.phase_scores`` or a selector gives them.

    Returns:
        One number per sample, ``(N,)`` float64 in [0, 2]; in [0, 1] for scores of one sign, and 0
        where both are 0.

    Raises:
        ValueError: If there are fewer than two phases.

    Equivariance:
        Exact (bitwise): scores that permute have the same gap.

    Examples:
        >>> phase_gap(torch.tensor([[1.0, 8.0, 6.0, 2.0]]))
        tensor([0.2500], dtype=torch.float64)
    """
    if scores.ndim != 2 or scores.shape[1] < 2:
        raise ValueError(
            "phase_gap: scores must be (N, P) of two phases or more, got shape "
            f"{tuple(scores.shape)}; a stride of 1 has nothing to choose"
        )
    best = scores.topk(2, dim=1).values
    best = best.double() if best.is_floating_point() else best
    lead = (best[:, 0] - best[:, 1]).double()
    largest = best.double().abs().amax(1)
    return torch.where(lead == 0, torch.zeros_like(lead), lead / largest)


def phase_gaps(
    model: Callable[[Tensor], Any], images: Tensor, selectors: Mapping[str, nn.Module]
) -> dict[str, Tensor]:
    """The gap of every choice that a network makes for some images.

    The model runs once, without gradients and in the mode it is in; hooks on the selectors read
    their scores and are removed again.

    Args:
        model: A network.
        images: Images, ``(N, C, *spatial)``.
        selectors: The modules of the network that score phases, by name: the ``selector`` of each
            ``nn.SelectPhase2d``.

    Returns:
        The gaps by name, ``(N,)`` for each selector that was called, in the order of the calls; the
        smallest where one was called several times.

    Examples:
        >>> import shiftproof
        >>> model = shiftproof.create_model("cifar_resnet20_pa").eval()
        >>> found = {n: m for n, m in model.named_modules() if n.endswith("selector")}
        >>> gaps = phase_gaps(model, torch.rand(2, 3, 32, 32), found)
        >>> len(gaps), next(iter(gaps.values())).shape
        (2, torch.Size([2]))
    """
    gaps: dict[str, Tensor] = {}

    def hook(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def note(module: nn.Module, args: Any, scores: Any) -> None:
            found = phase_gap(scores)
            gaps[name] = torch.minimum(gaps[name], found) if name in gaps else found

        return note

    handles = [module.register_forward_hook(hook(name)) for name, module in selectors.items()]
    try:
        with torch.no_grad():
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    return gaps
