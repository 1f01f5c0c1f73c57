"""Networks recorded by `torch.jit.trace` and compiled to machine code by inductor."""

import io

import pytest
import torch
from model_samples import DIFFERENT, ROUNDING, build, noise, photographs, relative_difference

from shiftproof.ops import circular_shift

NAMES = ("cifar_resnet20_aps3", "cifar_resnet20_pa")
SHIFTS = ((1, 0), (0, 1), (3, -5), (-14, 11))

tracing = [
    pytest.mark.filterwarnings("ignore:.torch.jit.(trace|trace_method|save|load). is deprecated"),
    # Checks of sizes are not part of a trace, and need not be.
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]


def traced(name):
    """A network and its trace, saved and loaded; the batch of two it has seen has no ties."""
    model = build(name).eval()
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(model, noise(2, 3, 2 * model.total_stride)), file)
    file.seek(0)
    return model, torch.jit.load(file)


def of_every_kind(model):
    """Batches of five, of other sizes than the trace has seen, without and with ties."""
    images = photographs(model)
    images = torch.cat([images, noise(1, *images.shape[1:])])
    return {
        "photographs": images,
        "mirrored": torch.cat([images, images.flip(3)], 3),
        "enlarged": images.repeat_interleave(2, 2).repeat_interleave(2, 3),
    }


def worst_difference(run, images):
    moved = [run(circular_shift(images, shift)) for shift in SHIFTS]
    return max(relative_difference(logits, run(images)) for logits in moved)


class TestTrace:
    pytestmark = tracing

    @torch.no_grad()
    @pytest.mark.parametrize(
        "name",
        [*(pytest.param(n, marks=pytest.mark.slow) for n in (NAMES[0], "resnet18_pa")), NAMES[1]],
    )
    def test_serves_other_batches_sizes_and_ties(self, name):
        model, trace = traced(name)
        for kind, images in of_every_kind(model).items():
            assert torch.equal(trace(images), model(images)), kind
            assert worst_difference(trace, images) < ROUNDING, kind

    @torch.no_grad()
    def test_of_a_plain_network_changes_its_logits(self):
        model, trace = traced("cifar_resnet20")
        assert worst_difference(trace, photographs(model)) > DIFFERENT

    @pytest.mark.slow
    @torch.no_grad()
    def test_without_the_tie_rule_fails_on_symmetric_images(self, monkeypatch):
        monkeypatch.setattr("shiftproof.ops.scores.find_ties", first_best)
        # Only images themselves tie: convolutions of random weights break their symmetry.
        model, trace = traced("resnet18_pa")
        images = of_every_kind(model)
        assert worst_difference(trace, images["photographs"]) < ROUNDING
        assert worst_difference(trace, images["mirrored"]) > DIFFERENT
        assert worst_difference(trace, images["enlarged"]) > DIFFERENT


def first_best(scores):
    return torch.arange(scores.shape[1]) == scores.argmax(1, keepdim=True)


@pytest.fixture
def _fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.slow
@pytest.mark.usefixtures("_fresh_compiler")
@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_inductor_serves_another_batch_without_compiling_again(name):
    model = build(name).eval()
    compiled = torch.compile(model, fullgraph=True, dynamic=True)
    # One size for all kinds, so that the batch alone changes.
    images = photographs(model)[:, :, :16, :16].contiguous()
    half, quarter = images[:, :, :, :8], images[:, :, :8, :8]
    kinds = {
        "photographs": images,
        "mirrored": torch.cat([half, half.flip(3)], 3),
        "enlarged": quarter.repeat_interleave(2, 2).repeat_interleave(2, 3),
    }
    compiled(noise(5, 3, 16))
    with torch.compiler.set_stance("fail_on_recompile"):
        for kind, x in kinds.items():
            assert relative_difference(compiled(x), model(x)) < ROUNDING, kind
            assert worst_difference(compiled, x) < ROUNDING, kind
