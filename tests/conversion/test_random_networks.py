"""Networks drawn at random: each is exact wherever its maps lie, or refused for a reason."""

import contextlib
import functools
import random
import re
import warnings
from fractions import Fraction

import pytest
import torch
from torch import Tensor, nn

from shiftproof import call_with_offset, certify, convert
from shiftproof.conversion import Conversion

SIZES = (24, 36)
SHIFTS = ((1, 0), (0, 1), (2, 3), (5, 7), (12, 18), (23, 35))
QUICK, ALL = 24, 300


class Branches(nn.Module):
    """Two ways from one map, joined."""

    def __init__(self, one: nn.Module, two: nn.Module, joined: str) -> None:
        super().__init__()
        self.one, self.two, self.joined = one, two, joined

    def forward(self, x: Tensor) -> Tensor:
        one, two = self.one(x), self.two(x)
        return torch.cat([one, two], 1) if self.joined == "cat" else one + two


class Residual(nn.Module):
    """A block and its shortcut."""

    def __init__(self, body: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.body, self.shortcut = body, shortcut

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


def layer(draw: random.Random, channels: int) -> tuple[nn.Module, int]:
    """One layer, and the channels that it gives."""
    kind = draw.choice(("conv", "conv", "conv", "pool", "pad", "up", "norm", "split", "residual"))
    stride = draw.choice((1, 1, 2, 2, 3))
    if kind == "conv":
        kernel, out = draw.choice((1, 2, 3, 3, 5)), draw.choice((4, 6))
        dilation = draw.choice((1, 1, 2))
        padding = dilation * (kernel - 1) // 2
        mode = draw.choice(("zeros", "reflect", "circular"))
        return nn.Conv2d(channels, out, kernel, stride, padding, dilation, padding_mode=mode), out
    if kind == "pool":
        kernel = draw.choice((2, 3))
        pool = draw.choice((nn.MaxPool2d, nn.AvgPool2d))
        return pool(kernel, stride, kernel // 2 if kernel == 3 else 0), channels
    if kind == "pad":
        width = draw.choice((1, 2))
        pad = draw.choice((nn.ZeroPad2d, nn.ReflectionPad2d))
        return nn.Sequential(pad(width), nn.Conv2d(channels, 4, 2 * width + 1, stride)), 4
    if kind == "up":
        if draw.random() < 0.5:
            return nn.Upsample(scale_factor=2, mode=draw.choice(("nearest", "bilinear"))), channels
        return nn.ConvTranspose2d(channels, 4, 3, 2, 1, output_padding=1), 4
    if kind == "norm":
        norm = draw.choice((nn.BatchNorm2d, lambda c: nn.GroupNorm(1, c)))
        return nn.Sequential(norm(channels), nn.ReLU()), channels
    same = nn.Conv2d(channels, 4, 3, stride, 1), nn.Conv2d(channels, 4, 1, stride)
    if kind == "residual":
        return Residual(*same), 4
    joined = draw.choice(("cat", "add"))
    return Branches(*same, joined), 8 if joined == "cat" else 4


def stack(draw: random.Random) -> nn.Module:
    """Two to six layers, behind them a map or logits."""
    layers, channels = [], 3
    for _ in range(draw.randint(2, 6)):
        made, channels = layer(draw, channels)
        layers.append(made)
    if draw.random() < 0.4:
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 5)]
    return nn.Sequential(*layers).double().eval()


def network(seed: int) -> nn.Module:
    """The first stack drawn whose windows fit into their maps."""
    draw = random.Random(seed)
    torch.manual_seed(seed)
    while True:
        model = stack(draw)
        with contextlib.suppress(RuntimeError):
            model(images(seed, SIZES))
            break
    for part in model.modules():  # or a norm is the identity
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.uniform_(-0.5, 0.5)
    return model


def images(seed: int, sizes: tuple[int, ...]) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, 3, *sizes, dtype=torch.float64, generator=generator)


def converted(model: nn.Module, seed: int) -> tuple[Conversion, Tensor]:
    """The conversion, at the size that is named where this one does not divide."""
    x = images(seed, SIZES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return convert(model, x), x
        except ValueError as error:
            text = str(error)
        named = re.search(r"the nearest valid input sizes are .*?(\d+)x(\d+)$", text)
        assert named is not None, text
        x = images(seed, tuple(map(int, named.groups())))
        return convert(model, x), x


def moved(y: Tensor, told: Tensor, shift: tuple[int, int], sizes: torch.Size) -> Tensor:
    """The map that a shift asks for, less what the offsets before and after tell."""
    steps = [Fraction(size, count) for size, count in zip(sizes, y.shape[2:], strict=True)]
    rest = zip(shift, told[0].tolist(), steps, strict=True)
    cells = [(Fraction(d) - Fraction(o)) / step for d, o, step in rest]
    assert all(part.denominator == 1 for part in cells), (shift, told, steps)
    return y.roll(tuple(int(part) for part in cells), (2, 3))


@torch.no_grad()
def require_exact(conversion: Conversion, x: Tensor) -> None:
    """Logits stay; maps move by the shift, less what the offsets tell."""
    none = torch.zeros(1, 2)
    call = functools.partial(call_with_offset, conversion.model)
    if not conversion.plan.alignments:
        call = lambda x: (conversion.model(x), none)  # noqa: E731
    y, start = call(x)
    for shift in SHIFTS:
        after, end = call(x.roll(shift, (2, 3)))
        expected = y if y.ndim == 2 else moved(y, end - start, shift, x.shape[2:])
        assert (after - expected).abs().max() <= 1e-9 * y.std(correction=0).clamp(min=1e-9), shift


@pytest.mark.parametrize(
    "seed",
    [pytest.param(n, marks=() if n < QUICK else pytest.mark.slow) for n in range(ALL)],
)
def test_a_random_network_is_exact_at_its_size_or_the_one_that_is_named(seed: int) -> None:
    model = network(seed)
    conversion, x = converted(model, seed)
    certificate = certify(conversion.model, x)
    assert certificate.is_invariant, f"{conversion.summary}\n{certificate}"
    require_exact(conversion, x)


def test_the_law_is_not_empty() -> None:
    broken = 0
    for seed in range(QUICK):
        broken += not certify(network(seed), images(seed, SIZES)).is_invariant
    assert broken > QUICK * 0.8
