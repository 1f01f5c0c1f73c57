"""Which rule holds for which function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from shiftproof.conversion import contractions, elementwise, pads, reshaping, resizing, sliding
from shiftproof.conversion.calls import Call

Rule = Callable[[Call], Any]

_REDUCTIONS = "sum amax amin std var norm prod logsumexp any all argmax argmin"
_RESHAPES = "reshape view flatten unflatten squeeze unsqueeze view_as reshape_as"

RULES: dict[str, Rule] = {
    **dict.fromkeys(elementwise.ELEMENTWISE, elementwise.elementwise),
    **dict.fromkeys(("batch_norm", "group_norm", "instance_norm"), elementwise.channelwise),
    "prelu": elementwise.channelwise,
    "layer_norm": elementwise.last_dims,
    "rms_norm": elementwise.last_dims,
    **dict.fromkeys(("softmax", "log_softmax", "softmin", "normalize"), elementwise.along_dim),
    **dict.fromkeys(
        _REDUCTIONS.split(),
        elementwise.reduction,
    ),
    **dict.fromkeys(("max", "min"), elementwise.extremum),
    "cumsum": elementwise.running,
    **dict.fromkeys(elementwise.CASTS, elementwise.cast),
    **dict.fromkeys(("cat", "concat", "concatenate"), elementwise.concatenation),
    "stack": elementwise.stacking,
    **dict.fromkeys(("matmul", "bmm", "mm", "rmatmul"), contractions.contraction),
    "baddbmm": contractions.additive_product,
    "scaled_dot_product_attention": contractions.attention,
    "linear": contractions.linear,
    "einsum": contractions.summation,
    **dict.fromkeys(
        ["new_zeros", "new_ones", "new_empty", "new_full", "empty_like", "full_like"],
        elementwise.filled,
    ),
    **dict.fromkeys(
        _RESHAPES.split(),
        reshaping.reshape,
    ),
    "permute": reshaping.permute,
    **dict.fromkeys(("transpose", "swapaxes", "swapdims"), reshaping.transpose),
    **dict.fromkeys(("t", "adjoint"), reshaping.transpose_last),
    **dict.fromkeys(("movedim", "moveaxis"), reshaping.move_dims),
    "getattr": reshaping.attribute,
    **dict.fromkeys(("expand", "expand_as"), reshaping.expand),
    **dict.fromkeys(("repeat", "tile"), reshaping.repeat),
    "repeat_interleave": reshaping.repeat_interleave,
    **dict.fromkeys(("chunk", "split", "tensor_split"), reshaping.parts),
    "unbind": reshaping.unbind,
    **dict.fromkeys(("narrow", "select", "index_select"), reshaping.narrow),
    "roll": reshaping.roll,
    "flip": reshaping.flip,
    "getitem": reshaping.item,
    "pixel_unshuffle": reshaping.space_to_depth,
    "pixel_shuffle": reshaping.depth_to_space,
    **dict.fromkeys(("channel_shuffle", "native_channel_shuffle"), reshaping.shuffle),
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), sliding.convolution),
    **dict.fromkeys(
        [f"{kind}_pool{axes}d" for kind in ("max", "avg") for axes in (1, 2, 3)], sliding.pool
    ),
    **dict.fromkeys(
        [f"adaptive_{kind}_pool{axes}d" for kind in ("max", "avg") for axes in (1, 2, 3)],
        resizing.adaptive_pool,
    ),
    "embedding": reshaping.embedding,
    "glu": elementwise.running,
    "align_phase": elementwise.aligned,
    "take_phase": reshaping.taken,
    "require_size": elementwise.cast,
    "mean": resizing.mean,
    "mean_over": resizing.mean,
    "interpolate": resizing.interpolation,
    "pad": pads.padding,
}
"""By name, without the underscores of methods and of operations in place."""
