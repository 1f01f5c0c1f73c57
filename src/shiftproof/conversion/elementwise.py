"""Functions that compute every position from the same position of their inputs."""

from shiftproof.conversion.calls import Call, UnknownError, dims_of, is_tensor_node
from shiftproof.conversion.layout import (
    Dimension,
    Layout,
    has_margin,
    matched,
    plain,
    still,
)

_ELEMENTWISE = """
abs add addcdiv addcmul alpha_dropout atan ceil celu clamp clamp_max clamp_min clip copysign cos
cosh div divide dropout dropout1d dropout2d dropout3d elu eq erf erfc exp exp2 expm1
feature_dropout floor floor_divide fmod ge gelu gt hardshrink hardsigmoid hardswish hardtanh
heaviside iadd imul isfinite isinf isnan isub le leaky_relu lerp log log10 log1p log2 logical_and
logical_not logical_or logit logsigmoid lt masked_fill maximum minimum mish mul multiply nan_to_num
ne neg negative ones_like positive pow rad2deg radd rdiv reciprocal relu relu6 remainder rmul round
rpow rrelu rsqrt rsub rtruediv selu sigmoid sign silu sin sinh softplus softshrink softsign sqrt
square sub subtract tan tanh tanhshrink threshold true_divide truediv trunc where xlogy zeros_like
"""
_CASTS = """
bfloat16 bool clone contiguous cpu cuda detach double float half int long
requires_grad to type type_as
"""

ELEMENTWISE = frozenset(_ELEMENTWISE.split())
"""Names without the underscores of methods and of operations in place."""

CASTS = frozenset(_CASTS.split())
"""Functions whose result holds the values of their first argument, whatever the others are."""


def cast(call: Call) -> Layout:
    """Another dtype, device or copy."""
    return call.layout(call.args[0])


def aligned(call: Call) -> Layout:
    """A map that was aligned already, with a phase that moves with its content."""
    if len(call.args) > 3:
        raise UnknownError("an alignment with a border")
    return call.layout(call.args[0])


def elementwise(call: Call) -> Layout:
    """Combine tensors position by position, smaller ones repeated."""
    layouts = [call.layout(argument) for argument in (*call.args, *call.kwargs.values())]
    return combined(call, [layout for layout in layouts if layout])


def combined(call: Call, layouts: list[Layout]) -> Layout:
    """The layout of tensors that are combined position by position.

    Args:
        call: The call.
        layouts: Their layouts, aligned at the last dimension.

    Returns:
        The layout of the result.

    Raises:
        UnknownError: If something that moves meets something that does not move with it.
    """
    ndim = max(map(len, layouts))
    result: list[Dimension] = []
    for position in range(-ndim, 0):
        dimension: Dimension = ()
        for layout in layouts:
            if -position > len(layout):
                continue
            joint = matched(dimension, layout[position])
            if joint is None:
                raise UnknownError(conflict(dimension, layout[position]))
            dimension, inner = joint
            call.require_inner(inner)
        result.append(dimension)
    return tuple(result)


def conflict(first: Dimension, second: Dimension) -> str:
    """Why two dimensions cannot be combined, in words.

    Args:
        first: A dimension.
        second: Another.

    Returns:
        The reason.
    """
    if still(first) or still(second):
        return "values that belong to fixed positions, such as a position embedding"
    return "maps whose positions do not correspond"


def channelwise(call: Call) -> Layout:
    """Normalisation, with parameters per channel, over all of the map or over fixed statistics."""
    layout = call.layout(call.args[0])
    if has_margin(layout):
        raise UnknownError("a padded map that no window reads")
    if len(layout) > 1 and not still(layout[1]):
        raise UnknownError("parameters per position")
    return layout


def last_dims(call: Call) -> Layout:
    """Layer normalisation over the last dimensions."""
    layout = call.layout(call.args[0])
    count = len(call.bound("input", "normalized_shape")["normalized_shape"])
    if not all(map(still, layout[-count:])):
        raise UnknownError("parameters per position")
    call.require_layout(layout)
    return layout


def along_dim(call: Call) -> Layout:
    """Softmax and the like: along dimensions, whose order does not matter."""
    layout = call.layout(call.args[0])
    if has_margin(layout):
        raise UnknownError("a padded map that no window reads")
    call.require_layout(layout)
    return layout


def reduction(call: Call) -> Layout:
    """Sums, means, norms and extrema over dimensions."""
    given = call.bound("input", "dim", "keepdim")
    if call.name == "norm":
        given = call.bound("input", "p", "dim", "keepdim")
    layout = call.layout(call.args[0])
    if has_margin(layout):
        raise UnknownError("a padded map that no window reads")
    dim = given.get("dim")
    if is_tensor_node(dim, call.values):  # max(x, y)
        return elementwise(call)
    dims = dims_of(dim, len(layout))
    if call.name in ("argmax", "argmin", "median", "mode") and not all(
        still(layout[dim]) for dim in dims
    ):
        raise UnknownError("the position of an extremum")
    call.require_layout(layout)
    keep = bool(given.get("keepdim", False))
    return tuple(
        () if index in dims else dimension
        for index, dimension in enumerate(layout)
        if keep or index not in dims
    )


def extremum(call: Call) -> Layout | list[Layout]:
    """``max`` and ``min`` along one dimension also give positions."""
    layout = reduction(call)
    if not isinstance(call.result, tuple):
        return layout
    source = call.layout(call.args[0])
    dims = dims_of(call.bound("input", "dim")["dim"], len(source))
    if not all(still(source[dim]) for dim in dims):
        raise UnknownError("the position of an extremum")
    return [layout, layout]


def concatenation(call: Call) -> Layout:
    """Tensors put one behind another along a dimension."""
    given = call.bound("tensors", "dim")
    layouts = [call.layout(tensor) for tensor in given["tensors"]]
    ndim = max(map(len, layouts))
    layouts = [layout for layout in layouts if len(layout) == ndim]
    (dim,) = dims_of(given.get("dim", 0), ndim)
    if any(map(has_margin, layouts)):
        raise UnknownError("a padded map that no window reads")
    if not all(still(layout[dim]) for layout in layouts):
        raise UnknownError("other values joined to the positions of a map")
    rest = combined(call, [(*layout[:dim], (), *layout[dim + 1 :]) for layout in layouts])
    call.require_inner([f for layout in layouts for f in layout[dim] if f.is_inner])
    return (*rest[:dim], plain(call.result.shape[dim]), *rest[dim + 1 :])


def stacking(call: Call) -> Layout:
    """Tensors of one shape stacked along a new dimension."""
    given = call.bound("tensors", "dim")
    layout = combined(call, [call.layout(tensor) for tensor in given["tensors"]])
    (dim,) = dims_of(given.get("dim", 0), len(layout) + 1)
    return (*layout[:dim], plain(len(given["tensors"])), *layout[dim:])


def filled(call: Call) -> Layout:
    """``new_zeros`` and other functions that only look at a shape."""
    return tuple(map(plain, call.result.shape))


def running(call: Call) -> Layout:
    """Cumulative sums and the like, along a dimension that does not move."""
    layout = call.layout(call.args[0])
    (dim,) = dims_of(call.bound("input", "dim").get("dim", -1), len(layout))
    if not still(layout[dim]):
        raise UnknownError("an order of positions")
    call.require_layout(layout)
    return (*layout[:dim], plain(call.result.shape[dim]), *layout[dim + 1 :])
