"""Every rule, on a map that moves: the converted network follows, and nothing more is aligned."""

# ruff: noqa: B023, SIM905  (the inner functions have names of their own; word lists read better)

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shiftproof import ops
from shiftproof.analysis import calls, capture
from shiftproof.analysis.calls import RULES
from shiftproof.analysis.circular import mean_over
from shiftproof.conversion import ConversionError, convert
from shiftproof.conversion.alignment import require_sizes
from shiftproof.models.sizes import require_size

Function = Callable[[Tensor], Tensor]
SHIFTS = [(1, 0), (0, 1), (3, 6), (7, 10)]
W2 = torch.randn(8, 8, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
VECTOR = torch.linspace(0.5, 1.5, 8, dtype=torch.float64)
TABLE = torch.randn(8, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


class Middle(nn.Module):
    """A function of a map of 8 channels, between two convolutions, the second with a stride."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.down = nn.Conv2d(8, 4, 3, 2, 1)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        y = self.function(self.first(x).sigmoid())
        return self.down(y).mean((2, 3)) if y.ndim == 4 and y.shape[1] == 8 else y


def images(num: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(num, 3, 16, 16, generator=generator, dtype=torch.float64)


def network(function: Function) -> nn.Module:
    torch.manual_seed(0)
    return Middle(function).double().eval()


def attended(x: Tensor) -> Tensor:
    """Attention of two heads, of tokens ``(L, N, 8)``."""
    matrix = torch.cat([W2[:, :, 0, index] for index in range(3)])
    return F.multi_head_attention_forward(
        *(x, x, x, 8, 2, matrix, matrix[:, 0], None, None, False, 0.0, W2[:, :, 1, 0], VECTOR),
        training=False,
    )[0]


def binary(name: str) -> Function:
    function = getattr(torch, name)
    return lambda x: function(x, 0.7 * x + 0.1).to(x.dtype)


def unary(function: Callable[..., Tensor], *args: object) -> Function:
    return lambda x: function(x, *args).to(x.dtype)


def first(x: Tensor) -> Tensor:
    return x


ELEMENTWISE: dict[str, Function] = {
    **{
        name: unary(getattr(torch, name))
        for name in """
            abs asin asinh atan atanh acos ceil cos cosh
            erf erfc exp exp2 expm1 floor frac isfinite isinf
            isnan log log10 log1p log2 logical_not logit nan_to_num neg
            negative positive rad2deg deg2rad reciprocal relu round rsqrt sgn
            sigmoid sign sin sinc sinh sqrt square tan tanh
            trunc celu selu
        """.split()
    },
    **{
        name: binary(name)
        for name in """
            add atan2 copysign div divide eq floor_divide fmax fmin
            fmod ge greater greater_equal gt hypot le less less_equal
            logaddexp logical_and logical_or logical_xor lt maximum minimum mul multiply
            ne not_equal pow float_power remainder sub subtract true_divide xlogy
            heaviside
        """.split()
    },
    **{
        name: unary(getattr(F, name))
        for name in """
            alpha_dropout dropout dropout1d dropout2d dropout3d elu
            feature_alpha_dropout gelu hardshrink hardsigmoid hardswish hardtanh leaky_relu
            mish relu6 rrelu silu
            softplus softshrink softsign tanhshrink
        """.split()
    },
}
DROPOUTS = ("dropout", "dropout2d", "alpha_dropout", "feature_alpha_dropout")
ELEMENTWISE |= {
    **{name: unary(getattr(F, name), 0.5, False) for name in DROPOUTS},
    "dropout1d": lambda x: F.dropout1d(x.flatten(2), 0.5, False).reshape(x.shape),
    "dropout3d": lambda x: F.dropout3d(x[:, :, None], 0.5, False)[:, :, 0],
    "feature_dropout": lambda x: torch.feature_dropout(x, 0.5, False),
    "log_sigmoid": lambda x: F.logsigmoid(x),
}
ELEMENTWISE |= {
    "acosh": lambda x: torch.acosh(x + 1),
    "addcdiv": lambda x: torch.addcdiv(x, x, x + 1),
    "addcmul": lambda x: torch.addcmul(x, x, x),
    "clamp": lambda x: x.clamp(0.2, 0.8),
    "clamp_max": lambda x: torch.clamp_max(x, 0.5),
    "clamp_min": lambda x: torch.clamp_min(x, 0.5),
    "clip": lambda x: torch.clip(x, 0.2, 0.8),
    "lerp": lambda x: torch.lerp(x, 2 * x, 0.3),
    "masked_fill": lambda x: x.masked_fill(x > 0.5, 0.0),
    "rsub": lambda x: torch.rsub(x, 1),
    "threshold": lambda x: F.threshold(x, 0.5, 0.0),
    "where": lambda x: torch.where(x > 0.5, x, -x),
}
OPERATORS = {
    **{f"r{n}": f"__r{n}__" for n in ("pow", "mod", "floordiv", "div")},
    "floordiv": "__floordiv__",
}


def operator(name: str) -> Function:
    return lambda x: getattr(x.clone() + 1, name)(2.0)


def logical(name: str) -> Function:
    def run(x: Tensor) -> Tensor:
        mask = x > 0.5
        other = (mask,) if name not in ("bitwise_not", "__invert__") else ()
        method = getattr(mask.clone(), name, None) or getattr(torch, name)
        return (method(*other) if hasattr(mask, name) else method(mask, *other)).to(x.dtype) + x

    return run


ELEMENTWISE |= {name: operator(raw) for name, raw in OPERATORS.items()}
ELEMENTWISE |= {n: logical(n) for n in ("bitwise_and", "bitwise_or", "bitwise_xor", "bitwise_not")}
ELEMENTWISE |= {
    n: logical(f"__{n}__") for n in ("and", "or", "xor", "invert", "iand", "ior", "ixor")
}

LOCAL: dict[str, Function] = {
    **ELEMENTWISE,
    # casts and constants
    **{
        name: (lambda name: lambda x: getattr(x, name)().to(torch.float64))(name)
        for name in """
            bfloat16 bool byte clone contiguous cpu detach double float
            half int long
        """.split()
    },
    "cuda": lambda x: x.cuda() if torch.cuda.is_available() else x,
    "requires_grad": lambda x: x.detach().requires_grad_(False),
    "to": lambda x: x.to(torch.float32).to(torch.float64),
    "type": lambda x: x.type(torch.float32).type(torch.float64),
    "type_as": lambda x: x.type_as(x),
    "data": lambda x: x.data,
    **{
        name: (lambda name: lambda x: x + getattr(x, name)(x.shape))(name)
        for name in ("new_zeros", "new_ones")
    },
    "new_full": lambda x: x + x.new_full(x.shape, 2.0),
    **{
        name: (lambda name: lambda x: x + getattr(torch, name)(x))(name)
        for name in ("zeros_like", "ones_like")
    },
    "full_like": lambda x: x + torch.full_like(x, 2.0),
    # norms and the like
    "batch_norm": lambda x: F.batch_norm(x, VECTOR, VECTOR),
    "group_norm": lambda x: F.group_norm(x, 2),
    "instance_norm": lambda x: F.instance_norm(x),
    "prelu": lambda x: F.prelu(x - 0.5, VECTOR),
    "layer_norm": lambda x: F.layer_norm(x.permute(0, 2, 3, 1), (8,)).permute(0, 3, 1, 2),
    "rms_norm": lambda x: F.rms_norm(x.permute(0, 2, 3, 1), (8,)).permute(0, 3, 1, 2),
    **{
        name: (lambda name: lambda x: getattr(F, name)(x, dim=1))(name)
        for name in ("softmax", "log_softmax", "softmin", "normalize")
    },
    **{
        name: (lambda name: lambda x: getattr(torch, name)(x, dim=1))(name)
        for name in ("cumsum", "cumprod", "logcumsumexp")
    },
    "glu": lambda x: F.glu(torch.cat([x, x], 1), 1),
    "sort": lambda x: x.sort(1).values,
    "argsort": lambda x: x.argsort(1).to(x.dtype),
    "topk": lambda x: x.topk(8, 1).values,
    **{
        name: (lambda name: lambda x: getattr(torch, name)([x[:, :4], x[:, 4:]], 1))(name)
        for name in ("cat", "concat", "concatenate")
    },
    "stack": lambda x: torch.stack([x, x]).mean(0),
    # products
    "matmul": lambda x: (TABLE @ TABLE.T[:, :8] @ x.flatten(2)).reshape(x.shape),
    "rmatmul": lambda x: (
        x.flatten(2).transpose(1, 2).__rmatmul__(x.flatten(2)).sum((1, 2))[:, None]
    ),
    "bmm": lambda x: torch.bmm(x.flatten(2), x.flatten(2).transpose(1, 2)).sum(1),
    "mm": lambda x: torch.mm(x.mean((2, 3)), TABLE),
    "baddbmm": lambda x: torch.baddbmm(
        x.flatten(2), x.new_ones(1, 8, 8).expand(2, -1, -1), x.flatten(2)
    ).reshape(x.shape),
    "scaled_dot_product_attention": lambda x: (
        F.scaled_dot_product_attention(*[x.flatten(2).transpose(1, 2)] * 3)
        .transpose(1, 2)
        .reshape(x.shape)
    ),
    "multi_head_attention_forward": lambda x: (
        attended(x.flatten(2).permute(2, 0, 1)).permute(1, 2, 0).reshape(x.shape)
    ),
    "unfold": lambda x: (
        (lambda p: p * p.softmax(2))(F.unfold(x, (2, 4), stride=(2, 4)))
        .unflatten(1, (8, 2, 4))
        .unflatten(4, (8, 4))
        .permute(0, 1, 4, 2, 5, 3)
        .reshape(x.shape)
    ),
    "fold": lambda x: F.fold(F.unfold(x, 2, stride=2).softmax(2), 16, 2, stride=2),
    "as_tensor": lambda x: torch.as_tensor(x),
    "asarray": lambda x: torch.asarray(x),
    "linear": lambda x: F.linear(x.permute(0, 2, 3, 1), W2[:, :, 0, 0]).permute(0, 3, 1, 2),
    "einsum": lambda x: torch.einsum("nchw,dc->ndhw", x, W2[:, :, 0, 0]),
    # reductions
    **{
        name: (lambda name: lambda x: x * getattr(torch, name)(x, dim=(2, 3), keepdim=True))(name)
        for name in ("sum", "amax", "amin", "std", "var", "logsumexp", "nansum", "mean", "nanmean")
    },
    "aminmax": lambda x: x * torch.aminmax(x.flatten(2), dim=2).max[..., None, None],
    "prod": lambda x: x + torch.prod(x.flatten(2), 2)[..., None, None],
    "any": lambda x: x + (x > 0.9).flatten(2).any(2)[..., None, None],
    "all": lambda x: x + (x > 0.1).flatten(2).all(2)[..., None, None],
    "norm": lambda x: x / x.norm(dim=(2, 3), keepdim=True),
    "linalg_vector_norm": lambda x: x / torch.linalg.vector_norm(x, dim=(2, 3), keepdim=True),
    "linalg_norm": lambda x: x / torch.linalg.norm(x.flatten(2), dim=2)[..., None, None],
    "var_mean": lambda x: x - torch.var_mean(x, (2, 3), keepdim=True)[1],
    "std_mean": lambda x: x - torch.std_mean(x, (2, 3), keepdim=True)[1],
    "count_nonzero": lambda x: x + torch.count_nonzero(x > 0.5, (2, 3))[..., None, None],
    **{
        name: (
            lambda name: lambda x: x - getattr(torch, name)(x.flatten(2), 2)[0][..., None, None]
        )(name)
        for name in ("max", "min", "median", "mode", "nanmedian")
    },
    "kthvalue": lambda x: x - x.flatten(2).kthvalue(3, 2)[0][..., None, None],
    "argmax": lambda x: x + x.argmax(1, keepdim=True),
    "argmin": lambda x: x + x.argmin(1, keepdim=True),
    # shapes
    "reshape": lambda x: x.reshape(2, 2, 4, 16, 16).transpose(1, 2).reshape(2, 8, 16, 16),
    "view": lambda x: x.view(2, 8, 256).view(2, 8, 16, 16),
    "flatten": lambda x: x.flatten(2).reshape(x.shape),
    "unflatten": lambda x: x.unflatten(1, (2, 4)).mean(1).repeat(1, 2, 1, 1),
    "squeeze": lambda x: x[:, :, None].squeeze(2),
    "unsqueeze": lambda x: x.unsqueeze(1).squeeze(1),
    "view_as": lambda x: x.flatten(2).view_as(x),
    "reshape_as": lambda x: x.flatten(2).reshape_as(x),
    "permute": lambda x: x.permute(0, 2, 3, 1).permute(0, 3, 1, 2),
    **{
        name: (lambda name: lambda x: getattr(getattr(x, name)(1, 3), name)(1, 3))(name)
        for name in ("transpose", "swapaxes", "swapdims")
    },
    **{
        name: (lambda name: lambda x: getattr(torch, name)(getattr(torch, name)(x, 1, 3), 3, 1))(
            name
        )
        for name in ("movedim", "moveaxis")
    },
    "T": lambda x: x.mean((2, 3)).T.T,
    "mT": lambda x: x.mT.mT,
    "mH": lambda x: x.mH.mH,
    "H": lambda x: x.mean((2, 3)).H.H,
    "t": lambda x: x.mean((2, 3)).t().t(),
    "adjoint": lambda x: x.adjoint().adjoint(),
    "expand": lambda x: x + x.mean((2, 3), keepdim=True).expand(-1, -1, 16, 16),
    "expand_as": lambda x: x + x.mean((2, 3), keepdim=True).expand_as(x),
    "broadcast_to": lambda x: x + torch.broadcast_to(x.mean((2, 3), keepdim=True), x.shape),
    "repeat": lambda x: x[:, :4].repeat(1, 2, 1, 1),
    "tile": lambda x: torch.tile(x[:, :4], (1, 2, 1, 1)),
    "repeat_interleave": lambda x: x.repeat_interleave(2, 2).repeat_interleave(2, dim=3),
    "chunk": lambda x: torch.cat(x.chunk(2, 1)[::-1], 1),
    "split": lambda x: torch.cat(x.split(4, 1)[::-1], 1),
    "split_with_sizes": lambda x: torch.cat(x.split_with_sizes([2, 6], 1)[::-1], 1),
    "tensor_split": lambda x: torch.cat(x.tensor_split(2, 1)[::-1], 1),
    "unbind": lambda x: torch.stack(x.unbind(1), 1),
    "roll": lambda x: x.roll((3, 2), (2, 3)),
    "flip": lambda x: x.flip(1),
    "fliplr": lambda x: torch.fliplr(x),
    "pixel_unshuffle": lambda x: F.pixel_unshuffle(x, 2)[:, :8],
    "pixel_shuffle": lambda x: F.pixel_shuffle(torch.cat([x] * 4, 1), 2),
    "channel_shuffle": lambda x: F.channel_shuffle(x, 2),
    "native_channel_shuffle": lambda x: torch.native_channel_shuffle(x, 2),
    # indexing
    "narrow": lambda x: x.narrow(1, 0, 4).repeat(1, 2, 1, 1),
    "select": lambda x: x.select(1, 0)[:, None] * x,
    "index_select": lambda x: x.index_select(1, torch.arange(7, -1, -1)),
    "getitem": lambda x: x[:, :, ::2, ::2],
    "embedding": lambda x: F.embedding(x.argmax(1), TABLE).permute(0, 3, 1, 2).repeat(1, 2, 1, 1),
    # windows
    "conv1d": lambda x: F.conv1d(x.mean(2), W2[:, :, 0], padding=1)[:, :, None] + x,
    "conv2d": lambda x: F.conv2d(x, W2, stride=2, padding=1),
    "conv3d": lambda x: F.conv3d(x[:, :, None], W2[:, :, None], padding=(0, 1, 1))[:, :, 0],
    **{
        f"{kind}_pool2d": (lambda kind: lambda x: getattr(F, f"{kind}_pool2d")(x, 3, 2, 1))(kind)
        for kind in ("max", "avg")
    },
    **{
        f"{kind}_pool1d": (
            lambda kind: lambda x: getattr(F, f"{kind}_pool1d")(x.mean(2), 3, 1, 1)[:, :, None] + x
        )(kind)
        for kind in ("max", "avg")
    },
    **{
        f"{kind}_pool3d": (
            lambda kind: lambda x: getattr(F, f"{kind}_pool3d")(x[:, :, None], (1, 2, 2))[:, :, 0]
        )(kind)
        for kind in ("max", "avg")
    },
    "lp_pool1d": lambda x: F.lp_pool1d(x.mean(2), 2, 2)[:, :, None].repeat(1, 1, 2, 2),
    "lp_pool2d": lambda x: F.lp_pool2d(x, 2, 2),
    "lp_pool3d": lambda x: F.lp_pool3d(x[:, :, None], 2, (1, 2, 2))[:, :, 0],
    "conv_transpose1d": lambda x: (
        F.conv_transpose1d(x.mean(2), W2[:, :, 0], padding=1)[:, :, None] + x
    ),
    "conv_transpose2d": lambda x: F.conv_transpose2d(x, W2, stride=2, padding=1, output_padding=1),
    # sizes
    **{
        f"adaptive_{kind}_pool2d": (
            lambda kind: lambda x: getattr(F, f"adaptive_{kind}_pool2d")(x, 8)
        )(kind)
        for kind in ("avg", "max")
    },
    **{
        f"adaptive_{kind}_pool1d": (
            lambda kind: (
                lambda x: x + getattr(F, f"adaptive_{kind}_pool1d")(x.flatten(2), 1)[..., None]
            )
        )(kind)
        for kind in ("avg", "max")
    },
    **{
        f"adaptive_{kind}_pool3d": (
            lambda kind: (
                lambda x: getattr(F, f"adaptive_{kind}_pool3d")(x[:, :, None], (1, 8, 8))[:, :, 0]
            )
        )(kind)
        for kind in ("avg", "max")
    },
    "interpolate": lambda x: F.interpolate(x, scale_factor=2.0, mode="bilinear"),
    "pad": lambda x: F.max_pool2d(F.pad(x, (0, 1, 0, 1)), 3, 2),
    # this package
    "ops.pad": lambda x: F.conv2d(ops.pad(x, (1, 1), (1, 1), "zeros"), W2),
    "ops.lowpass": lambda x: ops.lowpass(x, ops.binomial_kernel(3, num_dims=2), "reflect", 2),
    "ops.phase_scores": lambda x: ops.take_phase(
        x, ops.select_phase(x, 2, -ops.phase_scores(x, 2)), 2
    ),
    "ops.largest_values": lambda x: ops.take_phase(
        x, ops.select_phase(x, 2, ops.largest_values(x, 2)), 2
    ),
    "ops.first_phase": lambda x: ops.take_phase(
        x, ops.select_phase(x, 2, ops.first_phase(x, 2)), 2
    ),
    "ops.select_phase": lambda x: ops.take_phase(x, ops.select_phase(x, 2), 2),
    "ops.take_phase": lambda x: ops.take_phase(x, ops.select_phase(x, 4), 4),
    "ops.place_phase": lambda x: (lambda p: ops.place_phase(ops.take_phase(x, p, 2), p, 2))(
        ops.select_phase(x, 2)
    ),
    "ops.align_phase": lambda x: F.conv2d(
        ops.align_phase(x, ops.select_phase(x, 2), 2, (1, 1), (1, 1)), W2, stride=2
    ),
    "ops.circular_shift": lambda x: ops.circular_shift(x, (1, 2)) + x,
    "ops.global_mean": lambda x: x * ops.global_mean(x)[..., None, None],
    "ops.mean_over": lambda x: x * mean_over(x, (2, 3), True),
    "ops.require_size": lambda x: require_size(x, "network", (("stage", 2),)),
    "ops.require_sizes": lambda x: require_sizes(x, (16, 16), (2, 3)),
}
FULL: dict[str, Function] = {
    "conv_transpose3d": lambda x: F.conv_transpose3d(
        x[:, :, None], W2[:, :, None], padding=(0, 1, 1)
    )[:, :, 0],
    "flipud": lambda x: torch.flipud(x.transpose(0, 2)).transpose(0, 2),
    "ravel": lambda x: x.ravel().reshape(x.shape),
    "new_empty": lambda x: x + x.new_empty(x.shape).zero_(),
    "empty_like": lambda x: x + torch.empty_like(x).zero_(),
    "new_tensor": lambda x: x + x.new_tensor([1.0]),
    **{
        name: (lambda name: lambda x: x + 0 * getattr(torch, name)(x))(name)
        for name in ("rand_like", "randn_like", "bernoulli")
    },
    "randint_like": lambda x: x + 0 * torch.randint_like(x, 3),
}
"""Those that only an alignment by the full size helps, if at all."""

CASES = {**LOCAL, **FULL}


def test_every_rule_has_a_case() -> None:
    assert sorted(set(RULES) - set(CASES)) == []


@pytest.mark.filterwarnings("ignore:The use of `x.T`")
@pytest.mark.parametrize("name", CASES)
def test_control_the_case_reaches_its_rule(name: str) -> None:
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    calls_of_it = capture(network(CASES[name]), (images(),)).calls
    assert name in {call.function for call in calls_of_it}


def deviation(model: nn.Module) -> float:
    with torch.no_grad():
        before = model(images())
        after = [model(images().roll(shift, (2, 3))) for shift in SHIFTS]
    if before.ndim == 4 and before.shape[2] > 1:
        scale = before.shape[2] // 16
        after = [
            y.roll([-scale * d for d in shift], (2, 3))
            for y, shift in zip(after, SHIFTS, strict=True)
        ]
    return max(float((y - before).abs().max() / before.std()) for y in after)


@pytest.mark.filterwarnings("ignore:The use of `x.T`")
@pytest.mark.parametrize("name", CASES)
def test_a_network_with_this_function_is_invariant(name: str) -> None:
    model = network(CASES[name])
    conversion = convert(model, images())
    full = any(a.full for a in conversion.plan.alignments)
    assert not full or name in FULL, str(conversion.plan)
    assert deviation(conversion.model) < 1e-9


SPELLINGS: dict[str, tuple[Function, Function]] = {
    "permute dims": (
        lambda x: x.permute(0, 2, 3, 1).permute(0, 3, 1, 2),
        lambda x: x.permute(dims=(0, 2, 3, 1)).permute(dims=[0, 3, 1, 2]),
    ),
    "sum input": (
        lambda x: x * x.sum((2, 3), keepdim=True),
        lambda x: x * torch.sum(input=x, dim=(2, 3), keepdim=True),
    ),
    "sum axis": (
        lambda x: x * x.sum((2, 3), keepdim=True),
        lambda x: x * x.sum(axis=(2, 3), keepdims=True),
    ),
    "mean axis": (
        lambda x: x * x.mean((2, 3), keepdim=True),
        lambda x: x * torch.mean(x, axis=(2, 3), keepdim=True),
    ),
    "cat axis": (
        lambda x: torch.cat([x[:, 4:], x[:, :4]], 1),
        lambda x: torch.cat(tensors=[x[:, 4:], x[:, :4]], axis=1),
    ),
    "transpose": (
        lambda x: x.transpose(1, 3).transpose(1, 3),
        lambda x: torch.transpose(torch.transpose(x, dim0=1, dim1=3), dim0=3, dim1=1),
    ),
    "flatten": (
        lambda x: x.flatten(2).reshape(x.shape),
        lambda x: torch.flatten(x, start_dim=2).reshape(shape=x.shape),
    ),
    "conv2d": (
        lambda x: F.conv2d(x, W2, None, 2, 1),
        lambda x: torch.conv2d(input=x, weight=W2, stride=2, padding=1),
    ),
    "max pool": (
        lambda x: F.max_pool2d(x, 3, 2, 1),
        lambda x: F.max_pool2d(input=x, kernel_size=3, stride=2, padding=1),
    ),
    "softmax": (lambda x: x.softmax(1), lambda x: torch.softmax(input=x, dim=1)),
    "squeeze": (lambda x: x[:, None].squeeze(1), lambda x: torch.squeeze(x[:, None], dim=1)),
    "roll": (lambda x: x.roll(3, 2), lambda x: torch.roll(x, shifts=3, dims=2)),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_the_spelling_of_a_call_does_not_matter(name: str) -> None:
    plain, other = (convert(network(function), images()).plan for function in SPELLINGS[name])
    assert [a.stride for a in plain.alignments] == [a.stride for a in other.alignments]
    assert [(e.function, e.change) for e in plain.edits] == [
        (e.function, e.change) for e in other.edits
    ]


def test_an_argument_that_no_rule_knows_is_told() -> None:
    plan = convert(
        network(lambda x: torch.sum(x, 1, keepdim=True, dtype=torch.float64) + x), images()
    )
    assert not any(a.full for a in plan.plan.alignments)
    model = network(lambda x: x + torch.rot90(x, 2, (2, 3)))
    reasons = [r for a in convert(model, images()).plan.alignments for r in a.reasons]
    assert "what rot90 does to positions" in reasons


def test_the_fault_of_a_rule_is_no_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(call: calls.Call) -> None:
        raise IndexError("a bug")

    monkeypatch.setitem(RULES, "sigmoid", broken)
    with pytest.raises(IndexError, match="a bug"):
        convert(network(first), images())


def test_full_size_alignments_can_be_refused() -> None:
    with pytest.raises(ConversionError, match="no map must be aligned by its full size"):
        convert(network(lambda x: torch.rot90(x, 2, (2, 3))), images(), allow_full_size=False)
