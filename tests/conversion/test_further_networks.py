"""Attention, graphs, quantisation, open sizes and the like: networks as people have them."""

import copy
import functools

import pytest
import torch
import torch.nn.functional as F
from convertible import Function, body
from test_kinds import deviation, images, require_invariant
from torch import Tensor, nn
from torch.export import Dim

from shiftproof import certify
from shiftproof.conversion import ConversionError, convert


class Tokens(nn.Module):
    """Patches as tokens, something that mixes them, and a classifier of their mean."""

    def __init__(self, mixer: nn.Module, dim: int = 1) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 16, 4, 4)
        self.norm = nn.LayerNorm(16)
        self.mixer = mixer
        self.head = nn.Linear(16, 5)
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        tokens = tokens if self.dim else tokens.transpose(0, 1)
        return self.head((tokens + self.mixer(self.norm(tokens))).mean(self.dim))


class MultiHead(nn.Module):
    """``nn.MultiheadAttention``, called in one way or another."""

    def __init__(self, weighted: bool = False, per_head: bool = False, **options: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 4, **options)
        self.options = {"need_weights": weighted, "average_attn_weights": not per_head}
        self.mask: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        result, weights = self.attention(x, x, x, **self.options, attn_mask=self.mask)
        if weights is None:
            return result
        # The largest share that a query gives to a key: no order matters.
        return result * (1 + weights.flatten(1).amax(1)[:, None, None])


class Dotted(nn.Module):
    """Attention as timm writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(16, 48)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, 4, 4)).permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class Queries(nn.Module):
    """Queries that are learned look at all tokens; each answer is added to every token."""

    def __init__(self) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(1, 3, 16))
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        answers, _ = self.attention(self.queries.expand(len(x), -1, -1), x, x)
        return x * answers.sum(1, keepdim=True)


def layers(**options: bool) -> nn.Module:
    layer = nn.TransformerEncoderLayer(16, 4, 32, **options)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


ATTENTION = {
    "multi-head": lambda: Tokens(MultiHead(batch_first=True)),
    "multi-head, weights": lambda: Tokens(MultiHead(weighted=True, batch_first=True)),
    "multi-head, weights per head": lambda: Tokens(MultiHead(True, True, batch_first=True)),
    "multi-head, tokens first": lambda: Tokens(MultiHead(), dim=0),
    "multi-head, no bias": lambda: Tokens(MultiHead(batch_first=True, bias=False)),
    "scaled dot product": lambda: Tokens(Dotted()),
    "learned queries": lambda: Tokens(Queries()),
    "encoder": lambda: Tokens(layers(batch_first=True)),
    "encoder, norm first": lambda: Tokens(layers(batch_first=True, norm_first=True)),
}


@pytest.mark.parametrize("name", ATTENTION)
def test_attention_between_tokens_is_aligned_by_the_patch(name: str) -> None:
    torch.manual_seed(0)
    model = ATTENTION[name]().double().eval()
    conversion = convert(model, images())
    assert [(a.stride, a.full) for a in conversion.plan.alignments] == [((4, 4), False)]
    assert conversion.plan.any_size
    require_invariant(conversion.model)
    require_invariant(conversion.model, images(48))
    assert deviation(model, images()) > 1e-3  # the control


@pytest.mark.parametrize("option", ["attn_mask", "add_bias_kv", "add_zero_attn"])
def test_attention_that_knows_positions_is_aligned_as_a_whole(option: str) -> None:
    torch.manual_seed(0)
    given = {} if option == "attn_mask" else {option: True}
    mixer = MultiHead(batch_first=True, **given)
    mixer.mask = torch.randn(64, 64, dtype=torch.float64) if option == "attn_mask" else None
    model = Tokens(mixer).double().eval()
    conversion = convert(model, images())
    assert any(alignment.full for alignment in conversion.plan.alignments)
    require_invariant(conversion.model)


GLOBAL = {
    "average": lambda: nn.AvgPool2d(8),
    "maximum": lambda: nn.MaxPool2d(8),
    "stride 1": lambda: nn.AvgPool2d(8, 1),
    "ceil mode": lambda: nn.MaxPool2d(8, 3, ceil_mode=True),
    "size of the map": lambda: Function(lambda x: F.avg_pool2d(x, x.shape[2:])),
}


def pooled(pool: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    convolutions = [nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1)]
    return nn.Sequential(*convolutions, pool, nn.Flatten(), nn.Linear(8, 4)).double().eval()


@pytest.mark.parametrize("name", GLOBAL)
def test_a_pool_over_the_whole_map_needs_no_alignment(name: str) -> None:
    conversion = convert(pooled(GLOBAL[name]()), images())
    assert [a.stride for a in conversion.plan.alignments] == [(2, 2), (2, 2)]
    assert certify(conversion.model, images()).is_invariant
    with torch.no_grad():
        mean = name in ("average", "stride 1", "size of the map")
        other = nn.AdaptiveAvgPool2d(1) if mean else nn.AdaptiveMaxPool2d(1)
        expected = convert(pooled(other), images()).model(images())
        torch.testing.assert_close(conversion.model(images()), expected)


@pytest.mark.parametrize("kind", [nn.AvgPool2d, nn.MaxPool2d])
def test_a_pool_beyond_the_map_is_one_window_at_this_size(kind: type[nn.Module]) -> None:
    conversion = convert(pooled(kind(10, ceil_mode=True)), images())
    assert conversion.plan.notes == (
        f"for this size only: 3 ({kind.__name__}) is one window over a map of this size",
    )
    require_invariant(conversion.model)
    with pytest.raises(ValueError, match="of the size it was converted for, 32x32, got 64x64"):
        conversion.model(images(64))


def test_a_stride_beyond_the_map_is_refused_at_once() -> None:
    with pytest.raises(ConversionError, match="a map of 8x8 with stride 640x640, which must div"):
        convert(pooled(nn.AvgPool2d(3, 640, ceil_mode=True)), images())


@pytest.mark.parametrize(
    ("model", "dtype"),
    [
        (nn.Conv2d(3, 4, 3, 2, 1, dtype=torch.complex64), torch.complex64),
        (Function(lambda x: x[:, :, ::2, ::2].abs()), torch.complex64),
        (Function(lambda x: x[:, :, ::2, ::2].float() / 255), torch.uint8),
    ],
    ids=["complex convolution", "complex slices", "slices of bytes"],
)
def test_what_cannot_be_scored_is_refused_in_a_line(model: nn.Module, dtype: torch.dtype) -> None:
    x = (100 * torch.rand(2, 3, 32, 32)).to(dtype)
    with pytest.raises(ConversionError, match="must be made of real floating-point numbers, got"):
        convert(model, x)


def test_complex_maps_inside_are_aligned_as_a_whole() -> None:
    class Spectrum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 4, 3, 2, 1)
            self.weight = nn.Parameter(torch.randn(4, 16, 9, dtype=torch.complex128))

        def forward(self, x: Tensor) -> Tensor:
            spectrum = torch.fft.rfft2(self.first(x)) * self.weight
            return torch.fft.irfft2(spectrum).relu().mean((2, 3))

    require_invariant(convert(Spectrum().double(), images()).model)


GRAPHS = {
    "traced": lambda m: torch.fx.symbolic_trace(m),
    "exported": lambda m: torch.export.export(m, (images(),)).module(),
    "a part": lambda m: nn.Sequential(torch.fx.symbolic_trace(m), nn.ReLU()),
}


@pytest.mark.parametrize("kind", GRAPHS)
def test_a_graph_whose_copies_would_lose_the_conversion_is_refused(kind: str) -> None:
    model = body(Function(lambda x: F.max_pool2d(x, 3, 2, 1))).double()
    with pytest.raises(ConversionError, match=r"a graph of torch\.fx, whose copies lose it; conv"):
        convert(GRAPHS[kind](model), images())


def test_a_graph_of_layers_is_converted_and_so_are_its_copies() -> None:
    layers = [nn.Conv2d(3, 8, 3, 2, 1), nn.MaxPool2d(3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1)]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    converted = convert(torch.fx.symbolic_trace(model.double()), images()).model
    require_invariant(converted)
    require_invariant(copy.deepcopy(converted))


def test_an_exported_program_is_no_module() -> None:
    program = torch.export.export(nn.Conv2d(3, 4, 3, 2), (images().float(),))
    with pytest.raises(TypeError, match="got ExportedProgram; convert the module it was made from"):
        convert(program, images())


def test_a_size_that_is_too_small_to_tell_is_named_with_its_reason() -> None:
    torch.manual_seed(0)
    convolutions = [nn.Conv3d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv3d(8, 8, 3, 2, 1)]
    model = nn.Sequential(*convolutions, nn.Conv3d(8, 4, 3, 1, 1)).double()
    small, large = (torch.randn(1, 3, size, 32, 32).double() for size in (4, 8))
    (note,) = convert(model, small).plan.notes
    assert note == (
        "for this size only: at 8x40x44 3 would be changed otherwise; convert with an example of "
        "that size"
    )
    assert convert(model, large).plan.any_size


class Quantised(nn.Module):
    """What quantisation fuses, in a residual block behind a pool."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.conv = nn.Conv2d(8, 8, 3, 2, 1)
        self.shortcut = nn.Conv2d(8, 8, 1, 2)
        self.relu = nn.ReLU()
        self.last = nn.AvgPool2d(2)
        self.average = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.stem(x))
        x = self.last(self.relu(self.conv(x) + self.shortcut(x)))
        return self.fc(self.average(x).flatten(1))


@pytest.mark.filterwarnings("ignore")  # torch's own, about its quantisation and its observers
@pytest.mark.parametrize("name", ["own", pytest.param("resnet18", marks=pytest.mark.slow)])
def test_a_converted_network_is_quantised_to_eight_bits(name: str) -> None:
    from torch.ao.quantization import get_default_qconfig_mapping
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    models = pytest.importorskip("torchvision").models
    torch.manual_seed(0)
    model = (Quantised() if name == "own" else models.resnet18(weights=None)).eval()
    x = images(64).float()
    converted = convert(model, x).model
    prepared = prepare_fx(copy.deepcopy(converted), get_default_qconfig_mapping("x86"), (x,))
    prepared(x)
    quantised = convert_fx(prepared)
    with torch.no_grad():
        logits = quantised(x)
        for shift in ((1, 0), (3, 6), (17, 30)):
            assert torch.equal(quantised(x.roll(shift, (2, 3))), logits)
        assert (logits - converted(x)).abs().max() < 0.2 * converted(x).std() + 0.02


def wide() -> nn.Module:
    """A window of 7 on a map of 2 x 2, as in small networks on small images."""
    torch.manual_seed(0)
    convolutions = [nn.Conv2d(3, 8, 8, 8), nn.ReLU(), nn.Conv2d(8, 8, 7, 1, 3)]
    return nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()


@pytest.mark.parametrize("padding_mode", ["circular", "reflect"])
def test_sizes_stay_open_where_a_padding_is_wider_than_the_example(padding_mode: str) -> None:
    x = images(16).float()
    model = convert(wide(), x).model
    if padding_mode == "reflect":
        model[2].padding_mode = "reflect"
    rows, columns = (Dim(name, min=2, max=32) for name in ("rows", "columns"))
    sizes = ({2: 8 * rows, 3: 8 * columns},)
    program = torch.export.export(model, (x,), dynamic_shapes=sizes).module()
    for y in (x, torch.randn(2, 3, 16, 64), torch.randn(2, 3, 96, 40)):
        torch.testing.assert_close(program(y), model(y))


@pytest.mark.slow
def test_sizes_stay_open_in_onnx_where_a_padding_is_wider(tmp_path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    x = images(16).float()
    model = convert(wide(), x).model
    rows, columns = (Dim(name, min=2, max=32) for name in ("rows", "columns"))
    sizes = ({2: 8 * rows, 3: 8 * columns},)
    program = torch.export.export(model, (x,), dynamic_shapes=sizes)
    torch.onnx.export(program, verbose=False).save(tmp_path / "wide.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "wide.onnx")
    name = session.get_inputs()[0].name
    for y in (x, torch.randn(2, 3, 96, 40)):
        still, moved = (
            session.run(None, {name: z.numpy()})[0] for z in (y, y.roll((3, 5), (2, 3)))
        )
        assert (still == moved).all()
        torch.testing.assert_close(torch.from_numpy(still), model(y).detach())


class Recorder(nn.Module):
    """Reads a map of its first stage from where a hook has put it, as transformers do."""

    def __init__(self, changes: bool) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, 2, 1)
        self.second = nn.Conv2d(8, 8, 3, 2, 1)
        self.lateral = nn.Conv2d(8, 4, 3, 1, 1)
        self.kept: list[Tensor] = []
        self.first.register_forward_hook(self.change if changes else self.keep)

    def keep(self, module: nn.Module, args: object, output: Tensor) -> None:
        self.kept.append(output)

    def change(self, module: nn.Module, args: object, output: Tensor) -> Tensor:
        self.kept.append(output.relu())
        return self.kept[-1]

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(self.first(x))
        lateral = self.lateral(self.kept.pop())
        return (lateral * F.interpolate(y, scale_factor=2.0)[:, :4]).amax((2, 3))


def test_what_a_hook_of_the_users_keeps_is_what_was_aligned() -> None:
    torch.manual_seed(0)
    require_invariant(convert(Recorder(changes=False).double().eval(), images()).model)


def test_a_hook_that_keeps_what_it_changes_is_refused_and_not_wrong() -> None:
    torch.manual_seed(0)
    with pytest.raises(ConversionError, match="must not change under a shift, got another output"):
        convert(Recorder(changes=True).double().eval(), images())


class Square(nn.Module):
    """A layer that forms a map."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(len(x), 3, 32, 32)


class Renewed(Square):
    """It is copied without its hooks, as layers of einops are."""

    def __getstate__(self) -> dict[str, object]:
        return {}

    def __setstate__(self, state: dict[str, object]) -> None:
        super().__init__()


class Reduced(Square):
    """Another way to be copied so."""

    def __reduce_ex__(self, protocol: object) -> tuple[object, ...]:
        return (type(self), ())


class Pooling(Renewed):
    """And a part of it would have to be changed."""

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, 3, 2, 1)


@pytest.mark.parametrize("kind", [Renewed, Reduced])
def test_a_layer_that_is_copied_without_its_hooks_is_aligned_behind_it(kind: type) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), kind(), body(nn.MaxPool2d(2))).double().eval()
    converted = convert(model, images()).model
    require_invariant(converted)
    require_invariant(copy.deepcopy(converted))


def test_a_layer_whose_copies_would_lose_its_change_is_refused() -> None:
    with pytest.raises(ConversionError, match="got 1, Pooling, which copies itself, whose copies"):
        convert(nn.Sequential(nn.Conv2d(3, 4, 1), Pooling()).double(), images())


class Pyramid(nn.Module):
    """Brings maps of several sizes to one in a single place, as decoders of Segformer do."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.stages = nn.ModuleList(nn.Conv2d(c, 4, 3, 2, 1) for c in (3, 4, 4, 4))
        self.mode = mode

    def forward(self, x: Tensor) -> Tensor:
        maps = []
        for stage in self.stages:
            x = stage(x).relu()
            maps.append(x)
        size = maps[0].shape[2:]
        return torch.cat([F.interpolate(y, size=size, mode=self.mode) for y in maps], 1)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic", "nearest"])
def test_one_place_enlarges_maps_of_several_sizes(mode: str) -> None:
    torch.manual_seed(0)
    conversion = convert(Pyramid(mode).double().eval(), images())
    assert not any(alignment.full for alignment in conversion.plan.alignments)
    assert certify(conversion.model, images()).is_invariant
    assert conversion.plan.any_size
    with torch.no_grad():
        y, moved = (conversion.model(images(64).roll(d, (2, 3))) for d in ((0, 0), (6, 14)))
        torch.testing.assert_close(moved, y.roll((3, 7), (2, 3)), rtol=0, atol=1e-9)


WIDER = {
    "even kernel": [nn.Conv2d(3, 8, 6, 1, 3)],
    "wider than half": [nn.Conv2d(3, 8, 3, 1, 2), nn.ReLU(), nn.Conv2d(8, 8, 3)],
    "with a stride": [nn.Conv2d(3, 8, 5, 2, 3)],
    "dilated": [nn.Conv2d(3, 8, 2, 1, 2, dilation=4)],
}


@pytest.mark.parametrize("name", WIDER)
def test_a_padding_that_adds_windows_gives_one_window_per_step(name: str) -> None:
    torch.manual_seed(0)
    tail = [nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    model = nn.Sequential(*copy.deepcopy(WIDER[name]), *tail).double().eval()
    conversion = convert(model, images())
    assert not any(alignment.full for alignment in conversion.plan.alignments)
    require_invariant(conversion.model)


@functools.lru_cache(maxsize=4)
def offsets(size: int) -> Tensor:
    """A tensor that a process makes once."""
    return torch.arange(size) % 3


def test_tensors_that_functools_keeps_are_not_left_without_values() -> None:
    torch.manual_seed(0)
    model = body(Function(lambda x: x.relu()), Function(lambda x: x[:, offsets(8)])).double().eval()
    offsets.cache_clear()
    converted = convert(model, images()).model
    require_invariant(converted)
    assert type(model(images())) is Tensor  # the user's own
    assert offsets(8).tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
