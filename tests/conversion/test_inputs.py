"""What people call their networks with: several images, dicts, keywords, axes elsewhere."""

import collections
import copy
import json
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

import shiftproof
from shiftproof import apply_plan, certify, convert
from shiftproof.conversion.plan import ConversionPlan

SHIFT = (3, 5)


def seeded(make):
    torch.manual_seed(0)
    return make().eval()


class Body(nn.Module):
    """A stride, a border and a mean."""

    def __init__(self, channels=3):
        super().__init__()
        self.conv = nn.Conv2d(channels, 6, 3, 2, 1)
        self.last = nn.Conv2d(6, 5, 3, 2, 1)

    def forward(self, x):
        return self.last(self.conv(x).relu()).mean((2, 3))


class Stepped(Body):
    """Diffusion's way: an image, a time step and a prompt."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(1, 6)

    def forward(self, image, timestep, *, prompt=None, scale=2.0):
        y = self.conv(image) + self.embed(timestep[:, None])[:, :, None, None]
        y = y if prompt is None else y * prompt.mean((1, 2))[:, None, None, None]
        return self.last((y * scale).relu()).mean((2, 3))


class Pair(Body):
    """Two images, each with a stride of its own before they meet."""

    def __init__(self):
        super().__init__()
        self.other = nn.Conv2d(3, 6, 3, 2, 1)

    def forward(self, left, right):
        return self.last((self.conv(left) * self.other(right)).relu()).mean((2, 3))


class Masked(Body):
    """An image and a mask, joined before the first stride."""

    def __init__(self):
        super().__init__(4)

    def forward(self, batch):
        return super().forward(torch.cat([batch["image"], batch["mask"]], 1))


class Named(Body):
    def forward(self, *, pixel_values, labels=None):
        logits = super().forward(pixel_values)
        return collections.OrderedDict(logits=logits, labels=labels)


class Listed(Pair):
    def forward(self, images):
        return super().forward(*images)


def shifted(x, dims=(2, 3)):
    return x.roll(SHIFT[: len(dims)], dims)


def assert_moves(model, args, kwargs, moved_args, moved_kwargs):
    """A shift of the images changes no bit of the output, and did before the conversion."""
    with torch.no_grad():
        before, after = model(*args, **kwargs), model(*moved_args, **moved_kwargs)
    pairs = (
        [(before, after)] if isinstance(before, Tensor) else [(before["logits"], after["logits"])]
    )
    return all(torch.equal(old, new) for old, new in pairs)


def image(channels=3, size=16, seed=0, count=2):
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(seed))


X, Y, MASK = image(), image(seed=1), image(1, seed=2)
T = torch.tensor([3.0, 7.0])
PROMPT = torch.rand(2, 4, 8) + 0.5

CALLS = {
    "an image and a time step": (Stepped, (X, T), {}, (shifted(X), T), {}),
    "a prompt by keyword": (
        Stepped,
        (X, T),
        {"prompt": PROMPT},
        (shifted(X), T),
        {"prompt": PROMPT},
    ),
    "the time step first, by keyword": (
        Stepped,
        (),
        {"timestep": T, "image": X},
        (),
        {"timestep": T, "image": shifted(X)},
    ),
    "two images": (Pair, (X, Y), {}, (shifted(X), shifted(Y)), {}),
    "two images, one by keyword": (Pair, (X,), {"right": Y}, (shifted(X),), {"right": shifted(Y)}),
    "a dict": (
        Masked,
        ({"image": X, "mask": MASK},),
        {},
        ({"image": shifted(X), "mask": shifted(MASK)},),
        {},
    ),
    "keywords only": (Named, (), {"pixel_values": X}, (), {"pixel_values": shifted(X)}),
    "a list": (Listed, ([X, Y],), {}, ([shifted(X), shifted(Y)],), {}),
}


@pytest.mark.parametrize("name", CALLS)
def test_whatever_a_network_is_called_with_its_images_move_together(name):
    make, args, kwargs, moved_args, moved_kwargs = CALLS[name]
    model = seeded(make)
    assert not assert_moves(model, args, kwargs, moved_args, moved_kwargs)
    conversion = convert(model, args, kwargs)
    assert assert_moves(conversion.model, args, kwargs, moved_args, moved_kwargs)
    certificate = certify(conversion.model, args, kwargs)
    assert certificate.verdict == "exact"
    assert not certify(model, args, kwargs).is_invariant
    plan = ConversionPlan.from_dict(json.loads(json.dumps(conversion.plan.as_dict())))
    assert plan == conversion.plan
    again = apply_plan(plan, model)
    assert assert_moves(again, args, kwargs, moved_args, moved_kwargs)
    assert assert_moves(copy.deepcopy(again), args, kwargs, moved_args, moved_kwargs)


def test_control_images_that_move_alone_change_the_output():
    conversion = convert(seeded(Pair), (X, Y))
    with torch.no_grad():
        assert not torch.equal(conversion.model(X, Y), conversion.model(shifted(X), Y))


def test_a_converted_network_takes_its_images_by_position_and_by_name():
    pair = convert(seeded(Pair), (X, Y)).model
    stepped = convert(seeded(Stepped), (X, T)).model
    with torch.no_grad():
        assert torch.equal(pair(X, Y), pair(right=Y, left=X))
        assert torch.equal(pair(X, Y), pair(X, right=Y))
        assert torch.equal(stepped(X, T), stepped(timestep=T, image=X))
    with pytest.raises(
        TypeError, match="images must be passed as when it was converted, got no right"
    ):
        pair(X)


def test_optional_arguments_stay_optional():
    model = seeded(Stepped)
    converted = convert(model, (X, T)).model
    aligned = convert(model, (X, T), {"prompt": PROMPT}).model
    with torch.no_grad():
        a, b = (m(X, T, prompt=PROMPT, scale=1.0) for m in (converted, aligned))
        assert torch.equal(a, b)
        assert torch.equal(a, converted(shifted(X), T, prompt=PROMPT, scale=1.0))


def test_the_summary_says_what_moves():
    assert "left, right move together" in str(convert(seeded(Pair), (X, Y)).plan)
    text = str(convert(seeded(Stepped), (X, T)).plan)
    assert "image; 1 other tensor(s) stay as they are" in text
    assert "stay as they are" not in str(convert(seeded(Body), X).plan)


class Clip(nn.Module):
    """Video as (N, T, C, H, W): each frame by itself, then a mean over time."""

    def __init__(self):
        super().__init__()
        self.body = Body()

    def forward(self, clip):
        return self.body(clip.flatten(0, 1)).unflatten(0, clip.shape[:2]).mean(1)


class Audio(nn.Module):
    """Frames of features as (N, T, F), a stride over time."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(6, 8, 3, 2, 1)

    def forward(self, sound):
        return self.conv(sound.transpose(1, 2)).relu().mean(2)


class ChannelsLast(nn.Module):
    """Images as (N, H, W, C), and a map of the same form."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 2, 2)
        self.up = nn.ConvTranspose2d(8, 3, 2, 2)

    def forward(self, x):
        return self.up(self.conv(x.permute(0, 3, 1, 2)).relu()).permute(0, 2, 3, 1)


class Wave(nn.Module):
    """Samples without channels, (N, T)."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(1, 4, 4, 4)

    def forward(self, wave):
        return self.conv(wave[:, None]).relu().mean(2)


AXES = {
    "video": (Clip, torch.randn(2, 4, 3, 16, 16), (3, 4)),
    "audio": (Audio, torch.randn(2, 32, 6), (1,)),
    "channels last": (ChannelsLast, torch.randn(2, 16, 16, 3), (1, 2)),
    "wave": (Wave, torch.randn(2, 64), (-1,)),
    "height alone": (Body, torch.randn(2, 3, 16, 16), (2,)),
    "width alone": (Body, torch.randn(2, 3, 16, 16), (3,)),
}


@pytest.mark.parametrize("name", AXES)
def test_the_spatial_axes_may_be_named(name):
    make, x, dims = AXES[name]
    model = seeded(make)
    images = {0: dims}
    assert not certify(model, x, images=images).is_invariant
    conversion = convert(model, x, images=images)
    positive = tuple(dim % x.ndim for dim in dims)
    assert f"over its axes {positive}" in str(conversion.plan)
    # A mean over an axis that does not move as well is torch's own.
    verdict = "to rounding" if name.endswith("alone") else "exact"
    assert shiftproof.assert_invariant(conversion.model, x, images=images).verdict == verdict
    with torch.no_grad():
        before = conversion.model(x)
        after = conversion.model(shifted(x, dims))
    expected = shifted(before, dims) if name == "channels last" else before
    assert torch.equal(after, expected) or verdict == "to rounding"
    again = apply_plan(
        ConversionPlan.from_dict(json.loads(json.dumps(conversion.plan.as_dict()))), model
    )
    with torch.no_grad():
        assert torch.equal(again(x), before)


def test_control_other_axes_are_not_what_was_asked_for():
    x = torch.randn(2, 4, 3, 16, 16)
    converted = convert(seeded(Clip), x, images={"clip": (3, 4)}).model
    assert not certify(converted, x, shifts=[(0, 1, 0)], images={"clip": (1, 2, 3)}).is_invariant


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ("picture", r"got 'picture' \(0 tensors\); the tensors are left, right"),
        (7, r"got 7 \(0 tensors\)"),
        ([], "images must name an argument, got none"),
        ({"left": (0, 1)}, r"1 to 3 spatial axes in order, behind the samples, got \(0, 1\)"),
        ({"left": (3, 2)}, r"got \(3, 2\) for 'left'"),
        ({"left": (2, 9)}, r"1 to 3 spatial axes in order, behind the samples, got \(2, 9\)"),
        ({"left": (2, 3), "right": (1, 2)}, "must have the same spatial sizes"),
    ],
)
def test_images_that_are_none_are_refused(images, message):
    for call in (convert, certify):
        with pytest.raises(ValueError, match=message):
            call(seeded(Pair), (X, Y), images=images)


def test_an_argument_with_several_tensors_is_named_by_its_keys():
    model = seeded(Masked)
    for images in (["image", "mask"], {"image": (2, 3), "mask": (2, 3)}):
        converted = convert(model, ({"image": X, "mask": MASK},), images=images).model
        with torch.no_grad():
            before = converted({"image": X, "mask": MASK})
            assert torch.equal(before, converted({"image": shifted(X), "mask": shifted(MASK)}))
    with pytest.raises(ValueError, match=r"got 'batch' \(2 tensors\); .* batch.image, batch.mask"):
        convert(model, ({"image": X, "mask": MASK},), images="batch")


def test_one_of_two_images_may_be_left_where_it_is():
    converted = convert(seeded(Pair), (X, Y), images="left").model
    with torch.no_grad():
        assert torch.equal(converted(X, Y), converted(shifted(X), Y))


@dataclass
class Output:
    logits: Tensor
    maps: Tensor | None = None


def test_an_output_keeps_its_class():
    class Model(Body):
        def forward(self, x):
            y = super().forward(x)
            return Output(y, x)

    converted = convert(seeded(Model), X).model
    with torch.no_grad():
        found = converted(X)
    assert type(found) is Output
    assert torch.equal(found.logits, converted(shifted(X)).logits)


def test_a_batch_of_one_is_doubled_with_what_belongs_to_it():
    model = seeded(Stepped)
    one = convert(model, (X[:1], T[:1]), {"prompt": PROMPT[:1]}).model
    two = convert(model, (X, T), {"prompt": PROMPT}).model
    with torch.no_grad():
        assert torch.equal(one(X, T, prompt=PROMPT), two(X, T, prompt=PROMPT))


@pytest.mark.slow
def test_several_images_export_and_compile():
    torch._dynamo.reset()
    converted = convert(seeded(Pair), (X, Y)).model
    with torch.no_grad():
        expected = converted(X, Y)
        program = torch.export.export(converted, (X, Y), strict=False).module()
        torch.testing.assert_close(program(shifted(X), shifted(Y)), expected)
        compiled = torch.compile(converted, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(shifted(X), shifted(Y)), expected)
