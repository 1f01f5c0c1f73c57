import copy
import pickle

import pytest
import torch
from convertible import NETWORKS, Residual, UNet, body, converted, network, original
from torch import nn

import shiftproof
from shiftproof.conversion import ConversionError, convert
from shiftproof.nn import FirstPhase

SHIFTS = [(1, 0), (0, 1), (3, 6), (17, 30)]


def images(size: int = 32, num: int = 2, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(num, 3, size, size, generator=generator, dtype=dtype)


def deviation(model: nn.Module, x: torch.Tensor) -> float:
    with torch.no_grad():
        before = model(x)
        after = [model(x.roll(shift, (2, 3))) for shift in SHIFTS]
    return max(float((logits - before).abs().max() / before.std()) for logits in after)


@pytest.mark.parametrize("name", NETWORKS)
def test_converted_network_is_invariant(name: str) -> None:
    assert deviation(converted(name).model.double(), images()) < 1e-9
    assert deviation(network(name).double(), images()) > 1e-4  # the control


@pytest.mark.parametrize("name", NETWORKS)
def test_converted_network_keeps_its_parameters(name: str) -> None:
    model, given = network(name), original(name)
    result = converted(name).model
    state = result.state_dict()
    assert list(state) == list(model.state_dict())
    for key, value in model.state_dict().items():
        assert torch.equal(state[key], value)
        assert torch.equal(given.state_dict()[key], value)
    result.load_state_dict(model.state_dict())
    assert [n for n, _ in result.named_parameters()] == [n for n, _ in model.named_parameters()]


CONVOLUTIONS = [
    *("strided", "stride of 4", "dilated", "grouped", "depthwise", "kernel smaller than stride"),
    *("padding reflect", "residual", "squeeze and excite", "channel shuffle", "space to depth"),
    *("space to depth by slices", "attention", "norms"),
    *(pytest.param(n, marks=pytest.mark.slow) for n in ("windows", "attention between patches")),
]


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_first_phase_gives_the_original_with_circular_padding(name: str) -> None:
    model = network(name)
    converted = convert(model, images(num=1), selector=FirstPhase()).model.double()
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and any(module.padding):
            module.__init__(
                *(module.in_channels, module.out_channels, module.kernel_size, module.stride),
                *(module.padding, module.dilation, module.groups, module.bias is not None),
                padding_mode="circular",
            )
    model.load_state_dict(converted.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(converted(images()), model.double()(images()))


@pytest.mark.slow
@pytest.mark.parametrize("depth", [18, 50])
def test_resnet_equals_the_zoo(depth: int) -> None:
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    model = getattr(torchvision.models, f"resnet{depth}")(num_classes=7).eval()
    for name, selector in ((f"resnet{depth}_pa", None), (f"resnet{depth}", FirstPhase())):
        reference = shiftproof.create_model(name, num_classes=7).eval()
        reference.load_state_dict(model.state_dict())
        conversion = convert(model, images(64, dtype=torch.float32), selector=selector)
        x = images(64, dtype=torch.float32)
        with torch.no_grad():
            torch.testing.assert_close(conversion.model(x), reference(x), rtol=1e-4, atol=1e-4)


def test_output_map_moves_with_the_input() -> None:
    torch.manual_seed(0)
    model = UNet().double().eval()
    conversion = convert(model, images(num=1))
    assert conversion.summary.notes == ()
    converted = conversion.model
    x = images()
    with torch.no_grad():
        before = converted(x)["out"]
        assert before.shape == model(x)["out"].shape
        for shift in SHIFTS:
            moved = converted(x.roll(shift, (2, 3)))["out"]
            torch.testing.assert_close(moved, before.roll(shift, (2, 3)), rtol=0, atol=1e-12)
        control = model(x.roll((1, 1), (2, 3)))["out"] - model(x)["out"].roll((1, 1), (2, 3))
    assert control.abs().max() > 1e-3


def test_any_size_and_any_batch() -> None:
    conversion = convert(network("residual"), images(num=1))
    assert conversion.summary.any_size
    converted = conversion.model.double()
    for size, num in ((32, 1), (48, 3), (16, 2)):
        assert deviation(converted, images(size, num)) < 1e-9


def test_fixed_size_is_checked() -> None:
    conversion = convert(network("flattened"), images(num=1))
    assert not conversion.summary.any_size
    assert deviation(conversion.model.double(), images(num=5)) < 1e-9
    with pytest.raises(ValueError, match=r"converted for, 32x32, got 64x64; convert again"):
        conversion.model(images(64))


def test_training_reaches_every_parameter() -> None:
    converted = convert(network("residual").train(), images(dtype=torch.float32)).model
    assert converted.training
    before = converted.get_submodule("body.2.norm1").running_mean.clone()
    converted(images(dtype=torch.float32)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in converted.parameters())
    assert not torch.equal(converted.get_submodule("body.2.norm1").running_mean, before)


def test_dropout_follows_the_mode() -> None:
    class Dropping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = body(nn.MaxPool2d(2))
            self.layer = nn.Dropout(0.5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.layer(x)
            return nn.functional.dropout(self.body(x), 0.5, training=self.training)

    converted = convert(Dropping().eval(), images(dtype=torch.float32)).model
    x = images(dtype=torch.float32)
    assert torch.equal(converted(x), converted(x))
    converted.train()
    assert (converted(x) == 0).any()
    assert not torch.equal(converted(x), converted(x))


def test_copies_and_pickles() -> None:
    converted = convert(network("residual"), images(dtype=torch.float32)).model
    x = images(dtype=torch.float32)
    for twin in (copy.deepcopy(converted), pickle.loads(pickle.dumps(converted))):
        assert torch.equal(twin(x), converted(x))
        assert list(twin.state_dict()) == list(converted.state_dict())


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        *("residual", "windows", "vision transformer", "functional pools"),
    ],
)
def test_compiles_and_exports(name: str) -> None:
    converted = convert(network(name), images(dtype=torch.float32)).model
    x = images(dtype=torch.float32)
    with torch.no_grad():
        expected = converted(x)
        compiled = torch.compile(converted, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), expected)
        exported = torch.export.export(converted, (x,)).module()
        torch.testing.assert_close(exported(x), expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["residual", "vision transformer", "functional pools"])
def test_runs_in_onnx(name: str, tmp_path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    converted = convert(network(name), images(dtype=torch.float32)).model
    x = images(dtype=torch.float32)
    torch.onnx.export(converted, (x,), dynamo=True, verbose=False).save(tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    source = session.get_inputs()[0].name
    (before,), (after,) = (
        session.run(None, {source: y.numpy()}) for y in (x, x.roll((3, 5), (2, 3)))
    )
    assert (before == after).all()
    torch.testing.assert_close(torch.from_numpy(before), converted(x).detach())


def test_kept_padding() -> None:
    model = network("residual")
    conversion = convert(model, images(), padding="keep", selector=FirstPhase())
    x = images(dtype=torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(conversion.model(x), model(x))
    assert not conversion.summary.paddings
    assert "borders" in str(conversion.summary)


def test_summary_names_what_changed() -> None:
    summary = convert(network("unpadded"), images(), selector=FirstPhase()).summary
    assert summary.geometry == ("body.2 (Conv2d): 30 to 32", "body.3 (Conv2d): 14 to 16")
    assert [alignment.stride for alignment in summary.alignments] == [(2, 2)]
    assert summary.alignments[0].readers == ("body.3 (Conv2d)",)
    assert "stride 2" in str(summary)
    assert summary.as_dict()["size"] == (32, 32)


def test_branches_share_a_phase() -> None:
    summary = convert(network("residual"), images()).summary
    assert [alignment.readers for alignment in summary.alignments] == [
        ("body.2.conv2 (Conv2d)", "body.2.shortcut (Conv2d)"),
        ("body.4.conv2 (Conv2d)", "body.4.shortcut (Conv2d)"),
    ]
    assert not any(alignment.sampled for alignment in summary.alignments)


def test_a_window_that_is_alone_reads_from_the_phase_itself() -> None:
    summary = convert(network("strided"), images()).summary
    assert [(a.site.kind, a.site.module) for a in summary.alignments] == [
        ("input", "body.0"),
        ("window", "body.4"),
    ]


LOCAL = ["blur pool", "padding like TensorFlow", "windows", "exits", "attention between patches"]


@pytest.mark.parametrize("name", LOCAL)
def test_nothing_is_aligned_by_more_than_is_needed(name: str) -> None:
    summary = converted(name).summary
    assert not any(alignment.full for alignment in summary.alignments)


def test_the_choice_is_not_made_on_pixels_of_one_norm() -> None:
    class LayerNorm2d(nn.LayerNorm):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    for norm, where in ((LayerNorm2d(8), "body.2 (MaxPool2d)"), (nn.ReLU(), "body.3 (ReLU)")):
        model = body(nn.MaxPool2d(2), norm, nn.Conv2d(8, 8, 2, 2))
        assert convert(model, images()).summary.alignments[-1].where == where


def test_selector_is_copied() -> None:
    selector = FirstPhase()
    model = convert(network("strided"), images(), selector=selector).model
    hooks = [hook for m in model.modules() for hook in m._forward_pre_hooks.values()]
    selectors = [hook.aligner.selector for hook in hooks if hasattr(hook, "aligner")]
    assert [type(one) for one in selectors] == [FirstPhase, FirstPhase]
    assert len({id(one) for one in [selector, *selectors]}) == 3


def test_a_selector_with_parameters_is_refused() -> None:
    with pytest.raises(ValueError, match="a selector must have no parameters or buffers"):
        convert(network("strided"), images(), selector=nn.Linear(1, 1))


def test_indivisible_size_names_valid_ones() -> None:
    model = body(*(nn.Conv2d(8, 8, 3, 2, 1) for _ in range(3)))
    with pytest.raises(
        ConversionError,
        match=r"body.4 \(Conv2d\) samples a map of 9x9 with stride 2x2, which must divide it; "
        r"the nearest valid input sizes are 32x32 and 40x40",
    ):
        convert(model, images(36))


def test_a_network_that_refuses_the_example_is_named() -> None:
    with pytest.raises(ConversionError, match="the network must accept the example, got Runtime"):
        convert(nn.Conv2d(4, 4, 3), images())


class _DependsOnValues(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3)) if x.mean() > 0 else x.amax((2, 3))


def test_control_flow_on_values_is_refused() -> None:
    with pytest.raises(
        ConversionError, match=r"the network itself, which reads values that depend"
    ):
        convert(_DependsOnValues(), images())


class _Opaque(nn.Module):
    """Looks at values, and treats the first row in its own way."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x[:, :, :1] * 2, x[:, :, 1:]], 2) if x[0, 0, 0, 0] > -100 else x


def test_opaque_part_is_aligned_by_its_full_size() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), _Opaque(), nn.AdaptiveAvgPool2d(1))
    conversion = convert(model, images(16))
    assert conversion.summary.alignments[-1].full
    assert conversion.summary.alignments[-1].readers == ("1 (_Opaque)",)
    assert deviation(conversion.model.double(), images(16)) < 1e-9


def test_flattened_output_stays_the_same() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.Flatten(2))
    conversion = convert(model, images(16))
    assert conversion.summary.alignments[-1].reasons == ("an output that is no map",)
    assert deviation(conversion.model.double(), images(16)) < 1e-9


@pytest.mark.parametrize(
    ("model", "example", "options", "kind", "message"),
    [
        (len, torch.zeros(1, 3, 8, 8), {}, TypeError, "model must be a torch.nn.Module, got"),
        (nn.Conv2d(3, 3, 3), [1.0], {}, TypeError, "the images must be a tensor, got list"),
        (nn.Conv2d(3, 3, 3), torch.zeros(3, 8), {}, ValueError, r"got shape \(3, 8\)"),
        (
            nn.Conv2d(3, 3, 3),
            torch.zeros(1, 3, 8, 8),
            {"padding": "zeros"},
            ValueError,
            "padding must be 'circular' or 'keep', got 'zeros'",
        ),
    ],
)
def test_errors(model: object, example: object, options: dict, kind: type, message: str) -> None:
    with pytest.raises(kind, match=message):
        convert(model, example, **options)


def test_residual_control() -> None:
    # Branches that sample different phases are what the shared phase prevents.
    torch.manual_seed(0)
    block = Residual().double().eval()
    x = torch.randn(1, 8, 8, 8, dtype=torch.float64)
    mixed = block.conv2(block.norm1(block.conv1(x)).relu()) + block.shortcut(x.roll(1, 3))
    assert not torch.allclose(mixed.relu(), block(x))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cifar_resnet20_aps3", "cifar_resnet20_pa"])
def test_invariant_network_stays_as_it_is(name: str) -> None:
    model = shiftproof.create_model(name).double().eval()
    conversion = convert(model, images())
    assert conversion.summary.alignments == ()
    assert conversion.summary.paddings == ()
    with torch.no_grad():
        assert torch.equal(conversion.model(images()), model(images()))


@pytest.mark.parametrize(
    "name", ["cifar_resnet20", pytest.param("cifar_resnet20_lpf3", marks=pytest.mark.slow)]
)
def test_baseline_of_the_zoo_becomes_invariant(name: str) -> None:
    model = shiftproof.create_model(name).double().eval()
    assert deviation(convert(model, images()).model, images()) < 1e-9
    assert deviation(model, images()) > 1e-4


def test_old_names_warn() -> None:
    with pytest.warns(DeprecationWarning, match="example_input is now args"):
        conversion = convert(network("strided"), example_input=images())
    with pytest.warns(DeprecationWarning, match="ConversionSummary is now ConversionPlan"):
        assert isinstance(conversion.summary, shiftproof.conversion.ConversionSummary)
