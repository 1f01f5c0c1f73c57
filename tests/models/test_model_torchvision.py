import pytest
import torch
import torchvision
from model_samples import DIFFERENT, build, noise, relative_difference

TRUNKS = [
    "resnet18",
    "resnet50",
    *(pytest.param(f"resnet{depth}", marks=pytest.mark.slow) for depth in (34, 101, 152)),
]


def randomise(model):
    """Weights and statistics unlike any initial ones."""
    source = torch.Generator().manual_seed(3)
    for name, tensor in model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            tensor.fill_(17)
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5, generator=source)
        elif tensor.ndim == 1:
            tensor.add_(torch.randn(tensor.shape, generator=source), alpha=0.2)


@pytest.fixture(scope="module", params=TRUNKS)
def reference(request):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        model = getattr(torchvision.models, request.param)(weights=None)
    randomise(model)
    return request.param, model.eval()


@torch.no_grad()
def test_logits(reference):
    name, theirs = reference
    images = noise(3, 3, 64, 96)
    expected = theirs(images)
    for placement in ("", "_pa"):
        ours = build(name + placement, padding_mode="zeros").eval()
        ours.load_state_dict(theirs.state_dict(), strict=True)
        if placement:
            assert relative_difference(ours(images), expected) > DIFFERENT
        else:
            assert torch.equal(ours(images), expected)


def test_state_dict_has_the_same_keys_and_shapes_in_the_same_order(reference):
    name, theirs = reference
    expected = [(key, value.shape) for key, value in theirs.state_dict().items()]
    for placement in ("", "_lpf3", "_aps3", "_pa"):
        state = build(name + placement).state_dict()
        assert [(key, value.shape) for key, value in state.items()] == expected


def test_parameters_come_in_the_same_order(reference):
    name, theirs = reference
    expected = [key for key, _ in theirs.named_parameters()]
    assert [key for key, _ in build(f"{name}_aps3").named_parameters()] == expected


@torch.no_grad()
@pytest.mark.parametrize("placement", ["", "_pa"])
def test_odd_sizes_of_the_plain_network(placement):
    theirs = torchvision.models.resnet18(weights=None).eval()
    ours = build("resnet18" + placement, padding_mode="zeros").eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    images = noise(3, 3, 75, 53)
    if placement:
        with pytest.raises(ValueError, match="must be multiples of 32, got 75x53"):
            ours(images)
    else:
        assert torch.equal(ours(images), theirs(images))
