import pytest
import torch
from model_samples import build, noise
from torchvision.models.feature_extraction import create_feature_extractor

# A compiled graph may fuse a multiplication and an addition.
ROUNDING = 1e-5


@pytest.fixture
def _fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.slow
@pytest.mark.usefixtures("_fresh_compiler")
@pytest.mark.parametrize("name", ["cifar_resnet20_aps1", "cifar_resnet20_pa"])
def test_compiles_into_one_graph(name):
    model = build(name)
    images = noise(4, 3, 8)
    expected = model(images)
    expected.sum().backward()
    gradient = model.conv1.weight.grad.clone()
    model.zero_grad()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    actual = compiled(images)
    actual.sum().backward()
    torch.testing.assert_close(actual, expected, rtol=ROUNDING, atol=ROUNDING)
    torch.testing.assert_close(model.conv1.weight.grad, gradient, rtol=1e-3, atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "last"),
    [
        ("cifar_resnet20", "layer3"),
        ("cifar_resnet20_lpf3", "layer3"),
        ("resnet18_aps3", "layer4"),
        ("resnet18_pa", "layer4"),
    ],
)
def test_feature_extractor(name, last):
    model = build(name).eval()
    features = create_feature_extractor(model, return_nodes=["layer2", last, "fc"])
    expected = {}
    for layer in ("layer2", last, "fc"):
        getattr(model, layer).register_forward_hook(
            lambda _module, _inputs, output, layer=layer: expected.update({layer: output})
        )
    # Another batch and size than any that tracing could have fixed.
    for batch, size in [(2, 2), (3, 4)]:
        images = noise(batch, 3, size * model.total_stride)
        model(images)
        actual = features(images)
        assert list(actual) == ["layer2", last, "fc"]
        for layer, output in expected.items():
            assert torch.equal(actual[layer], output)
