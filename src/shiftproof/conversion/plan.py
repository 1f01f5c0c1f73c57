"""What a conversion changes: decided once, printed, saved, and applied to a network."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from torch import nn

from shiftproof.analysis.capture import is_layer
from shiftproof.analysis.changes import Edit
from shiftproof.analysis.errors import ConversionError, shown
from shiftproof.conversion.forward import MovedOutput
from shiftproof.conversion.sites import Site
from shiftproof.files import write_text
from shiftproof.inputs import ImageInput

SCHEMA_VERSION = 2


@dataclass(frozen=True)
class Alignment:
    """A point at which the map is aligned.

    Attributes:
        where: The call whose output is aligned, or ``the input``.
        stride: By how many pixels of that map, per axis.
        full: Whether by its whole size, behind which nothing moves any more.
        readers: The calls that need it.
        reasons: Why, in words.
        site: The module at which it is done.
        dims: Dimension of each spatial axis of the tensor, or the one they are flattened into.
        sizes: Sizes of the map in the example.
        ndim: Dimensions of the tensor.
        steps: Pixels of the input per position of the tensor, per axis.
    """

    where: str
    stride: tuple[int, ...]
    full: bool
    readers: tuple[str, ...]
    reasons: tuple[str, ...]
    site: Site
    dims: tuple[int, ...]
    sizes: tuple[int, ...]
    ndim: int
    steps: tuple[float, ...]

    @property
    def sampled(self) -> bool:
        """Whether the window behind it reads from the phase itself, so that nothing is copied."""
        return self.site.kind == "window"

    def __str__(self) -> str:
        more = f" and {len(self.readers) - 2} more" if len(self.readers) > 2 else ""
        how = ", its full size" if self.full else ""
        return (
            f"{self.where}: by {shown(self.stride)}{how}, for {', '.join(self.readers[:2])}{more}: "
            f"{'; '.join(self.reasons)}"
        )


def multiples_of(alignments: Iterable[Alignment], size: Sequence[int]) -> tuple[int, ...]:
    """What the sizes of images must be multiples of, so that maps can be aligned.

    Args:
        alignments: Where maps are aligned.
        size: Spatial sizes of the example.

    Returns:
        Pixels per axis.
    """
    periods = [1] * len(size)
    for alignment in alignments:
        for axis, stride in enumerate(alignment.stride):
            pixels = Fraction(size[axis], alignment.sizes[axis]) * stride
            periods[axis] = math.lcm(periods[axis], pixels.numerator)
    return tuple(periods)


@dataclass(frozen=True)
class PaddingChange:
    """A border that was changed.

    Attributes:
        where: The call.
        before: What was padded with, in words.
        after: What is padded with.
    """

    where: str
    before: str
    after: str = "circular"


@dataclass(frozen=True)
class ConversionPlan:
    """What a conversion changes in a network; printing it gives a report.

    Attributes:
        model: Class of the network.
        size: Spatial sizes of the example.
        images: Where the network takes the images, which move together.
        any_size: Whether the conversion holds for other sizes that the strides divide.
        least_size: The smallest sizes it holds for then; those of the example otherwise.
        alignments: Where maps are aligned, in order of execution.
        edits: Calls that are done otherwise.
        paddings: Borders that become circular.
        geometry: Windows that give another size than before, in words.
        accepted: Modules that were tried and found to move with their input; nothing is proved.
        outputs: Output maps that are moved back to where the content is.
        remainders: Pixels of the input that are whole cells of each of them, per axis; empty if
            there are none.
        notes: What else is to be known.
        selector: What scores the phases.
        tensors: Shape of every parameter and buffer, by name.
        fingerprint: Of the forward passes of all modules that are no layers of torch.
        schema_version: Of this description.
    """

    model: str
    size: tuple[int, ...]
    images: tuple[ImageInput, ...]
    any_size: bool
    least_size: tuple[int, ...]
    alignments: tuple[Alignment, ...]
    edits: tuple[Edit, ...]
    paddings: tuple[PaddingChange, ...]
    geometry: tuple[str, ...]
    accepted: tuple[str, ...]
    outputs: tuple[MovedOutput, ...]
    remainders: tuple[float, ...]
    notes: tuple[str, ...]
    selector: str
    tensors: Mapping[str, tuple[int, ...]]
    fingerprint: str
    schema_version: int = SCHEMA_VERSION

    @property
    def multiples(self) -> tuple[int, ...]:
        """What the sizes of the images must be multiples of, per axis."""
        return multiples_of(self.alignments, self.size)

    def as_dict(self) -> dict[str, Any]:
        """The plan as plain values, for JSON."""
        data = dataclasses.asdict(self)
        data["edits"] = [edit.as_dict() for edit in self.edits]
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ConversionPlan:
        """The plan that ``as_dict`` described.

        Args:
            data: Its values by name.

        Returns:
            The plan.

        Raises:
            ValueError: If it is no plan, or one of another version.
        """
        version = data.get("schema_version")
        if version != SCHEMA_VERSION:
            raise ValueError(
                f"ConversionPlan: schema_version must be {SCHEMA_VERSION}, got {version}; convert "
                "the network again with this version of shiftproof"
            )
        plain = _tuples(data)
        try:
            plain["alignments"] = tuple(
                Alignment(**{**entry, "site": Site(**entry["site"])})
                for entry in plain["alignments"]
            )
            plain["images"] = tuple(ImageInput(**entry) for entry in plain["images"])
            plain["edits"] = tuple(map(Edit.from_dict, data["edits"]))
            plain["paddings"] = tuple(PaddingChange(**entry) for entry in plain["paddings"])
            plain["outputs"] = tuple(MovedOutput(**entry) for entry in plain["outputs"])
            return cls(**plain)
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(
                f"ConversionPlan: a plan must have all its fields, got {type(error).__name__} "
                f"{error}; save it with plan.save"
            ) from error

    def save(self, path: str | Path) -> None:
        """Write the plan to a JSON file; an old file stays whole if that fails.

        Args:
            path: The file.
        """
        write_text(path, json.dumps(self.as_dict(), indent=1) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> ConversionPlan:
        """Read a plan from a JSON file.

        Args:
            path: The file.

        Returns:
            The plan.

        Raises:
            ValueError: If the file holds no plan, or one of another version.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(
                f"ConversionPlan: the file must hold JSON, got {path}: {error}; save it with "
                "plan.save"
            ) from error
        return cls.from_dict(data if isinstance(data, dict) else {})

    def check(self, model: nn.Module) -> None:
        """Refuse a network that the plan was not made for.

        Args:
            model: A network.

        Raises:
            ConversionError: If its class, the names or shapes of its tensors or its forward passes
                are others.
        """
        if type(model).__qualname__ != self.model:
            _refuse(f"the class {self.model}", type(model).__qualname__)
        found = tensor_shapes(model)
        different = sorted(
            name for name in {*found, *self.tensors} if found.get(name) != self.tensors.get(name)
        )
        if different:
            name = different[0]
            _refuse(
                f"{name} of shape {self.tensors.get(name, 'none')}",
                f"{found.get(name, 'none')} ({len(different)} tensors differ)",
            )
        if fingerprint(model) != self.fingerprint:
            _refuse("the code that the plan was made for", "another forward pass of some module")

    def __str__(self) -> str:
        sizes = "this size only"
        if self.any_size:
            sizes = f"any multiple of {shown(self.multiples)} from {shown(self.least_size)} on"
        lines = [f"{self.model}, converted for inputs of {shown(self.size)} ({sizes})"]
        lines += [f"  align     {alignment}" for alignment in self.alignments]
        counts = Counter((change.before, change.after) for change in self.paddings)
        lines += [
            f"  padding   {before} to {after} in {count} {'call' if count == 1 else 'calls'}"
            for (before, after), count in counts.items()
        ]
        if max(self.remainders, default=1) > 1:
            cells = "x".join(f"{size:g}" for size in self.remainders)
            lines.append(
                f"  output    maps come back by whole cells of {cells} pixels; call_with_offset "
                "tells the rest"
            )
        lines += [f"  geometry  {change}" for change in self.geometry]
        lines += [
            f"  trial     {name} moved with its input in every trial; that is no proof"
            for name in self.accepted
        ]
        lines += [f"  note      {note}" for note in self.notes]
        return "\n".join(lines)


def _refuse(rule: str, value: str) -> None:
    raise ConversionError(
        f"apply_plan: the network must have {rule}, got {value}; convert this network and save its "
        "own plan"
    )


def _tuples(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return tuple(map(_tuples, value))
    if isinstance(value, dict):
        return {key: _tuples(part) for key, part in value.items()}
    return value


def tensor_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter and buffer of a network, by name."""
    tensors = (*model.named_parameters(), *model.named_buffers())
    return {name: tuple(tensor.shape) for name, tensor in tensors}


def fingerprint(model: nn.Module) -> str:
    """A short text that changes with the code of a network.

    Args:
        model: The network.

    Returns:
        A hash of the names and classes of all modules, and of the source of the forward passes that
        are not torch's own.
    """
    total = hashlib.sha256()
    for name, module in model.named_modules():
        kind = type(module)
        total.update(f"{name}:{kind.__module__}.{kind.__qualname__}:{module.extra_repr()}".encode())
        if not is_layer(module):
            total.update(_source(kind.forward).encode())
    return total.hexdigest()[:16]


def _source(function: Any) -> str:
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):
        code = getattr(function, "__code__", None)
        return "" if code is None else repr((code.co_names, code.co_consts))
