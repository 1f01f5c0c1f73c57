"""Networks with something that is easily overlooked."""

import pytest
import torch
import torch.nn.functional as F
from convertible import Parts
from torch import Tensor, nn

from shiftproof.conversion import ConversionError, convert
from shiftproof.nn import FirstPhase

SHIFTS = [(1, 0), (0, 1), (3, 6), (17, 30)]


def images(size: int = 32, num: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(num, 3, size, size, generator=generator, dtype=torch.float64)


def circular(channels: int, out: int, kernel: int = 3, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, out, kernel, stride, kernel // 2, padding_mode="circular")


def require_invariant(model: nn.Module, x: Tensor) -> None:
    with torch.no_grad():
        before = model(x)
        for shift in SHIFTS:
            moved = model(x.roll(shift, (2, 3)))
            torch.testing.assert_close(moved, before, rtol=0, atol=1e-9 * float(before.std()))


def require_equivariant(model: nn.Module, x: Tensor, scale: int = 1) -> None:
    with torch.no_grad():
        before = model(x)
        dims = (-2, -1)
        for shift in SHIFTS:
            moved = model(x.roll(shift, (2, 3)))
            expected = before.roll([scale * amount for amount in shift], dims)
            torch.testing.assert_close(moved, expected, rtol=0, atol=1e-9)


def converted(model: nn.Module, x: Tensor | None = None, **options) -> nn.Module:
    torch.manual_seed(0)
    return convert(model.double().eval(), images() if x is None else x, **options).model


def test_output_of_a_transposed_convolution_is_put_back() -> None:
    model = nn.Sequential(circular(3, 8, 3, 2), nn.ReLU(), nn.ConvTranspose2d(8, 1, 2, 2))
    require_equivariant(converted(model), images())


def test_output_that_is_also_aligned_is_put_back() -> None:
    model = Parts(
        lambda s, x: s.a(x) + s.b(x).mean((2, 3), keepdim=True)[:, :1],
        a=circular(3, 1),
        b=circular(3, 4, 3, 2),
    )
    require_equivariant(converted(model), images())


def test_maps_without_channels_are_put_back() -> None:
    model = Parts(
        lambda s, x: F.interpolate(s.d(x), scale_factor=2).squeeze(1), d=circular(3, 1, 3, 2)
    )
    require_equivariant(converted(model), images())
    model = Parts(
        lambda s, x: F.interpolate(s.d(x), scale_factor=2).argmax(1), d=circular(3, 4, 3, 2)
    )
    require_equivariant(converted(model), images())


def test_larger_map_behind_a_full_alignment_is_put_back() -> None:
    position = nn.Parameter(torch.randn(8, 32, 32))
    model = Parts(lambda s, x: F.pixel_shuffle(s.a(x) + s.p, 2), a=circular(3, 8), p=position)
    require_equivariant(converted(model), images(), scale=2)


def test_invariant_output_of_the_size_of_the_image_stays() -> None:
    def gram(s: nn.Module, x: Tensor) -> Tensor:
        f = s.a(x).flatten(2)
        return (f @ f.transpose(1, 2))[:, None]

    require_invariant(converted(Parts(gram, a=circular(3, 32))), images())


def test_lookup_in_a_table_moves() -> None:
    def quantise(s: nn.Module, x: Tensor) -> Tensor:
        return s.d(s.e[s.c(x).argmax(1)].permute(0, 3, 1, 2)).mean((2, 3))

    parts = {"c": nn.Conv2d(3, 5, 1), "d": nn.Conv2d(4, 4, 3, 2, 1)}
    model = converted(Parts(quantise, e=nn.Parameter(torch.randn(5, 4)), **parts))
    require_invariant(model, images())

    def embed(s: nn.Module, x: Tensor) -> Tensor:
        return s.d(F.embedding(s.c(x).argmax(1), s.e).permute(0, 3, 1, 2)).mean((2, 3))

    model = converted(Parts(embed, e=nn.Parameter(torch.randn(5, 4)), **parts))
    require_invariant(model, images())


def test_repeated_values_that_are_written_to_have_positions() -> None:
    def mask(s: nn.Module, x: Tensor) -> Tensor:
        m = x.new_ones(1, 1, 1, 1).repeat(1, 1, 32, 32)
        m[:, :, :8] = 0
        return (s.c(x) * m).mean((2, 3))

    require_invariant(converted(Parts(mask, c=circular(3, 4))), images())


def test_flattened_tokens_have_one_size() -> None:
    def tokens(s: nn.Module, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        y = s.b(s.a(s.c(x).flatten(2).transpose(1, 2)))
        return s.d(y.transpose(1, 2).reshape(n, 16, h, w)).mean((2, 3))

    parts = {"a": nn.Linear(8, 2), "b": nn.Linear(2, 16), "c": circular(3, 8)}
    conversion = convert(Parts(tokens, d=circular(16, 4, 3, 2), **parts).double(), images())
    require_invariant(conversion.model, images())
    assert not conversion.summary.any_size


@pytest.mark.parametrize("kind", [nn.Conv2d, nn.BatchNorm2d])
def test_hooks_count(kind: type[nn.Module]) -> None:
    layer = nn.Conv2d(8, 8, 1) if kind is nn.Conv2d else nn.BatchNorm2d(8)
    ramp = torch.linspace(0, 1, 32, dtype=torch.float64)
    layer.register_forward_hook(lambda module, args, result: result + ramp)
    require_invariant(
        converted(
            nn.Sequential(circular(3, 8), layer, circular(8, 4, 3, 2), nn.AdaptiveAvgPool2d(1))
        ),
        images(),
    )


def test_a_hooked_mean_keeps_its_hook() -> None:
    pool = nn.AdaptiveAvgPool2d(1)
    pool.register_forward_hook(lambda module, args, result: 3 * result)
    model = nn.Sequential(circular(3, 8), pool).double().eval()
    x = images()
    torch.testing.assert_close(converted(model, selector=FirstPhase())(x), model(x))


class _Small(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] <= 8 or float(x.max()) < -1e9:
            return x
        return x + torch.arange(x.shape[-1], dtype=x.dtype)


def test_an_opaque_part_is_tried_at_its_own_size() -> None:
    require_invariant(
        converted(nn.Sequential(circular(3, 4), _Small(), nn.AdaptiveAvgPool2d(1))), images()
    )


class _Dropping(nn.Dropout):
    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.randn(32))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.position


class _Doubling(nn.ZeroPad2d):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class _Cubing(nn.AdaptiveAvgPool2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.abs() ** 3)


@pytest.mark.parametrize("kind", ["dropout", "pad", "pool"])
def test_subclasses_do_more_than_their_bases(kind: str) -> None:
    layers = {
        "dropout": [circular(3, 4), _Dropping(), nn.AdaptiveAvgPool2d(1)],
        "pad": [circular(3, 4), _Doubling(1), nn.Conv2d(4, 4, 3, 2), nn.AdaptiveAvgPool2d(1)],
        "pool": [circular(3, 4), _Cubing(1)],
    }
    model = nn.Sequential(*layers[kind]).double().eval()
    require_invariant(converted(model), images())
    if kind == "pool":
        torch.testing.assert_close(
            converted(model, selector=FirstPhase())(images()), model(images())
        )


def test_decisions_by_the_size_fix_it() -> None:
    model = Parts(
        lambda s, x: s.a(x).mean((2, 3)) * (2 if x.shape[-1] >= 64 else 1), a=circular(3, 4)
    )
    conversion = convert(model.double(), images())
    assert not conversion.summary.any_size
    with pytest.raises(ValueError, match="convert again"):
        conversion.model(images(64))


BATCHES = {
    "len": lambda s, x: s.a(x).mean((2, 3)).view(len(x), -1),
    "int": lambda s, x: s.a(x).mean((2, 3)).view(int(x.shape[0]), 4),
    "twice": lambda s, x: s.a(x).mean((2, 3)).view(len(x) * 2, -1).view(len(x), 4),
    "groups": lambda s, x: (
        F.conv2d(
            s.a(x).reshape(1, -1, *x.shape[2:]),
            s.a.weight[:, :1].repeat(x.shape[0], 1, 1, 1),
            padding=1,
            groups=4 * x.shape[0],
        )
        .view(x.shape[0], 4, *x.shape[2:])
        .mean((2, 3))
    ),
}


@pytest.mark.parametrize("name", BATCHES)
def test_any_batch(name: str) -> None:
    model = Parts(BATCHES[name], a=circular(3, 4)).double().eval()
    conversion = convert(model, images(), selector=FirstPhase())
    assert conversion.summary.notes == ()
    for num in (1, 3, 4):
        if name == "groups":
            assert conversion.model(images(num=num)).shape == (num, 4)
        else:
            torch.testing.assert_close(conversion.model(images(num=num)), model(images(num=num)))


def test_a_loop_over_the_batch_runs_for_any_batch() -> None:
    model = Parts(lambda s, x: torch.stack([row.mean((1, 2)) for row in s.a(x)]), a=circular(3, 4))
    conversion = convert(model.double(), images(), selector=FirstPhase())
    for num in (1, 3):
        torch.testing.assert_close(conversion.model(images(num=num)), model(images(num=num)))


class _Reused(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.first, self.layer = nn.Conv2d(3, 4, 3, padding=1), layer
        self.position = nn.Parameter(torch.randn(4, 8, 8))
        self.fc = nn.Linear(4 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(self.layer(self.first(x))) + self.position
        return self.fc(self.layer(x).flatten(1))


def test_a_pool_called_before_and_behind_a_full_alignment() -> None:
    model = _Reused(nn.MaxPool2d(3, 2, 1)).double().eval()
    require_invariant(converted(model), images())


def test_a_convolution_called_before_and_behind_a_full_alignment() -> None:
    conversion = convert(_Reused(nn.Conv2d(4, 4, 3, 2, 1)).double().eval(), images())
    require_invariant(conversion.model, images())


def test_keyword_arguments() -> None:
    model = Parts(lambda s, x: s.a(input=x).mean((2, 3)), a=nn.Conv2d(3, 4, 3, 2, 1))
    require_invariant(converted(model), images())


@pytest.mark.parametrize("kind", ["map", "tokens", "mask"])
def test_operations_in_place_train(kind: str) -> None:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.a(x)
        if kind == "tokens":
            x = x.flatten(2).transpose(1, 2)
            x += s.p.flatten(1).T
            return x.mean(1)
        if kind == "mask":
            x[x < 0] = 0
        x += s.p
        return x.mean((2, 3))

    model = Parts(forward, a=circular(3, 4), p=nn.Parameter(torch.randn(4, 32, 32)))
    result = converted(model)
    result(images()).sum().backward()
    assert all(parameter.grad is not None for parameter in result.parameters())
    require_invariant(result, images())


def test_padding_wider_than_its_window() -> None:
    model = Parts(
        lambda s, x: (s.c(F.pad(x, (3, 3, 3, 3)))[..., 2:-2, 2:-2] + s.a(x)).mean((2, 3)),
        c=nn.Conv2d(3, 4, 3),
        a=circular(3, 4),
    )
    require_invariant(converted(model), images())


def test_parametrised_convolutions_are_convolutions() -> None:
    norm = nn.utils.parametrizations.weight_norm
    model = nn.Sequential(norm(nn.Conv2d(3, 4, 3, 2, 1)), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    conversion = convert(model.double(), images())
    assert not any(alignment.full for alignment in conversion.summary.alignments)
    require_invariant(conversion.model, images())


def test_what_cannot_be_copied_is_refused() -> None:
    class Uncopied(nn.Conv2d):
        def __deepcopy__(self, memo: dict) -> None:
            raise RuntimeError("no copies")

    with pytest.raises(ConversionError, match=r"must survive copy\.deepcopy.*no copies"):
        convert(nn.Sequential(Uncopied(3, 4, 3)), images())


def test_parallel_networks_are_unwrapped() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.AdaptiveAvgPool2d(1)).double()
    require_invariant(convert(nn.DataParallel(model), images()).model, images())


def test_what_is_different_in_training_stays_so() -> None:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        y = F.batch_norm(s.a(x), s.m.clone(), s.v.clone(), training=s.training)
        return y.mean((2, 3)) + (s.b(x).mean((2, 3)) if s.training else 0)

    parts = {
        "a": circular(3, 4),
        "b": circular(3, 4),
        "m": torch.zeros(4).double(),
        "v": torch.ones(4).double(),
    }
    model = Parts(forward, **parts).double()
    conversion = convert(model, images(), selector=FirstPhase())
    for mode in (True, False):
        expected = model.train(mode)(images())
        torch.testing.assert_close(conversion.model.train(mode)(images()), expected)
    assert any("in training the network also runs b" in n for n in conversion.summary.notes)


def test_tensors_that_are_attributes_stay_out_of_the_state() -> None:
    model = Parts(
        lambda s, x: s.a(x - s.mean).mean((2, 3)), a=circular(3, 4), mean=torch.zeros(3, 1, 1)
    )
    result = convert(model, images().float()).model
    assert list(result.state_dict()) == list(model.state_dict())
    result.load_state_dict(model.state_dict())
