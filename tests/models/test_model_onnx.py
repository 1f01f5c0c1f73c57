"""Exported to ONNX, networks keep the same pixels in onnxruntime, ties included."""

import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from model_samples import DIFFERENT, ROUNDING, build, relative_difference, views
from torch.export import Dim

from shiftproof.models.downsampling import SeparatePools, StridedConvs
from shiftproof.models.resnet import BasicBlock, ResNet, Trunk
from shiftproof.ops import circular_shift

SHIFTS = ((1, 0), (0, 1), (3, -5), (-14, 11))

# The exporter takes half a minute for a ResNet-18.
SMALL = Trunk(BasicBlock, (1, 1), (8, 16), True, 10)
PLACEMENTS = {"aps3": SeparatePools(kernel_size=3), "pa": StridedConvs(aligned=True)}


def small(downsampling):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return ResNet(SMALL, downsampling)


def photographs(height, width):
    return (F.interpolate(views(), (height, width), mode="area") - 0.45) / 0.225


def of_every_kind(height, width):
    half, quarter = photographs(height, width // 2), photographs(height // 2, width // 2)
    return {
        "photographs": photographs(height, width),
        "mirrored": torch.cat([half, half.flip(3)], 3),
        "enlarged": quarter.repeat_interleave(2, 2).repeat_interleave(2, 3),
    }


@torch.no_grad()
def exported(model, images, any_size=False):
    """The network in onnxruntime, for any batch; images decide the classes, not random biases."""
    model.eval()
    model.fc.bias -= model(images).mean(0)
    step = model.total_stride
    sizes = {2: step * Dim("rows", max=64), 3: step * Dim("columns", max=64)} if any_size else {}
    program = torch.onnx.export(
        model,
        (images[:2],),
        dynamo=True,
        input_names=["images"],
        dynamic_shapes=({0: Dim("batch", max=64), **sizes},),
        verbose=False,
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        program.model_proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return lambda x: torch.from_numpy(session.run(None, {"images": x.numpy()})[0])


@torch.no_grad()
def assert_keeps_the_promise(run, model, *size):
    for kind, images in of_every_kind(*size).items():
        expected = model(images)
        assert relative_difference(run(images), expected) < ROUNDING, kind
        for shift in SHIFTS:
            moved = run(circular_shift(images, shift))
            assert relative_difference(moved, run(images)) < ROUNDING, kind
            assert torch.equal(moved.argmax(1), expected.argmax(1)), kind


def worst_difference(run, images):
    moved = [run(circular_shift(images, shift)) for shift in SHIFTS]
    return max(relative_difference(logits, run(images)) for logits in moved)


@pytest.mark.slow
@pytest.mark.parametrize("placement", ["aps3", "pa"])
def test_logits_under_shifts(placement):
    model = small(PLACEMENTS[placement])
    assert_keeps_the_promise(exported(model, photographs(16, 24)), model, 16, 24)


@pytest.mark.slow
def test_a_plain_network_changes_its_logits_and_classes():
    images = photographs(16, 24)
    run = exported(small(StridedConvs()), images)
    assert worst_difference(run, images) > DIFFERENT
    moved = [run(circular_shift(images, shift)).argmax(1) for shift in SHIFTS]
    assert not all(torch.equal(classes, run(images).argmax(1)) for classes in moved)


@pytest.mark.slow
def test_without_the_tie_rule_symmetric_images_change_their_logits(monkeypatch):
    monkeypatch.setattr("shiftproof.ops.scores.find_ties", first_best)
    # Only images themselves tie: convolutions of random weights break their symmetry.
    run = exported(small(PLACEMENTS["pa"]), photographs(16, 24))
    images = of_every_kind(16, 24)
    assert worst_difference(run, images["photographs"]) < ROUNDING
    assert worst_difference(run, images["mirrored"]) > DIFFERENT
    assert worst_difference(run, images["enlarged"]) > DIFFERENT


def first_best(scores):
    return torch.arange(scores.shape[1]) == scores.argmax(1, keepdim=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("cifar_resnet20_aps3", [(32, 32), (16, 24)]),
        ("cifar_resnet20_pa", [(32, 32), (16, 24)]),
        ("resnet18_aps3", [(64, 64), (96, 128), (224, 224)]),
        ("resnet18_pa", [(64, 64), (96, 128), (224, 224)]),
    ],
)
def test_one_file_of_a_network_of_the_zoo_serves_every_size(name, sizes):
    model = build(name)
    run = exported(model, photographs(*sizes[0]), any_size=True)
    for size in sizes:
        assert_keeps_the_promise(run, model, *size)
