"""Products of matrices: sums over positions or over channels."""

from shiftproof.conversion.calls import Call, UnknownError
from shiftproof.conversion.elementwise import combined, conflict
from shiftproof.conversion.layout import Dimension, Layout, has_margin, matched, plain, still


def contraction(call: Call) -> Layout:
    """Matrix products, batched."""
    first, second = (call.layout(argument) for argument in call.args[:2])
    if call.name == "rmatmul":
        first, second = second, first
    if len(first) < 2 or len(second) < 2:
        raise UnknownError("a product with a vector")
    return product(call, first, second)


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
    summed = matched(first[-1], second[-2])
    if summed is None:
        raise UnknownError("weights that belong to fixed positions")
    call.require_inner(summed[1])
    call.require_layout((first[-1], second[-2]))
    outer = [layout[:-2] for layout in (first, second) if len(layout) > 2]
    batch = combined(call, outer) if outer else ()
    return (*batch, first[-2], second[-1])


def additive_product(call: Call) -> Layout:
    """``baddbmm``: a product of matrices added to something."""
    base, first, second = (call.layout(argument) for argument in call.args[:3])
    return combined(call, [base, product(call, first, second)])


def attention(call: Call) -> Layout:
    """Scaled dot-product attention."""
    given = call.bound("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
    query, key, value = (call.layout(given[name]) for name in ("query", "key", "value"))
    if given.get("is_causal"):
        raise UnknownError("an order of positions")
    scores = product(call, query, (*key[:-2], key[-1], key[-2]))
    if given.get("attn_mask") is not None:
        scores = combined(call, [scores, call.layout(given["attn_mask"])])
    return product(call, scores, value)


def linear(call: Call) -> Layout:
    """A linear map of the last dimension."""
    layout = call.layout(call.args[0])
    return linear_layout(call, layout)


def linear_layout(call: Call, layout: Layout) -> Layout:
    """The layout after a linear map of the last dimension.

    Args:
        call: The call.
        layout: Layout before.

    Returns:
        Layout after.

    Raises:
        UnknownError: If the last dimension holds positions that move.
    """
    if not still(layout[-1]):
        raise UnknownError("a linear layer over the positions of a map")
    if has_margin(layout):
        raise UnknownError("a padded map that no window reads")
    call.require_inner([factor for factor in layout[-1] if factor.is_inner])
    return (*layout[:-1], plain(call.result.shape[-1]))


def summation(call: Call) -> Layout:
    """``einsum``."""
    equation, *operands = call.args
    if len(operands) == 1 and isinstance(operands[0], (tuple, list)):
        operands = list(operands[0])
    if not isinstance(equation, str) or "." in equation:
        raise UnknownError("an einsum whose indices are not letters")
    inputs, _, output = equation.replace(" ", "").partition("->")
    if "->" not in equation:
        raise UnknownError("an einsum without an output")
    known: dict[str, Dimension] = {}
    for letters, operand in zip(inputs.split(","), operands, strict=True):
        for letter, dimension in zip(letters, call.layout(operand), strict=True):
            joint = matched(known.get(letter, ()), dimension)
            if joint is None:
                raise UnknownError(conflict(known[letter], dimension))
            known[letter] = joint[0]
            call.require_inner(joint[1])
    result = tuple(known[letter] for letter in output)
    call.require_layout(tuple(known[letter] for letter in known if letter not in output))
    return result
