"""What users do with a network of torchvision, done with the converted one."""

import copy
import io
import pickle
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from shiftproof.certification.orbit import largest_difference
from shiftproof.certification.outputs import spread
from shiftproof.conversion import Conversion, ConversionError, apply_plan, convert
from shiftproof.conversion.plan import ConversionPlan

models = pytest.importorskip("torchvision.models")
feature_extraction = pytest.importorskip("torchvision.models.feature_extraction")

ALL = models.list_models(module=models)
SIZES = {"inception_v3": 96, "maxvit_t": 224, "vit_h_14": 84, "alexnet": 96, "vgg": 96}
SMALL = {
    *(
        "alexnet",
        "convnext_tiny",
        "densenet121",
        "efficientnet_b0",
        "efficientnet_v2_s",
        "googlenet",
    ),
    *("inception_v3", "maxvit_t", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "resnet18"),
    *("regnet_x_400mf", "regnet_y_400mf", "resnet50", "resnext50_32x4d", "shufflenet_v2_x0_5"),
    *("squeezenet1_1", "swin_t", "swin_v2_t", "vgg11", "vgg11_bn", "vit_b_32", "wide_resnet50_2"),
}


def slow_but(*quick: str, names: Iterable[str] = ALL) -> list[object]:
    return [pytest.param(name, marks=[] if name in quick else [pytest.mark.slow]) for name in names]


NAMES = slow_but("resnet18", "mobilenet_v2")


def size_of(name: str) -> int:
    return next((size for key, size in SIZES.items() if name.startswith(key)), 64)


@dataclass(frozen=True)
class Made:
    model: nn.Module
    conversion: Conversion
    images: Tensor
    is_small: bool


@pytest.fixture(scope="module")
def made(request: pytest.FixtureRequest) -> Made:
    name = request.param
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options = {"image_size": size_of(name)} if name.startswith("vit") else {}
        model = models.get_model(name, weights=None, **options).eval()
    x = torch.randn(2, 3, size_of(name), size_of(name))
    return Made(model, convert(model, x), x, name in SMALL)


def assert_close(actual: Tensor, expected: Tensor) -> None:
    """To rounding, in the unit of the outputs: those of random weights span 1e-14 to 1e12."""
    deviation = largest_difference(expected[None], actual[None]) / spread(expected)
    assert float(deviation) <= 1e-4


def outputs(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x)


@pytest.mark.parametrize("made", NAMES, indirect=True)
def test_the_object_is_the_users(made: Made) -> None:
    model, conversion, x = made.model, made.conversion, made.images
    converted = conversion.model
    assert type(converted) is type(model)
    assert [n for n, _ in converted.named_modules()] == [n for n, _ in model.named_modules()]
    for (_, module), (_, twin) in zip(
        model.named_modules(), converted.named_modules(), strict=True
    ):
        assert isinstance(twin, type(module))
        changed = {"forward", "_forward_hooks", "_forward_pre_hooks", "padding_mode"}
        changed |= {"_forward_pre_hooks_with_kwargs", "_parameters", "_buffers", "_modules"}
        for key, value in vars(module).items():
            if key not in changed and isinstance(value, (int, float, str, tuple, bool)):
                assert vars(twin)[key] == value
    fired = set()
    called = set()
    for network, seen in ((copy.deepcopy(converted), fired), (copy.deepcopy(model), called)):
        for module_name, module in network.named_modules():
            module.register_forward_hook(
                lambda *_, module_name=module_name, seen=seen: seen.add(module_name)
            )
        outputs(network, x)
    assert fired == called
    converted.load_state_dict(model.state_dict(), strict=True)
    model.load_state_dict(converted.state_dict(), strict=True)


@pytest.mark.parametrize("made", NAMES, indirect=True)
def test_copies_and_plans(made: Made) -> None:
    model, conversion, x = made.model, made.conversion, made.images
    expected = outputs(conversion.model, x)

    def saved_and_loaded() -> nn.Module:
        torch.save(conversion.model, buffer := io.BytesIO())
        buffer.seek(0)
        return torch.load(buffer, weights_only=False)

    for duplicate in (  # one at a time: the largest network has 2.5 GB
        lambda: copy.deepcopy(conversion.model),
        lambda: pickle.loads(pickle.dumps(conversion.model)),
        saved_and_loaded,
        lambda: apply_plan(ConversionPlan.from_dict(json_of(conversion.plan)), model),
    ):
        assert torch.equal(outputs(duplicate(), x), expected)
    parameters = dict(conversion.model.named_parameters())
    with torch.no_grad():
        called = torch.func.functional_call(conversion.model, parameters, (x,))
    assert torch.equal(called, expected)
    with pytest.raises(ConversionError, match="must not be converted yet"):
        convert(conversion.model, x)


def json_of(plan: ConversionPlan) -> dict:
    import json

    return json.loads(json.dumps(plan.as_dict()))


@pytest.mark.filterwarnings("ignore:NOTE. The nodes obtained by tracing the model in eval mode")
@pytest.mark.parametrize("made", NAMES, indirect=True)
def test_features_are_extracted(made: Made) -> None:
    conversion, x = made.conversion, made.images
    _, nodes = feature_extraction.get_graph_node_names(conversion.model)
    extractor = feature_extraction.create_feature_extractor(conversion.model, [nodes[-1]])
    result = outputs(extractor.eval(), x)[nodes[-1]]
    assert_close(result, outputs(conversion.model, x))


@pytest.mark.slow
@pytest.mark.parametrize("made", ALL, indirect=True)
def test_compiles(made: Made) -> None:
    conversion, x = made.conversion, made.images
    torch._dynamo.reset()
    backend = "aot_eager" if made.is_small else "eager"  # the latter takes minutes less
    compiled = torch.compile(conversion.model, backend=backend, fullgraph=True)
    assert_close(outputs(compiled, x), outputs(conversion.model, x))


@pytest.mark.slow
@pytest.mark.parametrize("made", ALL, indirect=True)
def test_exports(made: Made) -> None:
    conversion, x = made.conversion, made.images
    program = torch.export.export(conversion.model, (x,), strict=False)
    assert_close(outputs(program.module(), x), outputs(conversion.model, x))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:While compiling, we found certain side effects")
@pytest.mark.parametrize("made", ALL, indirect=True)
def test_exports_through_dynamo(made: Made) -> None:
    conversion, x = made.conversion, made.images
    program = torch.export.export(conversion.model, (x,), strict=True)
    assert_close(outputs(program.module(), x), outputs(conversion.model, x))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("made", ALL, indirect=True)
def test_runs_in_onnx(made: Made, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    conversion, x = made.conversion, made.images
    path = tmp_path / "model.onnx"
    # From the module itself, sizes are symbols and simplifying them takes minutes.
    program = torch.export.export(conversion.model, (x,), strict=False)
    torch.onnx.export(program, dynamo=True, verbose=False).save(path)
    session = onnxruntime.InferenceSession(path)
    source = session.get_inputs()[0].name
    (before,) = session.run(None, {source: x.numpy()})
    (after,) = session.run(None, {source: x.roll((3, 5), (2, 3)).numpy()})
    expected = outputs(conversion.model, x)
    assert_close(torch.from_numpy(before), expected)
    assert_close(torch.from_numpy(after), expected)
