"""Which image sizes a network accepts, and what it says about the others."""

from collections.abc import Sequence

from torch import Tensor, nn

from shiftproof.ops.overrides import overridable

Places = tuple[tuple[str, int], ...]
"""Where a network halves its maps: the name of each place, and the pixels of the input per pixel
behind it."""


def valid_sizes(model: nn.Module, low: int = 1, high: int = 512) -> list[int]:
    """Heights and widths for which a network keeps what it promises.

    A network that chooses phases needs multiples of its total stride; the others take any size, as
    torchvision's do.  Height and width may differ.

    Args:
        model: A network of the zoo.
        low: Smallest size of interest, in pixels.
        high: Largest size of interest, in pixels.

    Returns:
        The sizes, in increasing order.

    Raises:
        TypeError: If the network does not tell what it needs.

    Examples:
        >>> from shiftproof.models import create_model
        >>> valid_sizes(create_model("resnet18_pa"), 100, 230)
        [128, 160, 192, 224]
    """
    step = getattr(model, "size_multiple", None)
    if not isinstance(step, int):
        raise TypeError(
            f"valid_sizes: the model must be a network of the zoo, got {type(model).__name__}; "
            "build it with create_model"
        )
    return list(range(max(-(-low // step), 1) * step, high + 1, step))


def describe_misfit(sizes: Sequence[int], places: Places) -> str | None:
    """Say where a size stops being divisible.

    Args:
        sizes: Height and width, in pixels.
        places: Where the network halves its maps, in order.

    Returns:
        The rule, the value and the way out; None if the size fits.
    """
    total = max([1, *(stride for _, stride in places)])  # older compilers know no default
    if not any(size % total for size in sizes):
        return None
    below = [size // total * total for size in sizes]
    above = [-(-size // total) * total for size in sizes]
    near = ["x".join(str(int(size)) for size in fit) for fit in (below, above) if min(fit) > 0]
    shown = "x".join(str(int(size)) for size in sizes)
    for place, stride in places:
        if any(size % stride for size in sizes):
            before = "x".join(str(int(size) // (stride // 2)) for size in sizes)
            return (
                f"height and width must be multiples of {total}, got {shown}: {place} would see "
                f"{before}; use {' or '.join(near)}"
            )
    raise AssertionError("the last place has the total stride")


@overridable
def require_size(x: Tensor, name: str, places: Places) -> Tensor:
    """Pass images on if the network can keep its promise for their size.

    Args:
        x: Images, ``(N, C, H, W)``.
        name: Name of the network, for the error message.
        places: Where it halves its maps, in order.

    Returns:
        The images.

    Raises:
        ValueError: If the height or the width does not fit; the message names the first place that
            would see an odd map, and the nearest sizes that fit.
    """
    misfit = describe_misfit(x.shape[2:], places)
    if misfit is not None:
        raise ValueError(f"{name}: {misfit}")
    return x
