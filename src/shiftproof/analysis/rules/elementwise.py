"""Functions that compute every position from the same position of their inputs."""

from __future__ import annotations

from dataclasses import replace

from shiftproof.analysis.calls import PADDED_AGAIN, Call, rule
from shiftproof.analysis.errors import UnknownError
from shiftproof.analysis.layout import (
    Dimension,
    Layout,
    factors,
    has_margin,
    matched,
    moves,
    plain,
    plain_layout,
    repeated,
    still,
)
from shiftproof.nested import leaves_of

_ADDITIONS = ("add", "sub", "rsub", "cat", "concat", "stack")
_ELEMENTWISE = """
abs acos acosh add addcdiv addcmul alpha_dropout and asin asinh atan atan2 atanh bitwise_and
bitwise_not bitwise_or bitwise_xor ceil celu clamp clamp_max clamp_min clip copysign cos cosh
deg2rad div divide dropout dropout1d dropout2d dropout3d elu eq erf erfc exp exp2 expm1
feature_alpha_dropout feature_dropout float_power floor floor_divide floordiv fmax fmin fmod frac
ge gelu greater greater_equal gt hardshrink hardsigmoid hardswish hardtanh heaviside hypot iand
invert ior isfinite isinf isnan ixor le leaky_relu lerp less less_equal log log10 log1p log2
log_sigmoid logaddexp logical_and logical_not logical_or logical_xor logit lt masked_fill maximum
minimum mish mul multiply nan_to_num ne neg negative not_equal or positive pow rad2deg rdiv
reciprocal relu relu6 remainder rfloordiv rmod round rpow rrelu rsqrt rsub selu sgn sigmoid sign
silu sin sinc sinh softplus softshrink softsign sqrt square sub subtract tan tanh tanhshrink
threshold true_divide trunc where xlogy xor
"""


@rule(_ELEMENTWISE)
def elementwise(call: Call) -> Layout:
    """Combine tensors position by position, smaller ones repeated."""
    layouts = [call.layout(leaf) for leaf in leaves_of((call.record.args, call.record.kwargs))]
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
    ndim = max(map(len, layouts), default=0)
    if any(map(has_margin, layouts)) and len(layouts) > 1:
        bare = [layout for layout in layouts if not has_margin(layout)]
        if any(f.size > 1 for layout in bare for f in factors(layout) if f.axis != "constant"):
            raise UnknownError(PADDED_AGAIN)
    result: list[Dimension] = []
    for position in range(-ndim, 0):
        dimension: Dimension = ()
        for layout in layouts:
            if -position > len(layout):
                continue
            joint = matched(dimension, layout[position])
            if joint is None:
                raise UnknownError(conflict(call, dimension, layout[position]))
            dimension, inner = joint
            call.require_inner(inner)
        result.append(dimension)
    return tuple(result)


def conflict(call: Call, first: Dimension, second: Dimension) -> str:
    """Why two dimensions cannot be combined, in words.

    Args:
        call: The call.
        first: A dimension.
        second: Another.

    Returns:
        The reason.
    """
    if still(first) or still(second):
        fixed = [v.name for v in call.record.inputs if v.name and not moves(call.layout(v))]
        what = "position embedding" if call.name in _ADDITIONS else "weights of positions"
        if not fixed and call.name in _ADDITIONS:
            return "a tensor that stays where it is joins a map that moves"
        return f"{what}: {fixed[0] if fixed else 'a tensor'} stays where it is"
    pairs = list(zip(first, second, strict=False))
    if all(replace(a, frame=()) == replace(b, frame=()) for a, b in pairs):
        return "two branches aligned differently"
    return "maps whose positions do not correspond"


@rule(
    "bfloat16 bool byte clone contiguous cpu cuda detach double float half int long requires_grad"
)
@rule("to type type_as data as_tensor asarray")
def cast(call: Call) -> Layout:
    """Another dtype, device or copy: the values of the first tensor."""
    first = next(leaf for leaf in leaves_of((call.record.args, call.record.kwargs)))
    return call.layout(first)


@rule("new_zeros new_ones new_full zeros_like ones_like full_like")
def constant(call: Call) -> Layout:
    """Tensors that only have the shape of another, filled with one value."""
    if call.record.result.is_written:
        return plain_layout(call.shape)
    return tuple(map(repeated, call.shape))


@rule("new_empty empty_like new_tensor rand_like randn_like randint_like bernoulli")
def filled(call: Call) -> Layout:
    """Tensors that have the shape of another and values of their own."""
    if call.name == "bernoulli" or "rand" in call.name:
        raise UnknownError("random numbers of their own for each position")
    return plain_layout(call.shape)


@rule("batch_norm", "input running_mean running_var weight bias training momentum eps")
@rule("group_norm", "input num_groups weight bias eps")
@rule("instance_norm", "input running_mean running_var weight bias use_input_stats momentum eps")
@rule("prelu", "input weight")
def channelwise(call: Call) -> Layout:
    """Normalisation with parameters per channel, over all of the map or by fixed statistics."""
    layout = call.source
    call.require_no_margin(layout)
    if len(layout) > 1:
        call.require_free(layout[1], "parameters of their own for each position")
    return layout


@rule("layer_norm rms_norm", "input normalized_shape weight bias eps")
def last_dims(call: Call) -> Layout:
    """Layer normalisation over the last dimensions."""
    layout = call.source
    count = len(call.given["normalized_shape"])
    for dimension in layout[len(layout) - count :]:
        call.require_free(dimension, "normalisation with weights of its own for each position")
    call.require_layout(layout)
    call.require_no_margin(layout)
    return layout


@rule("softmax log_softmax softmin", "input dim _stacklevel dtype")
@rule("normalize", "input p dim eps")
def along_dim(call: Call) -> Layout:
    """Softmax and the like: along dimensions, whose order does not matter."""
    layout = call.source
    call.require_no_margin(layout)
    default = 1 if call.name == "normalize" else None
    given = call.given.get("dim", default)
    if given is None:
        raise UnknownError(f"{call.name} without a dimension")
    for dim in call.dims("dim", layout, default):
        call.require_no_samples(layout[dim])
    call.require_layout(layout)
    return layout


@rule("cumsum cumprod logcumsumexp", "input dim dtype")
@rule("glu", "input dim")
@rule("sort argsort", "input dim descending stable")
@rule("topk", "input k dim largest sorted")
def running(call: Call) -> Layout | list[Layout]:
    """Cumulative sums, sorting and the like, along a dimension that does not move."""
    layout = call.source
    (dim,) = call.dims("dim", layout, -1)
    call.require_free(layout[dim], "an order of positions")
    call.require_no_margin(layout)
    call.require_layout(layout)
    found = (*layout[:dim], plain(call.shape[dim]), *layout[dim + 1 :])
    return [found, found] if call.name in ("sort", "topk") else found


@rule("cat concat concatenate", "tensors dim")
def concatenation(call: Call) -> Layout:
    """Tensors put one behind another along a dimension."""
    layouts = [call.layout(tensor) for tensor in call.given["tensors"]]
    ndim = max(map(len, layouts))
    layouts = [layout for layout in layouts if len(layout) == ndim]
    (dim,) = call.dims("dim", layouts[0], 0)
    for layout in layouts:
        call.require_no_margin(layout)
        call.require_free(layout[dim], "other values joined to the positions of a map")
    rest = combined(call, [(*layout[:dim], (), *layout[dim + 1 :]) for layout in layouts])
    return (*rest[:dim], plain(call.shape[dim]), *rest[dim + 1 :])


@rule("stack", "tensors dim")
def stacking(call: Call) -> Layout:
    """Tensors of one shape stacked along a new dimension."""
    tensors = call.given["tensors"]
    layout = combined(call, [call.layout(tensor) for tensor in tensors])
    call.require_no_margin(layout)
    (dim,) = call.dims("dim", (*layout, ()), 0)
    return (*layout[:dim], plain(len(tensors)), *layout[dim:])
