"""What "consistency" compares: the shifted versions of an image that must get the same class.

Published numbers compare different pairs under different shifts and average differently.  A
protocol fixes the pairs and the shifts, and each is known by name.
"""

import dataclasses
import difflib
import typing
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor

from shiftproof.metrics.sweeps import EveryShift, Pans
from shiftproof.metrics.views import (
    CircularShifts,
    Crops,
    FractionalShifts,
    PaddedCrops,
    ZeroFillShifts,
)


class Protocol(typing.Protocol):
    """The shifted versions of a batch of images that are compared with each other.

    One that has ``per_image = True`` says that each image has shifts of its own; otherwise the
    images of a batch are taken to share theirs, and to depend on each other.  One that has
    ``judged_by_label = True`` asks for the right class in all versions instead of the same one, and
    one that has a ``margin`` takes images that are larger than the network's by so many pixels.
    """

    @property
    def name(self) -> str:
        """Name under which a result is reported."""

    def views(self, images: Tensor, generator: torch.Generator) -> Sequence[Tensor]:
        """Shift a batch.

        Args:
            images: Images, ``(N, C, *spatial)``, on any device.
            generator: CPU generator from which the shifts are drawn.

        Returns:
            Two or more batches of N images each, in the order of ``images``.
        """


def independent_images(protocol: Protocol) -> bool:
    """Whether the images of a batch are shifted independently under a protocol.

    Args:
        protocol: The protocol.

    Returns:
        Its ``per_image``; False if it has none.
    """
    return bool(getattr(protocol, "per_image", False))


def judged_by_label(protocol: Protocol) -> bool:
    """Whether a protocol asks for the right class in all versions, instead of the same one.

    Args:
        protocol: The protocol.

    Returns:
        Its ``judged_by_label``; False if it has none.
    """
    return bool(getattr(protocol, "judged_by_label", False))


def margin(protocol: Protocol) -> int:
    """By how much the images of a protocol are larger than what the network sees.

    Args:
        protocol: The protocol.

    Returns:
        Pixels per axis; 0 if the images keep their size.
    """
    return int(getattr(protocol, "margin", 0))


NamedProtocol = CircularShifts | FractionalShifts | Crops | PaddedCrops | Pans | EveryShift

_PUBLISHED: tuple[NamedProtocol, ...] = (
    CircularShifts("circular", None, num_shifted=1, include_unshifted=True, per_image=True),
    ZeroFillShifts("zero-fill", 32, num_shifted=1, include_unshifted=True, per_image=True),
    FractionalShifts("subpixel-fft", 1.0, "fft"),
    FractionalShifts("subpixel-bilinear", 1.0, "bilinear"),
    Pans("pan"),
    CircularShifts("aps-imagenet", 32),
    CircularShifts("aps-cifar-test", 3),
    CircularShifts("aps-cifar-val", 3, num_shifted=1, include_unshifted=True),
    PaddedCrops("aps-cifar-crop", 3),
    Crops("crop", 32),
    Crops("lps-crop", 32),
    CircularShifts("lps-circular", 32),
    ZeroFillShifts("tips", 16, both_ends=True),
    ZeroFillShifts("tips-fidelity", 16, include_unshifted=True, both_ends=True),
    CircularShifts("tips-circular", 16, both_ends=True),
    CircularShifts("tips-circular-fidelity", 16, include_unshifted=True, both_ends=True),
    EveryShift("adversarial"),
)

PROTOCOLS: Mapping[str, NamedProtocol] = MappingProxyType(
    {published.name: published for published in _PUBLISHED}
)
"""The protocols by name, with the published numbers; the first five are this project's own.

``aps-*`` are those of A. Chaman and I. Dokmanic, "Truly shift-invariant convolutional neural
networks", CVPR 2021, and its code; ``crop`` is Zhang's (256 pixel images, 224 pixel windows);
``lps-*`` those of R. Rojas-Gomez et al., "Learnable polyphase sampling", NeurIPS 2022, which
compare any number of versions, by default two; ``tips*`` those of S. Saha and T. Gokhale,
"Translation invariant polyphase sampling", WACV 2025, where 16 pixels are a quarter of the image;
``adversarial`` that of H. Michaeli et al., "Alias-free convnets", CVPR 2023.
"""


def protocol(name: str, **fields: typing.Any) -> NamedProtocol:
    """A protocol by name, with other numbers where asked for.

    Args:
        name: A key of ``PROTOCOLS``.
        fields: Values that replace the published ones, for instance ``max_shift=5``.  What differs
            becomes part of the protocol's name: a result never passes for the published one.

    Returns:
        The protocol.

    Raises:
        ValueError: If the name or a field is unknown, or a value is out of range.

    Examples:
        >>> protocol("aps-cifar-test", max_shift=3).name
        'aps-cifar-test'
        >>> protocol("aps-cifar-test", max_shift=5).name
        'aps-cifar-test(max_shift=5)'
    """
    if name not in PROTOCOLS:
        nearest = difflib.get_close_matches(name, PROTOCOLS, n=3, cutoff=0.0)
        raise ValueError(
            f"protocol: name must be one of {len(PROTOCOLS)} protocols, got {name!r}; "
            f"the nearest are {', '.join(nearest)}"
        )
    published = PROTOCOLS[name]
    known = [field.name for field in dataclasses.fields(published) if field.name != "name"]
    for field in fields:
        if field not in known:
            raise ValueError(
                f"protocol: {name} must be given fields that it has, got {field}; "
                f"choose from {', '.join(known)}"
            )
    changed = [
        f"{field}={value}" for field, value in fields.items() if value != getattr(published, field)
    ]
    if not changed:
        return published
    return dataclasses.replace(published, **fields, name=f"{name}({', '.join(changed)})")
