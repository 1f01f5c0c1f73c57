"""What networks are called with and return, and which of it are images that move together."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from shiftproof.nested import map_nested, tensors_in

Images = str | int | Sequence[str | int] | Mapping[str | int, Sequence[int]]
"""Names or positions of the arguments that hold images, or the spatial axes of each."""


def check_images(operation: str, images: object) -> None:
    """Refuse what is no batch of maps.

    Args:
        operation: Name of the caller, for the error message.
        images: What was given.

    Raises:
        TypeError: If it is no tensor.
        ValueError: If it is empty, or has no or too many spatial axes.
    """
    if not isinstance(images, Tensor):
        raise TypeError(
            f"{operation}: the images must be a tensor, got {type(images).__name__}; pass images "
            "of shape (N, C, *spatial)"
        )
    if not 3 <= images.ndim <= 5 or images.numel() == 0:
        raise ValueError(
            f"{operation}: the images must be (N, C, *spatial) with 1 to 3 spatial axes and at "
            f"least one image, got shape {tuple(images.shape)}; add the missing axes with unsqueeze"
        )


def in_precision_of(model: object, images: Tensor) -> Tensor:
    """Images on the device of a model, in its precision.

    Args:
        model: The model; anything but a module takes images as they are.
        images: The images.

    Returns:
        The images, without their history.
    """
    images = images.clone() if images.is_inference() else images.detach()
    if not isinstance(model, nn.Module):
        return images
    tensors = (*model.parameters(), *model.buffers())
    first = next((value for value in tensors if value.is_floating_point()), images)
    return images.to(first.device, first.dtype if images.is_floating_point() else None)


@dataclass(frozen=True)
class ImageInput:
    """Where a network takes images.

    Attributes:
        name: Name of the argument; empty for one that has none.
        position: Its position; None for one that is passed by name only.
        keys: Where in the argument the tensor is, outermost first; empty for the argument itself.
        dims: Its spatial axes.
    """

    name: str
    position: int | None
    keys: tuple[str | int, ...]
    dims: tuple[int, ...]

    def __str__(self) -> str:
        return ".".join(map(str, (self.name or self.position, *self.keys)))

    def read(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """The tensor in the arguments of a call.

        Args:
            args: The arguments.
            kwargs: The keyword arguments.

        Returns:
            The tensor.

        Raises:
            TypeError: If the call lacks it.
        """
        value = kwargs.get(self.name) if self.name else None
        if value is None and self.position is not None and self.position < len(args):
            value = args[self.position]
        for key in self.keys:
            value = None if value is None else value[key]
        if value is None:
            raise TypeError(
                f"converted network: the images must be passed as when it was converted, got no "
                f"{self}; pass them"
            )
        return value

    def put(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], tensor: Tensor
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a call with another tensor in its place.

        Args:
            args: The arguments.
            kwargs: The keyword arguments.
            tensor: The tensor.

        Returns:
            The arguments and the keyword arguments.
        """
        if self.name in kwargs:
            return args, {**kwargs, self.name: _replaced(kwargs[self.name], self.keys, tensor)}
        place = self.position
        assert place is not None
        new = _replaced(args[place], self.keys, tensor)
        return (*args[:place], new, *args[place + 1 :]), dict(kwargs)


def _replaced(value: Any, keys: Sequence[str | int], tensor: Tensor) -> Any:
    if not keys:
        return tensor
    new = _replaced(value[keys[0]], keys[1:], tensor)
    if isinstance(value, Mapping):
        return type(value)({**value, keys[0]: new})  # type: ignore[call-arg]
    parts = [new if place == keys[0] else part for place, part in enumerate(value)]
    return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)


@dataclass(frozen=True)
class Inputs:
    """Arguments of a network, and which of them are images.

    Attributes:
        args: The arguments.
        kwargs: The keyword arguments.
        images: Where the images are; they have the same spatial sizes.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    images: tuple[ImageInput, ...]

    @property
    def tensors(self) -> list[Tensor]:
        """The images."""
        return [image.read(self.args, self.kwargs) for image in self.images]

    @property
    def dims(self) -> tuple[int, ...]:
        """Spatial axes of the first images."""
        return self.images[0].dims

    @property
    def sizes(self) -> tuple[int, ...]:
        """Spatial sizes of the images."""
        return tuple(self.tensors[0].shape[dim] for dim in self.dims)

    @property
    def others(self) -> list[Tensor]:
        """The tensors that are no images."""
        known = {id(tensor) for tensor in self.tensors}
        return [t for t in tensors_in((self.args, dict(self.kwargs))) if id(t) not in known]

    def mapped(
        self,
        function: Callable[[Tensor, tuple[int, ...]], Tensor],
        others: Callable[[Tensor], Tensor] = lambda tensor: tensor,
    ) -> Inputs:
        """The arguments with other images.

        Args:
            function: Gives new images for images and their spatial axes.
            others: Gives new tensors for those that are no images.

        Returns:
            The arguments.
        """
        known = {id(x): image.dims for image, x in zip(self.images, self.tensors, strict=True)}

        def new(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):
                return leaf
            return function(leaf, known[id(leaf)]) if id(leaf) in known else others(leaf)

        args, kwargs = map_nested((self.args, dict(self.kwargs)), new)
        return replace(self, args=args, kwargs=kwargs)

    def shifted(self, shift: Sequence[int]) -> Inputs:
        """The arguments with all images shifted together, around the circle.

        Args:
            shift: Pixels per axis.

        Returns:
            The arguments, all tensors copied.
        """
        return self.mapped(lambda x, dims: x.roll(tuple(shift), dims), Tensor.clone)

    def resized(self, sizes: Sequence[int]) -> Inputs:
        """The arguments with blank images of another size.

        Args:
            sizes: The spatial sizes.

        Returns:
            The arguments.
        """

        def blank(x: Tensor, dims: tuple[int, ...]) -> Tensor:
            shape = list(x.shape)
            for dim, size in zip(dims, sizes, strict=True):
                shape[dim] = size
            return x.new_zeros(shape)

        return self.mapped(blank)

    def __str__(self) -> str:
        """Which tensors move, where that is not plain."""
        named = [
            str(image) + f" over its axes {image.dims}" * (image.dims != tuple(range(2, x.ndim)))
            for image, x in zip(self.images, self.tensors, strict=True)
        ]
        if not self.others and named == [str(self.images[0])]:
            return ""
        moving = ", ".join(named) + " move together" * (len(named) > 1)
        stay = f"; {len(self.others)} other tensor(s) stay as they are" * bool(self.others)
        return moving + stay


def _names(model: Any) -> list[str]:
    """Names of the parameters that are passed by position."""
    forward = getattr(model, "forward", model)
    try:
        parameters = inspect.signature(forward).parameters.values()
    except (TypeError, ValueError):
        return []
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [parameter.name for parameter in parameters if parameter.kind in kinds]


def _places(model: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[ImageInput]:
    """Where tensors are, in order, with no axes yet."""
    names = _names(model)
    found: list[ImageInput] = []

    def look(value: Any, name: str, position: int | None, keys: tuple[str | int, ...]) -> None:
        if isinstance(value, Tensor):
            found.append(ImageInput(name, position, keys, ()))
        elif isinstance(value, Mapping):
            for key, part in value.items():
                look(part, name, position, (*keys, key))
        elif isinstance(value, (list, tuple)):
            for place, part in enumerate(value):
                look(part, name, position, (*keys, place))

    for position, value in enumerate(args):
        look(value, names[position] if position < len(names) else "", position, ())
    for name, value in kwargs.items():
        look(value, name, names.index(name) if name in names else None, ())
    return found


def find_inputs(
    operation: str,
    model: Any,
    args: Any,
    kwargs: Mapping[str, Any] | None,
    images: Images | None,
) -> Inputs:
    """Find the images among the arguments of a network.

    Args:
        operation: Name of the caller, for the error message.
        model: The network, or another callable.
        args: Its arguments, a tuple, or the only one.
        kwargs: Its keyword arguments.
        images: Which of them are images; see ``convert``.

    Returns:
        The arguments, with tensors on the device of the network, floating-point images in its
        precision.

    Raises:
        TypeError: If there is no tensor.
        ValueError: If the images are no batch of maps, there is no such argument, or images differ
            in their spatial sizes.
    """
    given, named = args if isinstance(args, tuple) else (args,), dict(kwargs or {})
    places = _places(model, given, named)
    if not places:
        check_images(operation, next(iter([*given, *named.values()]), None))
    if images is None:
        chosen = _usual(operation, places, given, named)
    else:
        chosen = _asked(operation, places, given, named, images)
    found = Inputs(given, named, tuple(chosen))
    sizes = {tuple(x.shape[d] for d in i.dims) for i, x in zip(chosen, found.tensors, strict=True)}
    if len(sizes) > 1:
        raise ValueError(
            f"{operation}: images must have the same spatial sizes, got {sorted(sizes)}; name in "
            "images= those that move together"
        )
    first = in_precision_of(model, found.tensors[0])
    return found.mapped(
        lambda x, _: in_precision_of(model, x),
        lambda x: x.to(first.device) if not x.is_inference() else x.clone().to(first.device),
    )


def _usual(
    operation: str, places: list[ImageInput], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> list[ImageInput]:
    """The first batch of maps, and all others of its size."""
    tensors = [place.read(args, kwargs) for place in places]
    first = next((x for x in tensors if 3 <= x.ndim <= 5 and x.numel()), tensors[0])
    check_images(operation, first)
    dims = tuple(range(2, first.ndim))
    return [
        replace(place, dims=dims)
        for place, x in zip(places, tensors, strict=True)
        if x is first
        or (
            (x.ndim, len(x), x.shape[2:]) == (first.ndim, len(first), first.shape[2:])
            and x.is_floating_point() == first.is_floating_point()
        )
    ]


def _asked(
    operation: str,
    places: list[ImageInput],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    images: Images,
) -> list[ImageInput]:
    """The images that the user named."""
    wanted: dict[str | int, Sequence[int] | None] = {}
    if isinstance(images, Mapping):
        wanted.update(images)
    else:
        wanted.update(dict.fromkeys([images] if isinstance(images, (str, int)) else images))
    chosen = []
    for name, axes in wanted.items():
        fitting = [
            place
            for place in places
            if name in (place.position if not place.keys else None, place.name, *place.keys[-1:])
        ]
        if len(fitting) != 1:
            names = ", ".join(dict.fromkeys(map(str, places)))
            raise ValueError(
                f"{operation}: images must name arguments that hold one tensor each, got {name!r} "
                f"({len(fitting)} tensors); the tensors are {names}"
            )
        tensor = fitting[0].read(args, kwargs)
        dims = tuple(range(2, tensor.ndim)) if axes is None else tuple(int(a) for a in axes)
        known = all(-tensor.ndim <= dim < tensor.ndim for dim in dims)
        dims = tuple(dim % tensor.ndim for dim in dims) if known else ()
        if not 1 <= len(dims) <= 3 or 0 in dims or dims != tuple(sorted(set(dims))):
            raise ValueError(
                f"{operation}: images must have 1 to 3 spatial axes in order, behind the samples, "
                f"got {axes} for {name!r} of shape {tuple(tensor.shape)}; name them, for instance "
                f"images={{{name!r}: (2, 3)}}"
            )
        if not tensor.numel():
            check_images(operation, tensor)
        chosen.append(replace(fitting[0], dims=dims))
    if not chosen:
        raise ValueError(f"{operation}: images must name an argument, got none; leave it out")
    return chosen


def at_least_two(inputs: Inputs) -> Inputs:
    """At least two samples, so that they cannot be mistaken for something of size one.

    Args:
        inputs: The arguments.

    Returns:
        The arguments; a batch of one is doubled, and with it whatever has one sample.
    """
    if any(len(x) > 1 for x in inputs.tensors):
        return inputs
    return inputs.mapped(
        lambda x, _: torch.cat([x, x]),
        lambda x: torch.cat([x, x]) if x.ndim and len(x) == 1 else x,
    )
