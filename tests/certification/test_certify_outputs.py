import torch
from certified import build, noise
from small_networks import Aligned, circular
from torch import nn

import shiftproof.nn
from shiftproof import ops
from shiftproof.certification import certify
from shiftproof.nn import AlignPhase2d, PolyphaseDownsample2d, PolyphaseUpsample2d


class UNet(nn.Module):
    """Down and up again, with the phase of the way down or with a fixed one."""

    def __init__(self, adaptive=True):
        super().__init__()
        self.adaptive = adaptive
        self.first = circular(2, 4)
        self.select = shiftproof.nn.SelectPhase2d(2)
        self.down = PolyphaseDownsample2d(2)
        self.middle = circular(4, 4)
        self.up = PolyphaseUpsample2d(2)
        self.last = circular(8, 1)

    def forward(self, x):
        x = self.first(x).relu()
        phase = self.select(x)
        y = self.middle(self.down(x, phase)).relu()
        y = self.up(y, phase if self.adaptive else torch.zeros_like(phase))
        return self.last(torch.cat([x, y], 1))


def test_a_u_shaped_network_is_equivariant():
    certificate = certify(build(UNet), noise(2, 2, 16, 16))
    assert certificate.verdict == "exact"
    assert certificate.kind == "equivariant"
    assert certificate.flipped is None
    assert str(certificate).startswith("exact: the output must move with the input")


def test_control_upsampling_at_a_fixed_phase_is_not():
    certificate = certify(build(lambda: UNet(adaptive=False)), noise(2, 2, 16, 16))
    assert certificate.verdict == "not invariant"
    assert certificate.blame.reason.startswith("a phase that the map was not taken at")
    assert str(certificate).startswith("not equivariant")


def test_a_map_of_the_inputs_size_must_move_by_exactly_the_shift():
    certificate = certify(build(Aligned), noise(2, 2, 16, 16))
    assert certificate.verdict == "not invariant"
    assert certificate.blame[:2] == ("align", "AlignPhase2d")
    assert certificate.blame.reason.startswith("its output lies where the phase was chosen")


def test_a_smaller_map_may_move_by_any_circular_shift():
    certificate = certify(PolyphaseDownsample2d(2), noise(2, 2, 16, 16))
    assert (certificate.verdict, certificate.kind) == ("exact", "equivariant")
    assert certify(nn.AvgPool2d(2), noise(2, 2, 16, 16)).verdict == "not invariant"


def test_a_larger_map_must_move_by_the_shift_times_the_ratio():
    nearest = nn.Upsample(scale_factor=2)
    assert certify(nearest, noise(2, 2, 8, 8)).verdict == "exact"
    still = nn.Sequential(AlignPhase2d(8), nearest)
    assert certify(still, noise(2, 2, 8, 8)).verdict == "not invariant"


def test_label_maps_count_as_maps():
    network = build(lambda: circular(2, 4))
    certificate = certify(lambda x: network(x.float()).argmax(1), noise(2, 2, 8, 8))
    assert (certificate.verdict, certificate.kind) == ("exact", "equivariant")


def test_every_tensor_of_the_output_is_checked():
    def model(x):
        return {"map": x.relu(), "others": (ops.global_mean(x), [None, "text"])}

    def broken(x):
        return {"map": x.relu(), "others": (ops.global_mean(x), x[:, :, 0, 0])}

    certificate = certify(model, noise(2, 3, 8, 8))
    assert (certificate.verdict, certificate.kind) == ("exact", "mixed")
    assert certify(broken, noise(2, 3, 8, 8)).verdict == "not invariant"


def test_an_output_without_a_batch_axis_is_compared_as_a_whole():
    assert certify(lambda x: ops.global_mean(x).sum(), noise(2, 3, 8, 8)).verdict == "exact"
    assert certify(lambda x: x[..., 0].sum(), noise(2, 3, 8, 8)).verdict == "not invariant"
