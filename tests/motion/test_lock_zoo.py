"""Locks in front of the networks of torchvision and timm: they run, and change nothing in place."""

import pytest
import torch
from torch import Tensor, nn

import shiftproof
from shiftproof.nested import tensors_in
from shiftproof.nn import FirstPhase

pytestmark = pytest.mark.slow
models = pytest.importorskip("torchvision.models")
coverage_models = pytest.importorskip("benchmarks.coverage_models")

SUBJECTS = {subject.key: subject for subject in coverage_models.subjects()}
SEGMENTATION = models.list_models(module=models.segmentation)


def check(model: nn.Module, images: Tensor) -> None:
    """A lock whose offset is zero changes nothing, and one that moves gives what is finite."""
    with torch.no_grad():
        plain = tensors_in(model(images.clone()))
        still = shiftproof.lock_grid(model, images, selector=FirstPhase())
        for expected, found in zip(plain, tensors_in(still(images.clone())), strict=True):
            torch.testing.assert_close(found, expected)
        locked = shiftproof.lock_grid(model, images)
        moved = tensors_in(locked(images.clone()))
    assert [y.shape for y in moved] == [y.shape for y in plain]
    assert all(y.isfinite().all() for y in moved)
    assert max(locked.summary.stride) <= 64  # no network of the zoos samples more coarsely
    assert locked.model is model


@pytest.mark.parametrize("key", sorted(SUBJECTS))
def test_classification(key: str) -> None:
    subject = coverage_models.named(SUBJECTS[key])
    model, size = coverage_models.build(subject, subject.size)
    check(model, coverage_models.draw_images(1, size))


@pytest.mark.parametrize("name", SEGMENTATION)
def test_segmentation(name: str) -> None:
    torch.manual_seed(0)
    model = models.get_model(name, weights=None, weights_backbone=None).eval()
    check(model, coverage_models.draw_images(1, 96))
    summary = shiftproof.lock_grid(model, torch.zeros(1, 3, 96, 96)).summary
    assert [output.steps for output in summary.outputs] == [(1, 1)] * len(summary.outputs)
    assert summary.outputs
