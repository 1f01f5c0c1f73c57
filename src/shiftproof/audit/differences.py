"""How several networks differ on the same images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from shiftproof.metrics import DifferenceResult, Protocol, paired_difference
from shiftproof.metrics.protocols import independent_images
from shiftproof.results import RunResult


@dataclass(frozen=True)
class Difference:
    """A share of one network less that of the first one, on the same images.

    Attributes:
        model: The network.
        other: The first network.
        rate: Name of the share.
        difference: The difference, with its interval.
    """

    model: str
    other: str
    rate: str
    difference: DifferenceResult


def differences(
    results: Sequence[RunResult],
    outcomes: Sequence[dict[str, Tensor]],
    protocols: Sequence[Protocol],
    batch_size: int,
) -> list[Difference]:
    """Compare every further network with the first, image by image.

    Images of a batch that shares its shift are one cluster, see
    ``shiftproof.metrics.paired_difference``.

    Args:
        results: What was found of each network.
        outcomes: For each network, whether a statement holds for each image, by the name of the
            share, ``(N,)`` int8; -1 for images that could not be read.
        protocols: The protocols that were measured.
        batch_size: Images per batch.

    Returns:
        One difference per share and further network; none where there is only one cluster.
    """
    found = []
    alone = {p.name for p in protocols if independent_images(p)} | {"top-1"}
    for result, own in zip(results[1:], outcomes[1:], strict=True):
        for name, values in own.items():
            first = outcomes[0].get(name)
            if first is None or first.shape != values.shape:
                continue
            both = (values >= 0) & (first >= 0)
            numbers = torch.arange(len(values))
            shares = result.rates[name].protocol not in alone
            clusters = (numbers // batch_size if shares else numbers)[both]
            if len(set(clusters.tolist())) < 2:
                continue
            difference = paired_difference(
                values[both].bool(), first[both].bool(), clusters=clusters
            )
            found.append(Difference(result.model, results[0].model, name, difference))
    return found
