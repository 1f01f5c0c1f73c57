import pytest
import torch

import shiftproof
from benchmarks import published
from shiftproof import ops


@pytest.mark.parametrize(("trunk", "size"), [("resnet18", 64), ("cifar_resnet20", 16)])
def test_the_published_network_gives_the_logits_of_ours(trunk, size):
    ours = shiftproof.create_model(f"{trunk}_aps1", num_classes=None).eval()
    theirs = published.PublishedResNet(trunk).eval()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = ours(x)
        torch.testing.assert_close(theirs(x), expected, rtol=1e-4, atol=1e-5 * expected.std())
    # Control: another component gives other logits.
    plain = shiftproof.create_model(f"{trunk}_lpf1").eval()
    plain.load_state_dict(ours.state_dict())
    with torch.no_grad():
        assert (plain(x) - expected).abs().max() > 0.01 * expected.std()


def test_take_keeps_what_ours_keeps_and_has_its_gradient():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 4, 6, 8, dtype=torch.float64, generator=generator).requires_grad_()
    phase = ops.select_phase(x, 2)
    expected = ops.take_phase(x, phase, 2)
    kept, _ = published.take(x)
    torch.testing.assert_close(kept, expected, rtol=0, atol=0)
    gradient = torch.randn(kept.shape, dtype=torch.float64, generator=generator)
    ours, theirs = (torch.autograd.grad(y, x, gradient)[0] for y in (expected, kept))
    torch.testing.assert_close(theirs, ours, rtol=0, atol=0)


def test_norms_are_those_of_the_components():
    x = torch.randn(2, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    scores = published.norms(x)
    for number, (row, column) in enumerate(published.PHASES):
        part = x[:, :, row::2, column::2]
        torch.testing.assert_close(scores[:, number], part.square().sum((1, 2, 3)).sqrt())
