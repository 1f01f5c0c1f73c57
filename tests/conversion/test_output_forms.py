"""Outputs in every form that networks give them: from patches, channels last, boxes."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shiftproof import ops
from shiftproof.certification import certify
from shiftproof.conversion import call_with_offset, convert
from shiftproof.nn import AlignPhase2d


class Patches(nn.Module):
    """Patches as tokens, mixed, and put together to a map in one way or another."""

    def __init__(self, way: str, stride: int = 4, out: int = 3) -> None:
        super().__init__()
        self.way, self.stride, self.out = way, stride, out
        self.embed = nn.Conv2d(3, 8, stride, stride)
        self.mix = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True)
        self.head = nn.Linear(8, out * stride**2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.embed(x)
        (n, _, h, w), s, c = y.shape, self.stride, self.out
        tokens = self.head(self.mix(y.flatten(2).transpose(1, 2)))
        if self.way == "view and permute":
            blocks = tokens.view(n, h, w, s, s, c)
            return blocks.permute(0, 5, 1, 3, 2, 4).reshape(n, c, h * s, w * s)
        if self.way == "einsum":
            blocks = tokens.reshape(n, h, w, s, s, c)
            return torch.einsum("nhwpqc->nchpwq", blocks).reshape(n, c, h * s, w * s)
        if self.way == "fold":
            return F.fold(tokens.transpose(1, 2), (h * s, w * s), s, stride=s)
        if self.way == "channels last":
            blocks = tokens.view(n, h, w, s, s, c).permute(0, 1, 3, 2, 4, 5)
            return blocks.reshape(n, h * s, w * s, c)
        coarse = tokens[..., :c].transpose(1, 2).unflatten(2, (h, w))
        if self.way == "stack":
            rows = torch.stack([coarse, coarse + 1], 3).flatten(2, 3)
            return torch.stack([rows, rows * 2], 4).flatten(3, 4)
        wide = coarse[:, :, :, None, :, None].expand(n, c, h, s, w, s)
        return wide.reshape(n, c, h * s, w * s)


WAYS = ["view and permute", "einsum", "fold", "channels last", "stack", "expand"]


def seeded(make, *args, **options):
    torch.manual_seed(0)
    return make(*args, **options).double().eval()


def images(*sizes: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 3, *sizes, generator=generator, dtype=torch.float64)


@torch.no_grad()
def require_moves(model: nn.Module, x: Tensor, shift: tuple, dims: tuple, ratio: int = 1) -> None:
    """A shift of the input moves the output by as much, measured in its own pixels."""
    axes = tuple(range(2, x.ndim))
    y, moved = model(x), model(x.roll(shift, axes))
    expected = y.roll(tuple(d // ratio for d in shift), dims)
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-9)
    assert (y - expected).abs().max() > 1e-3


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("sizes", [(16, 24), (16, 16)])
def test_a_map_put_together_from_patches_moves_with_the_input(way: str, sizes: tuple) -> None:
    conversion = convert(seeded(Patches, way), images(*sizes))
    dims = (1, 2) if way == "channels last" else (2, 3)
    ratio = 2 if way == "stack" else 1
    for shift in [(2, 6), (4, 4), (6, 10)] + [(1, 0), (5, 7)] * (ratio == 1):
        require_moves(conversion.model, images(*sizes), shift, dims, ratio)
    certificate = certify(conversion.model, images(*sizes))
    assert certificate.is_invariant, str(certificate)
    assert certificate.kind == "equivariant"


def test_the_plan_says_which_output_was_taken_for_a_map_by_its_shape() -> None:
    notes = convert(seeded(Patches, "fold"), images(16, 24)).plan.notes
    assert any("output 0, of shape 2x3x16x24, is taken for a map by its shape" in n for n in notes)
    known = convert(nn.Conv2d(3, 4, 2, 2).double(), images(16, 24)).plan
    assert not any("by its shape" in note for note in known.notes)


class Grid(nn.Module):
    """One prediction for each cell, anchor and class, as detectors arrange it."""

    def __init__(self, order: tuple[int, ...]) -> None:
        super().__init__()
        self.order = order
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 12, 3, 2, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x).unflatten(1, (3, 4))  # (N, A, C, H, W)
        return y[:, 0, 0] if not self.order else y.permute(self.order)


ORDERS = {
    "anchors, classes": ((0, 1, 2, 3, 4), (3, 4)),
    "anchors, classes last": ((0, 1, 3, 4, 2), (2, 3)),
    "cells first": ((0, 3, 4, 1, 2), (1, 2)),
    "without channels": ((), (1, 2)),
}


@pytest.mark.parametrize("name", ORDERS)
def test_coarse_maps_of_more_dimensions_move_without_an_alignment_of_everything(name: str) -> None:
    order, dims = ORDERS[name]
    conversion = convert(seeded(Grid, order), images(16, 24))
    assert not any(a.full for a in conversion.plan.alignments)
    for shift in [(4, 8), (12, 4)]:
        require_moves(conversion.model, images(16, 24), shift, dims, 4)
    certificate = certify(conversion.model, images(16, 24))
    assert (certificate.is_invariant, certificate.kind) == (True, "equivariant"), str(certificate)


def test_channels_last_of_a_coarse_map() -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 5, 3, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x).permute(0, 2, 3, 1)

    conversion = convert(seeded(Last), images(16, 24))
    assert not any(a.full for a in conversion.plan.alignments)
    require_moves(conversion.model, images(16, 24), (4, 8), (1, 2), 4)
    assert certify(conversion.model, images(16, 24)).kind == "equivariant"


# Whatever stays where the content was aligned is told from what moves.


class Left(nn.Module):
    """A network whose map lies where a phase of the whole image was chosen."""

    def __init__(self, body: nn.Module, sizes: tuple[int, int], dims: tuple = ()) -> None:
        super().__init__()
        self.align, self.body, self.dims = AlignPhase2d(sizes), body, dims

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(self.align(x))
        return y.permute(self.dims) if self.dims else y


STAYING = {
    "two strides": (nn.Conv2d(3, 3, (2, 4), (2, 4)), (), True),
    "two strides, one finer": (nn.ConvTranspose2d(3, 3, (2, 1), (2, 1)), (), True),
    "one axis": (nn.Conv2d(3, 3, (2, 1), (2, 1)), (), True),
    "channels last": (nn.Conv2d(3, 3, 1), (0, 2, 3, 1), True),
    "channels last, coarse": (nn.Conv2d(3, 3, 4, 4), (0, 2, 3, 1), True),
    "two thirds": (nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(3, 3, 3, 3)), (), False),
    "windows that leave the border out": (nn.Conv2d(3, 3, 5, 3), (), False),
}


@pytest.mark.parametrize("name", STAYING)
def test_a_map_that_stays_is_never_called_one_that_moves(name: str) -> None:
    body, dims, is_map = STAYING[name]
    sizes = (24, 24) if not is_map else (16, 24)
    torch.manual_seed(0)
    certificate = certify(Left(body, sizes, dims).double(), images(*sizes))
    if is_map:
        assert certificate.verdict == "not invariant", str(certificate)
    else:  # by its shape nobody can tell; what it does is told
        assert (certificate.is_invariant, certificate.kind) == (True, "invariant")
        assert "may be a map of an input of 24x24 or not; it stayed the same" in str(certificate)


MOVING = {
    "two strides": ((2, 4), (16, 24)),
    "one axis": ((1, 2), (16, 24)),
    "two and three": ((2, 3), (16, 24)),
}


@pytest.mark.parametrize("name", MOVING)
def test_maps_of_another_stride_on_each_axis_move(name: str) -> None:
    stride, sizes = MOVING[name]
    network = nn.Sequential(nn.Conv2d(3, 4, 3, stride, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, 1, 1))
    converted = convert(network.double(), images(*sizes)).model
    assert certify(converted, images(*sizes)).kind == "equivariant"
    assert certify(converted, images(*sizes)).is_invariant
    with torch.no_grad():
        y = converted(images(*sizes))
        moved = converted(images(*sizes).roll((stride[0], 2 * stride[1]), (2, 3)))
        torch.testing.assert_close(moved, y.roll((1, 2), (2, 3)), rtol=0, atol=1e-9)


class Strides(nn.Module):
    """Maps of several strides, which need not divide one another."""

    def __init__(self, *strides: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3, 2, s + 1, s, s // 2) for s in strides)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [conv(x) for conv in self.convs]


@pytest.mark.parametrize("strides", [(2, 3), (4, 6), (3, 2, 4), (2, 8)])
@torch.no_grad()
def test_the_offset_holds_for_strides_that_do_not_divide_one_another(strides: tuple) -> None:
    x = images(24, 48)
    model = convert(seeded(Strides, *strides), x).model
    before, start = call_with_offset(model, x)
    for shift in [(1, 0), (2, 3), (5, 7), (12, 24), (23, 41)]:
        after, end = call_with_offset(model, x.roll(shift, (2, 3)))
        for s, old, new in zip(strides, before, after, strict=True):
            for row, other, o, p in zip(old, new, start % s, end % s, strict=True):
                there = o + torch.tensor(shift)
                assert torch.equal(there % s, p)
                cells = (there // s).long().tolist()
                torch.testing.assert_close(row.roll(cells, (1, 2)), other, rtol=0, atol=1e-9)


class Beside(nn.Module):
    """A heat map, and boxes that are decoded from it."""

    def __init__(self, maps: bool) -> None:
        super().__init__()
        self.body, self.maps = nn.Conv2d(3, 4, 5, 3), maps

    def forward(self, x: Tensor) -> object:
        y = self.body(x)
        return (F.avg_pool2d(x, 2), y) if self.maps else y


def test_the_note_on_a_map_that_stays_says_whether_the_offset_tells_where() -> None:
    (alone,) = convert(seeded(Beside, False), images(24, 24)).plan.notes[:1]
    assert alone.endswith("it cannot be moved back; call_with_offset tells where")
    notes = convert(seeded(Beside, True), images(24, 24)).plan.notes
    assert any(n.endswith("where if it is returned without the maps beside it") for n in notes)


def test_a_network_that_is_called_twice_has_no_offset() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = convert(nn.Conv2d(3, 2, 4, 4).double(), images(16, 16)).model

        def forward(self, x: Tensor) -> Tensor:
            return self.model(x) + self.model(x.flip(3))

    with pytest.raises(ValueError, match="call_with_offset: the network must be called once"):
        call_with_offset(Twice(), images(16, 16))


def test_what_aligns_nothing_is_told_that_its_offset_is_zero() -> None:
    model = convert(nn.Conv2d(3, 4, 3, 1, 1).double(), images(16, 16)).model
    with pytest.raises(TypeError, match="offset is 0"):
        call_with_offset(model, images(16, 16))


def test_outputs_of_no_map_stay_invariant() -> None:
    class Invariant(nn.Module):
        def __init__(self, *shape: int) -> None:
            super().__init__()
            self.body, self.shape = nn.Conv2d(3, 60, 3, 2, 1), shape

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x).relu().mean((2, 3)).unflatten(1, self.shape)

    for shape in [(60,), (5, 12), (3, 5, 4), (2, 5, 3, 2), (12, 5, 1)]:
        model = convert(seeded(Invariant, *shape), images(32, 32)).model
        certificate = certify(model, images(32, 32))
        assert (certificate.is_invariant, certificate.kind) == (True, "invariant"), shape


def test_control_a_phase_that_follows_nothing_is_found_in_any_form() -> None:
    for order, _ in ORDERS.values():
        certificate = certify(seeded(Grid, order), images(16, 24))
        assert certificate.verdict == "not invariant"


def test_images_of_a_size_that_does_not_fit_are_told_what_does() -> None:
    layers = [nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, 3, 1)]
    model = convert(nn.Sequential(*layers).double(), images(24, 48)).model
    assert model(images(6, 12)).shape == (2, 4, 1, 2)
    for sizes in [(23, 48), (26, 48), (24, 50)]:
        with pytest.raises(ValueError, match="sizes of the images must be multiples of 6x6"):
            model(images(*sizes))


# Faults that were found by looking for them.


class Queries(nn.Module):
    """Answers to learned queries about a sound ``(N, T, F)``: no map, though 6 divides 48."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv1d(5, 8, 4, 4), nn.Linear(96, 42)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x.transpose(1, 2)).flatten(1)).unflatten(1, (6, 7))


def test_no_map_of_images_on_other_axes_is_rolled() -> None:
    x = torch.randn(2, 48, 5, generator=torch.Generator().manual_seed(1)).double()
    model = convert(seeded(Queries), x, images={"x": (1,)}).model
    assert torch.equal(model(x), model(x.roll(13, 1)))
    certificate = certify(model, x, images={"x": (1,)})
    assert (certificate.is_invariant, certificate.kind) == (True, "invariant")


class Clip(nn.Module):
    """One map for a clip ``(N, T, C, H, W)``, behind a position embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.up = nn.Conv2d(3, 6, 4, 4), nn.ConvTranspose2d(6, 2, 4, 4)
        self.position = nn.Parameter(torch.randn(6, 4, 6))

    def forward(self, v: Tensor) -> Tensor:
        y = self.up(self.conv(v.flatten(0, 1)) + self.position)
        return y.unflatten(0, v.shape[:2]).mean(1)


def test_a_map_of_a_clip_is_moved_back() -> None:
    v = torch.randn(2, 4, 3, 16, 24, generator=torch.Generator().manual_seed(1)).double()
    model = convert(seeded(Clip), v, images={"v": (3, 4)}).model
    with torch.no_grad():
        y, moved = model(v), model(v.roll((5, 7), (3, 4)))
    torch.testing.assert_close(moved, y.roll((5, 7), (2, 3)), rtol=0, atol=1e-9)
    assert certify(model, v, images={"v": (3, 4)}).kind == "equivariant"


class Across(nn.Module):
    """A map that is not moved back along the axis on which it is coarser."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride, self.weight = stride, nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        place = x.abs().sum((1, 2)).argmax(1)
        shift = torch.stack([place * 0, -place], 1)
        return ops.circular_shift(x, shift)[:, :, :, :: self.stride] * self.weight


@pytest.mark.parametrize("stride", [2, 3, 4, 6, 8, 12])
def test_a_map_that_stays_along_one_axis_is_found(stride: int) -> None:
    assert certify(Across(stride).double(), images(16, 24)).verdict == "not invariant"


class Pyramid(nn.Module):
    """Three maps."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 2, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        y = self.first(x)
        return F.interpolate(y, scale_factor=2.0), y, self.last(y)


REGROUPED = [lambda y: y[1:], lambda y: (y[0].transpose(2, 3), *y[1:]), lambda y: (*y, y[0])]


@pytest.mark.parametrize("regroup", REGROUPED)
def test_hooks_of_the_network_that_regroup_its_maps_are_refused(regroup) -> None:
    model = seeded(Pyramid)
    model.register_forward_hook(lambda _m, _a, y: regroup(y))
    with pytest.raises(ValueError, match="hooks of the network itself must return outputs like"):
        convert(model, images(32, 32))
    wrapped = convert(nn.Sequential(model), images(32, 32)).model
    assert certify(wrapped, images(32, 32)).kind == "equivariant"


def test_an_output_that_nobody_can_look_into_is_refused() -> None:
    class Hidden:
        def __init__(self, value: Tensor) -> None:
            self.value = value

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, 2, 1)

        def forward(self, x: Tensor) -> Hidden:
            return Hidden(self.conv(x))

    with pytest.raises(ValueError, match=r"must return tensors, .* got Hidden"):
        convert(Network().double(), images(16, 24))


def test_a_pooled_vector_in_the_shape_of_a_map_has_no_place() -> None:
    pooled = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Unflatten(1, (4, 2, 2))]
    conversion = convert(nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), *pooled), images(16, 24).float())
    assert not any("stays" in note for note in conversion.plan.notes)
