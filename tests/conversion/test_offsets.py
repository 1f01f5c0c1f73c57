"""Outputs coarser than the input: moved by whole cells, and the rest told."""

import json
import runpy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import shiftproof
from shiftproof import apply_plan, call_with_offset, certify, convert
from shiftproof.conversion.plan import ConversionPlan


class CenterNet(nn.Module):
    """Heat and offset maps at stride 4, from features at stride 8."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.second = nn.Conv2d(8, 8, 3, 2, 1)
        self.third = nn.Conv2d(8, 8, 3, 2, 1)
        self.heat = nn.Conv2d(16, 2, 3, padding=1)
        self.shift = nn.Conv2d(16, 2, 1)

    def forward(self, x):
        fine = self.second(self.stem(x).relu()).relu()
        coarse = nn.functional.interpolate(self.third(fine).relu(), scale_factor=2.0)
        both = torch.cat([fine, coarse], 1)
        return {"heat": self.heat(both), "shift": self.shift(both)}


class Pyramid(CenterNet):
    """Features at strides 2, 4 and 8."""

    def forward(self, x):
        first = self.stem(x).relu()
        second = self.second(first).relu()
        return [first, second, self.third(second)]


class Tokens(nn.Module):
    """Patches, a position embedding and one layer of attention: a map at stride 4."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 4, 4)
        self.position = nn.Parameter(torch.randn(1, 64, 8))
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True)

    def forward(self, x):
        y = self.embed(x)
        tokens = self.layer(y.flatten(2).transpose(1, 2) + self.position)
        return tokens.transpose(1, 2).unflatten(2, y.shape[2:])


class Boxes(Pyramid):
    """A box around every cell, decoded inside: no map."""

    def forward(self, x):
        heat = self.third(super().forward(x)[1])
        rows, columns = torch.meshgrid(torch.arange(4.0), torch.arange(4.0), indexing="ij")
        centres = 8 * torch.stack([rows, columns], -1).reshape(1, 16, 2)
        centres = centres.to(x)
        return centres + heat[:, :2].flatten(2).transpose(1, 2), heat[:, 2].flatten(1)


class Once(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 4, stride=4)

    def forward(self, x):
        return self.conv(x)


MAPS = {"centre net": CenterNet, "pyramid": Pyramid, "tokens": Tokens, "patches": Once}
SHIFTS = [(4, 8), (8, -4), (16, 12), (1, 0), (3, 5), (-1, 2), (7, 31), (13, 6)]


def seeded(make):
    torch.manual_seed(0)
    return make().eval()


def images(size=32, seed=0):
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(seed))


def maps_of(result) -> list[Tensor]:
    if isinstance(result, dict):
        return list(result.values())
    return [result] if isinstance(result, Tensor) else list(result)


@torch.no_grad()
def holds(model, x, shift) -> bool:
    """Whether every map lies where the shifted image says, with the offset that is told."""
    before, start = call_with_offset(model, x)
    after, end = call_with_offset(model, x.roll(shift, (2, 3)))
    for old, new in zip(maps_of(before), maps_of(after), strict=True):
        stride = x.shape[2] // old.shape[2]
        for row, other, o, p in zip(old, new, start % stride, end % stride, strict=True):
            amount = [(o[i].item() + shift[i]) // stride for i in range(2)]
            if not torch.equal(row.roll([int(a) for a in amount], (1, 2)), other):
                return False
            if [(o[i].item() + shift[i]) % stride for i in range(2)] != p.tolist():
                return False
    return True


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("shift", SHIFTS)
def test_maps_move_by_whole_cells_and_the_rest_is_told(name, shift):
    model = convert(seeded(MAPS[name]), images()).model
    assert all(holds(model, images(seed=seed), shift) for seed in range(3))


@pytest.mark.parametrize("name", MAPS)
def test_certify_tests_shifts_by_whole_cells(name):
    conversion = convert(seeded(MAPS[name]), images())
    certificate = certify(conversion.model, images(seed=1))
    assert certificate.verdict in ("exact", "to rounding")
    stride = 8 if name == "pyramid" else 4
    assert any(not any(d % stride for d in shift) for shift in certificate.shifts)


class Unplaced(nn.Module):
    """A converted network whose map is left where the phase was chosen."""

    def __init__(self):
        super().__init__()
        self.model = convert(seeded(Once), images()).model

    def forward(self, x):
        phase = shiftproof.ops.select_phase(x, 8)
        return self.model.conv(shiftproof.ops.align_phase(x, phase, 8))


def test_control_a_map_that_stays_where_the_phase_was_chosen_is_not_equivariant():
    assert certify(Unplaced().eval(), images()).verdict == "not invariant"


@pytest.mark.parametrize("shift", SHIFTS)
@torch.no_grad()
def test_boxes_move_with_the_image(shift):
    model = convert(seeded(Boxes), images()).model
    (boxes, scores), start = call_with_offset(model, images())
    (again, same), end = call_with_offset(model, images().roll(shift, (2, 3)))
    assert torch.equal(scores, same)
    assert torch.equal(boxes, again)
    assert torch.equal((end - start) % 32, (torch.tensor([shift, shift]) % 32).float())


def test_a_plan_keeps_it():
    conversion = convert(seeded(CenterNet), images())
    plan = ConversionPlan.from_dict(json.loads(json.dumps(conversion.plan.as_dict())))
    assert plan == conversion.plan
    assert holds(apply_plan(plan, seeded(CenterNet)), images(seed=5), (3, 5))


def test_logits_have_the_whole_offset():
    body = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = convert(body.eval(), images()).model
    with torch.no_grad():
        _, start = call_with_offset(model, images())
        _, end = call_with_offset(model, images().roll((1, 0), (2, 3)))
    assert torch.equal((end - start) % 2, torch.tensor([[1.0, 0.0]] * 2))


def test_another_size_has_its_own_cells():
    conversion = convert(seeded(CenterNet), images())
    assert conversion.plan.any_size
    assert holds(conversion.model, images(48), (4, 8))
    assert holds(conversion.model, images(48), (3, 47))


def test_a_coarse_map_exports():
    model = convert(seeded(CenterNet), images()).model
    x = images(seed=3).roll((5, 2), (2, 3))
    with torch.no_grad():
        expected = model(x)
        program = torch.export.export(model, (images(),), strict=False).module()
        for key, value in program(x).items():
            torch.testing.assert_close(value, expected[key])


def test_only_converted_networks_tell_an_offset():
    with pytest.raises(TypeError, match=r"must be one that convert returned, .* got CenterNet"):
        call_with_offset(seeded(CenterNet), images())
    plain = convert(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()).eval(), images()).model
    with pytest.raises(TypeError, match="call_with_offset: the model must"):
        call_with_offset(plain, images())


NARROW = {
    "one row": (nn.AdaptiveAvgPool2d((1, None)), (2, 3, 32, 32)),
    "one column": (nn.AdaptiveMaxPool2d((None, 1)), (2, 3, 32, 32)),
    "one frame": (nn.Conv3d(4, 4, 3, 1, 1), (2, 3, 4, 32, 32)),
}


@pytest.mark.parametrize("name", NARROW)
def test_a_map_that_came_down_to_one_position_along_an_axis_moves_along_the_others(name) -> None:
    last, shape = NARROW[name]
    torch.manual_seed(0)
    kind = nn.Conv3d if len(shape) == 5 else nn.Conv2d
    model = nn.Sequential(kind(3, 4, 3, 2, 1), nn.ReLU(), kind(4, 4, 3, 2, 1), last).double()
    x = torch.randn(shape, dtype=torch.float64)
    converted = shiftproof.convert(model.eval(), x).model
    certificate = shiftproof.certify(converted, x)
    assert certificate.is_invariant, str(certificate)
    with torch.no_grad():
        y = converted(x)
        for shift in [(4, 8, 12), (0, 4, 28)]:
            moved = converted(x.roll(shift[-len(shape) + 2 :], tuple(range(2, len(shape)))))
            expected = y.roll(
                [d // 4 for d in shift[-len(shape) + 2 :]], tuple(range(2, len(shape)))
            )
            torch.testing.assert_close(moved, expected, rtol=0, atol=1e-9)


ODD = {
    "unpadded windows": [nn.Conv2d(3, 4, 5, 3), nn.ReLU(), nn.AvgPool2d(3, 2)],
    "a padding that no window reads": [nn.Conv2d(3, 4, 3, 2, 1), nn.ZeroPad2d(1)],
    "a shift that no window reads": [nn.Upsample(scale_factor=2), nn.ZeroPad2d((1, 2, 1, 2))],
}


@pytest.mark.parametrize("name", ODD)
def test_a_map_whose_pixels_are_no_part_of_the_inputs_stays_and_the_plan_says_so(name) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 3, 3, 1, 1), *ODD[name]).double().eval()
    x = torch.randn(2, 3, 24, 36, dtype=torch.float64)
    conversion = convert(model, x)
    assert any("stays where the content was aligned" in note for note in conversion.plan.notes)
    assert certify(conversion.model, x).is_invariant
    for shift in [(12, 18), (5, 7)]:
        y, offset = call_with_offset(conversion.model, x)
        moved, other = call_with_offset(conversion.model, x.roll(shift, (2, 3)))
        torch.testing.assert_close(moved, y, rtol=0, atol=1e-9)
        size = torch.tensor(x.shape[2:])
        assert torch.equal((other - offset).remainder(size), torch.tensor([shift] * 2).float())


@pytest.mark.slow
def test_boxes_of_fcos_move_with_the_image(capsys) -> None:
    pytest.importorskip("torchvision")
    example = Path(__file__).parents[2] / "examples" / "detect_fcos.py"
    runpy.run_path(str(example), run_name="__main__")
    assert capsys.readouterr().out.splitlines() == [
        "moved by (0, 1): boxes by [(1, 0, 1, 0)]",
        "moved by (5, 0): boxes by [(0, 5, 0, 5)]",
        "moved by (17, 40): boxes by [(40, 17, 40, 17)]",
    ]


FINER = {
    "interpolation": [nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(4, 4, 5, 3, 3, 2)],
    "transposed convolution": [nn.ConvTranspose2d(4, 4, 2, 2), nn.Conv2d(4, 4, 7, 3, 3)],
    "pool": [nn.Upsample(scale_factor=2), nn.MaxPool2d(3)],
    "pixel shuffle": [nn.Conv2d(4, 16, 1), nn.PixelShuffle(2), nn.AvgPool2d(3)],
}


@pytest.mark.parametrize("name", FINER)
def test_a_stride_of_a_pixel_and_a_half_is_aligned_by_three_pixels(name) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1), *FINER[name]).double().eval()
    x = torch.randn(2, 3, 24, 36, dtype=torch.float64)
    converted = convert(model, x).model
    assert certify(converted, x).is_invariant
    y, _ = call_with_offset(converted, x)
    moved, _ = call_with_offset(converted, x.roll((3, 9), (2, 3)))
    torch.testing.assert_close(moved, y.roll((2, 6), (2, 3)), rtol=0, atol=1e-9)
