"""Products of matrices: sums over positions or over channels."""

from __future__ import annotations

from shiftproof.analysis.calls import Call, rule
from shiftproof.analysis.errors import UnknownError, shown
from shiftproof.analysis.layout import Dimension, Layout, matched, moves, plain, still
from shiftproof.analysis.rules.elementwise import combined, conflict


@rule("matmul bmm mm rmatmul", "input other")
@rule("baddbmm", "base input other")
def contraction(call: Call) -> Layout:
    """Matrix products, batched; ``baddbmm`` adds the product to something."""
    first, second = call.source, call.layout(call.given["other"])
    if call.name == "rmatmul":
        first, second = second, first
    if len(first) < 2 or len(second) < 2:
        raise UnknownError("a product with a vector")
    result = product(call, first, second)
    return combined(call, [call.layout(call.given.get("base")), result])


def product(call: Call, first: Layout, second: Layout) -> Layout:
    """The layout of a batched matrix product.

    Args:
        call: The call.
        first: Layout of the first matrices.
        second: Layout of the second.

    Returns:
        The layout of the result.

    Raises:
        UnknownError: If positions of one are summed against something else in the other.
    """
    for layout in (first, second):
        call.require_no_margin(layout)
    summed = matched(first[-1], second[-2])
    if summed is None:
        raise UnknownError("weights that belong to fixed positions")
    call.require_no_samples(summed[0])
    call.require_inner(summed[1])
    call.require_layout((first[-1], second[-2]))
    outer = [layout[:-2] for layout in (first, second) if len(layout) > 2]
    batch = combined(call, outer) if outer else ()
    return (*batch, first[-2], second[-1])


@rule(
    "scaled_dot_product_attention", "input key value attn_mask dropout_p is_causal scale enable_gqa"
)
def attention(call: Call) -> Layout:
    """Scaled dot-product attention."""
    key, value = call.layout(call.given["key"]), call.layout(call.given["value"])
    if call.given.get("is_causal") or call.given.get("enable_gqa"):
        raise UnknownError("an order of positions")
    scores = product(call, call.source, (*key[:-2], key[-1], key[-2]))
    if call.given.get("attn_mask") is not None:
        scores = combined(call, [scores, call.layout(call.given["attn_mask"])])
    return product(call, scores, value)


_HEADS = """
input key value embed_dim_to_check num_heads in_proj_weight in_proj_bias bias_k bias_v add_zero_attn
dropout_p out_proj_weight out_proj_bias training key_padding_mask need_weights attn_mask
use_separate_proj_weight q_proj_weight k_proj_weight v_proj_weight static_k static_v
average_attn_weights is_causal
"""
_OF_POSITIONS = "bias_k bias_v add_zero_attn key_padding_mask attn_mask static_k static_v is_causal"


@rule("multi_head_attention_forward", _HEADS)
def multi_head_attention(call: Call) -> list[Layout]:
    """Attention of several heads, of tensors ``(L, N, E)``; ``nn.MultiheadAttention`` calls it."""
    tensors = [call.layout(call.given[name]) for name in ("input", "key", "value")]
    special = [call.given.get(name) for name in _OF_POSITIONS.split()]
    if any(value is not None and value is not False for value in special):
        raise UnknownError("masks and keys that belong to fixed positions")
    if any(len(layout) != 3 for layout in tensors):
        raise UnknownError("attention without a dimension of samples")
    weights = [value for name, value in call.given.items() if "weight" in name or "bias" in name]
    if any(moves(call.layout(weight)) for weight in weights):
        raise UnknownError("weights that depend on the input")
    for layout in tensors:
        call.require_no_margin(layout)
        call.require_free(layout[2], "a linear layer across positions, with weights for each")
    queries, keys, values = ((n, length, ()) for length, n, _ in tensors)
    scores = product(call, queries, (keys[0], (), keys[1]))
    samples, length, _ = product(call, scores, values)
    results: list[Layout] = [(length, samples, plain(call.shape[2]))]
    if call.given.get("need_weights", True):
        heads = (plain(call.given["num_heads"]),)
        is_averaged = call.given.get("average_attn_weights", True)
        results.append((samples, *(() if is_averaged else heads), *scores[1:]))
    return results


@rule("linear", "input weight bias")
def linear(call: Call) -> Layout:
    """A linear map of the last dimension."""
    layout = call.source
    call.require_no_margin(layout)
    sizes = [factor.size for factor in layout[-1] if factor.moves]
    what = f"{shown(sizes)} positions" if len(sizes) < 2 else f"a map of {shown(sizes, ' x ')}"
    call.require_free(layout[-1], f"a linear layer across {what}, with weights of its own for each")
    for name in ("weight", "bias"):
        if not all(map(still, call.layout(call.given.get(name)))):
            raise UnknownError("weights that depend on the input")
    return (*layout[:-1], plain(call.shape[-1]))


@rule("einsum", "equation *operands")
def summation(call: Call) -> Layout:
    """``einsum``."""
    equation, operands = call.given["equation"], call.given["operands"]
    if not isinstance(equation, str) or "." in equation:
        raise UnknownError("an einsum whose indices are not letters")
    inputs, _, output = equation.replace(" ", "").partition("->")
    if "->" not in equation:
        raise UnknownError("an einsum without an output")
    known: dict[str, Dimension] = {}
    for letters, operand in zip(inputs.split(","), operands, strict=True):
        layout = call.layout(operand)
        call.require_no_margin(layout)
        for letter, dimension in zip(letters, layout, strict=True):
            joint = matched(known.get(letter, ()), dimension)
            if joint is None:
                raise UnknownError(conflict(call, known[letter], dimension))
            known[letter] = joint[0]
            call.require_inner(joint[1])
    summed = tuple(known[letter] for letter in known if letter not in output)
    for dimension in summed:
        call.require_no_samples(dimension)
    call.require_layout(summed)
    return tuple(known[letter] for letter in output)
