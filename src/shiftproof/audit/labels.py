"""Which output of a network stands for which folder of images."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from shiftproof.extras import require

_WNID = re.compile(r"^n\d{8}$")
NUM_IMAGENET = 1000


@dataclass(frozen=True)
class Labels:
    """Which output of a network stands for which class.

    Attributes:
        indices: The output of each folder, in the order of the folders; None if unknown.
        names: The name of each output; None if unknown.
        reason: Why the outputs of the folders are unknown; empty if they are known.
    """

    indices: tuple[int, ...] | None
    names: tuple[str, ...] | None
    reason: str = ""


def match_labels(folders: Sequence[str], num_outputs: int) -> Labels:
    """Match folders of images to the outputs of a network.

    Of a network with 1,000 outputs, folders that are called by WordNet ids are ImageNet's classes.
    Otherwise folders are numbered in sorted order, if there are as many as outputs.

    Args:
        folders: Names of the class folders, sorted; empty for images without classes.
        num_outputs: Number of outputs of the network.

    Returns:
        The match, or the reason why there is none.

    Raises:
        RuntimeError: If timm, which has the list of WordNet ids, is needed and not installed.

    Examples:
        >>> match_labels(["cat", "dog"], 2).indices
        (0, 1)
        >>> match_labels(["cat", "dog"], 10).reason
        'the network has 10 outputs, and there are 2 class folders'
    """
    if not folders:
        return Labels(None, _imagenet_names(num_outputs), "the images have no class folders")
    if num_outputs == NUM_IMAGENET and all(_WNID.match(folder) for folder in folders):
        info = require("timm.data", extra="timm").ImageNetInfo()
        known = {wnid: number for number, wnid in enumerate(info.label_names())}
        strange = [folder for folder in folders if folder not in known]
        names = _imagenet_names(num_outputs)
        if strange:
            return Labels(None, names, f"folder {strange[0]} is none of ImageNet's 1,000 classes")
        return Labels(tuple(known[folder] for folder in folders), names)
    if len(folders) == num_outputs:
        return Labels(tuple(range(num_outputs)), tuple(folders))
    counted = f"the network has {num_outputs:,} outputs, and there are {len(folders):,} class "
    return Labels(None, _imagenet_names(num_outputs), counted + "folders")


def _imagenet_names(num_outputs: int) -> tuple[str, ...] | None:
    """Short names of ImageNet's classes, where timm is there to tell them."""
    if num_outputs != NUM_IMAGENET:
        return None
    try:
        info = require("timm.data", extra="timm").ImageNetInfo()
    except RuntimeError:
        return None
    texts = (info.index_to_description(number) for number in range(num_outputs))
    return tuple(text.split(",")[0] for text in texts)
