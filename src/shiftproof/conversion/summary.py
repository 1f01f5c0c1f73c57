"""What a conversion changed, and how it reads."""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass
from typing import Any

from shiftproof.conversion.refusal import shown


@dataclass(frozen=True)
class Alignment:
    """A place where the map is aligned.

    Attributes:
        where: The call whose output is aligned, or ``the input``.
        stride: By how many pixels of that map, per axis.
        full: Whether by its whole size, behind which nothing moves any more.
        sampled: Whether the strided layers behind it sample the phase themselves, so that nothing
            is copied.
        readers: The calls that need it.
        reasons: Why, in words.
    """

    where: str
    stride: tuple[int, ...]
    full: bool
    sampled: bool
    readers: tuple[str, ...]
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        more = f" and {len(self.readers) - 2} more" if len(self.readers) > 2 else ""
        how = ", its full size" if self.full else ""
        return (
            f"{self.where}: by {shown(self.stride)}{how}, for {', '.join(self.readers[:2])}{more}: "
            f"{'; '.join(self.reasons)}"
        )


@dataclass(frozen=True)
class PaddingChange:
    """A padding that was changed.

    Attributes:
        where: The call.
        before: What was padded with.
        after: What is padded with.
    """

    where: str
    before: str
    after: str


@dataclass(frozen=True)
class ConversionSummary:
    """What a conversion changed.

    Attributes:
        model: Class of the network.
        size: Size of the input that it was converted for.
        any_size: Whether other sizes that the strides divide are as good.
        alignments: Where the map is aligned, in order.
        paddings: Paddings that were changed.
        geometry: Calls whose output has another size than before, in words.
        notes: What else is to be known.
    """

    model: str
    size: tuple[int, ...]
    any_size: bool
    alignments: tuple[Alignment, ...]
    paddings: tuple[PaddingChange, ...]
    geometry: tuple[str, ...]
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """The summary as plain values, for JSON."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        sizes = "any size that the strides divide" if self.any_size else "this size only"
        lines = [f"{self.model}, converted for inputs of {shown(self.size)} ({sizes})"]
        lines += [f"  align     {alignment}" for alignment in self.alignments]
        counts = Counter((change.before, change.after) for change in self.paddings)
        lines += [
            f"  padding   {before} to {after} in {count} {'layer' if count == 1 else 'layers'}"
            for (before, after), count in counts.items()
        ]
        lines += [f"  geometry  {change}" for change in self.geometry]
        lines += [f"  note      {note}" for note in self.notes]
        return "\n".join(lines)
