"""Ordinary code that a conversion must not be wrong about: several of each kind."""

import copy
import pickle
import threading
from typing import ClassVar, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from convertible import Parts
from torch import Tensor, nn

import shiftproof
from shiftproof.analysis import CaptureError
from shiftproof.conversion import ConversionError, convert
from shiftproof.nn import FirstPhase

SHIFTS = [(1, 0), (0, 1), (3, 6), (17, 30)]


def images(size: int = 32, num: int = 2, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(num, 3, size, size, generator=generator, dtype=dtype)


class Strided(nn.Module):
    """A small classifier; ``middle`` stands between its two strides."""

    def __init__(self, middle=None) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, 2, 1)
        self.middle = middle or nn.Identity()
        self.second = nn.Conv2d(8, 8, 3, 2, 1)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.second(self.middle(self.first(x).relu())).mean((2, 3)))


def deviation(model: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        before = model(x)
        after = [model(x.roll(shift, (2, 3))) for shift in SHIFTS]
    return max(float((logits - before).abs().max() / before.std()) for logits in after)


def require_invariant(model: nn.Module, x: Tensor | None = None) -> None:
    assert deviation(model, images() if x is None else x) < 1e-9


def require_equivariant(model: nn.Module, x: Tensor, scale: int = 1) -> None:
    with torch.no_grad():
        before = model(x)
        for shift in SHIFTS:
            expected = before.roll([scale * amount for amount in shift], (-2, -1))
            torch.testing.assert_close(model(x.roll(shift, (2, 3))), expected, rtol=0, atol=1e-9)


# --- process state ------------------------------------------------------------------------------


def test_threads_convert_at_once_beside_one_that_computes() -> None:
    call, apply = nn.Module.__call__, torch.autograd.Function.apply
    networks = [Strided(middle).double().eval() for middle in (None, nn.MaxPool2d(2), nn.GELU())]
    expected = [convert(network, images()).plan for network in networks]
    stranger, x = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), images(dtype=torch.float32)
    right = stranger(x)
    failures: list[object] = []
    done = threading.Event()

    def compute() -> None:
        while not done.is_set():
            if not torch.equal(stranger(x), right):
                failures.append("another result")
            if nn.Module.__call__ is not call or torch.autograd.Function.apply != apply:
                failures.append("patched")

    def work(index: int) -> None:
        try:
            for turn in range(3):
                number = (index + turn) % len(networks)
                conversion = convert(networks[number], images())
                require_invariant(conversion.model)
                if conversion.plan != expected[number]:
                    failures.append(conversion.plan)
        except Exception as error:
            failures.append(error)

    stranger_thread = threading.Thread(target=compute)
    workers = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    stranger_thread.start()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    done.set()
    stranger_thread.join()
    assert failures == []
    assert nn.Module.__call__ is call


def test_threads_share_a_converted_network() -> None:
    model = convert(Dense().double().eval(), images()).model
    batches = [images(num=2) + index for index in range(4)]
    expected = [model(batch) for batch in batches]
    wrong: list[int] = []

    def run(index: int) -> None:
        for _ in range(5):
            if not torch.equal(model(batches[index]), expected[index]):
                wrong.append(index)  # noqa: PERF401

    threads = [threading.Thread(target=run, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


class Dense(nn.Module):
    """A map for a map, whose alignments must be undone at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 4, 3, 2, 1)
        self.up = nn.ConvTranspose2d(4, 2, 4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.down(x).relu())


# --- contexts -----------------------------------------------------------------------------------


class Frozen(nn.Module):
    def __init__(self, context) -> None:
        super().__init__()
        self.part = nn.Conv2d(8, 8, 3, padding=1)
        self.context = context

    def forward(self, x: Tensor) -> Tensor:
        with self.context():
            y = self.part(x)
        return x + y


def _without_gradient() -> object:
    return torch.set_grad_enabled(False)


@pytest.mark.parametrize("context", [torch.no_grad, _without_gradient])
def test_a_part_without_gradients_gets_none(context) -> None:
    model = convert(Strided(Frozen(context)), images()).model.double()
    model(images()).sum().backward()
    assert model.middle.part.weight.grad is None
    assert model.first.weight.grad is not None


class Wide(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            y = x.float() @ torch.eye(x.shape[-1])
            assert y.dtype == torch.float32
        return y


def test_a_part_without_autocast_computes_in_float32() -> None:
    model = convert(Strided(nn.Sequential(Wide(), Wide())), images()).model
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(images(dtype=torch.float32))  # the assertion inside is the test


def test_the_upcast_of_a_softmax_stays() -> None:
    def attend(s: nn.Module, x: Tensor) -> Tensor:
        gate = F.softmax(x, 1, dtype=torch.float32)
        s.seen.append(gate.dtype)
        return (s.c((x.float() * gate).to(x.dtype))).mean((2, 3))

    model = Parts(attend, c=nn.Conv2d(3, 4, 3, 2, 1))
    model.seen = []
    converted = convert(model, images()).model.to(torch.bfloat16)
    converted.seen.clear()
    converted(images(dtype=torch.bfloat16))
    assert converted.seen == [torch.float32]


# --- values -------------------------------------------------------------------------------------


READERS = {
    "numpy": lambda x: x * float(np.asarray(x).max()),
    "item": lambda x: x / x.abs().max().item(),
    "tolist": lambda x: x * max(x.flatten().tolist()),
    "numpy method": lambda x: x * float(x.detach().numpy().max()),
    "branch": lambda x: x if (x > 0).any() else -x,
    "integer": lambda x: x * int(x.flatten().argmax()),
    "format": lambda x: x * len(f"{float(x.max()):.3f}"),
}


@pytest.mark.parametrize("name", READERS)
def test_a_network_that_reads_values_is_refused(name: str) -> None:
    with pytest.raises(CaptureError, match="reads values"):
        convert(Parts(lambda s, x: READERS[name](s.c(x)), c=nn.Conv2d(3, 4, 3)), images())


class Reading(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        return READERS[self.name](x)


@pytest.mark.parametrize("name", READERS)
def test_a_part_that_reads_values_still_does(name: str) -> None:
    model = Strided(Reading(name)).double().eval()
    converted = convert(model, images(), selector=FirstPhase(), padding="keep").model
    with torch.no_grad():
        for factor in (1, 10):  # what was read is no constant
            torch.testing.assert_close(converted(factor * images()), model(factor * images()))
    require_invariant(convert(model, images()).model)


def test_values_of_parameters_may_be_read() -> None:
    model = Parts(lambda s, x: s.c(x * float(s.p)).mean((2, 3)), c=nn.Conv2d(3, 4, 3, 2, 1))
    model.p = nn.Parameter(torch.tensor(2.0))
    conversion = convert(model.double(), images())
    require_invariant(conversion.model)
    assert not any(alignment.full for alignment in conversion.plan.alignments)


# --- sizes --------------------------------------------------------------------------------------


DECISIONS = {
    "portrait": lambda x: x if x.shape[2] > x.shape[3] else 2 * x,
    "threshold": lambda x: x * (3 if x.shape[2] // 2 > 20 else 1),
    "area": lambda x: x * (3 if x.shape[2] * x.shape[3] > 5000 else 1),
    "smallest": lambda x: x * (3 if min(x.shape[2:]) >= 48 else 1),
    "exactly": lambda x: x * (3 if x.size(-1) == 32 else 1),
}


@pytest.mark.parametrize("name", DECISIONS)
def test_decisions_by_sizes_fix_the_size(name: str) -> None:
    model = Strided(None).double().eval()
    decide = DECISIONS[name]
    network = Parts(lambda s, x: s.m(decide(x)), m=model)
    conversion = convert(network, images())
    assert not conversion.plan.any_size
    assert any(note.startswith("for this size only") for note in conversion.plan.notes)
    with pytest.raises(ValueError, match="converted for, 32x32, got 96x96"):
        conversion.model(images(96))


def test_other_networks_take_any_size() -> None:
    conversion = convert(Strided().double().eval(), images())
    assert conversion.plan.any_size
    for size in (16, 48, 64):
        require_invariant(conversion.model, images(size))


# --- the object ---------------------------------------------------------------------------------


class Answer(NamedTuple):
    logits: Tensor
    features: Tensor


class Everything(nn.Module):
    """Has what users have: attributes, methods, an index, a named tuple, a head for training."""

    class_to_idx: ClassVar = {"cat": 0}

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.layer = nn.Sequential(nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.BatchNorm2d(8))
        self.head, self.auxiliary = nn.Linear(8, 5), nn.Linear(8, 5)
        self.names = ["a", "b"]

    def describe(self) -> str:
        return "mine"

    def forward(self, x: Tensor) -> Answer:
        features = self.layer(self.stem(x)).mean((2, 3))
        logits = self.head(features)
        return Answer(logits + self.auxiliary(features) if self.training else logits, features)


def test_the_network_stays_the_users_object() -> None:
    model = Everything().double().eval()
    calls: list[str] = []
    model.layer[1].register_forward_hook(lambda *_: calls.append("before"))
    converted = convert(model, images()).model
    calls.clear()
    converted.layer.register_forward_hook(lambda *_: calls.append("layer"))
    converted.layer[1].register_forward_pre_hook(lambda *_: calls.append("pre"))
    answer = converted(images())
    assert calls == ["pre", "before", "layer"]
    assert type(converted) is Everything
    assert (type(answer), answer._fields) == (Answer, ("logits", "features"))
    assert (converted.class_to_idx, converted.describe(), converted.names) == (
        {"cat": 0},
        "mine",
        ["a", "b"],
    )
    assert isinstance(converted.layer[1], nn.Conv2d)
    assert [n for n, _ in converted.named_modules()] == [n for n, _ in model.named_modules()]
    converted.load_state_dict(model.state_dict(), strict=True)
    model.load_state_dict(converted.state_dict(), strict=True)


def test_heads_for_training_are_trained() -> None:
    converted = convert(Everything().train(), images(dtype=torch.float32)).model
    converted(images(dtype=torch.float32)).logits.sum().backward()
    assert all(parameter.grad is not None for parameter in converted.parameters())


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        return x.relu()


def test_modes_and_state_stay() -> None:
    model = Everything().double().train()
    model.layer[2].eval()  # frozen
    model.layer[0] = Counting()
    mean = model.layer[2].running_mean.clone()
    converted = convert(model, images()).model
    assert converted.training
    assert not converted.layer[2].training
    for network in (model, converted):
        assert network.layer[0].count == 0
        assert torch.equal(network.layer[2].running_mean, mean)
    converted(images())
    assert (converted.layer[0].count, model.layer[0].count) == (1, 0)


def test_conversion_in_inference_mode_can_be_trained() -> None:
    with torch.inference_mode():
        converted = convert(Strided(), images()).model
    converted.double()(images()).sum().backward()
    assert converted.fc.weight.grad is not None


def test_a_converted_network_is_not_converted_again() -> None:
    for model in (Strided(), Dense()):
        converted = convert(model, images()).model
        with pytest.raises(ConversionError, match="must not be converted yet"):
            convert(converted, images())


# --- trial --------------------------------------------------------------------------------------


class Rare(nn.Module):
    """Treats the first row in its own way, but only where activations are large."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.limit = limit

    def forward(self, x: Tensor) -> Tensor:
        if float(x.abs().max()) < self.limit:
            return x
        return torch.cat([x[:, :, :1].clamp(-1, 1), x[:, :, 1:]], 2)


@pytest.mark.parametrize("limit", [1.0, 5.0, 50.0])
def test_an_opaque_module_is_tried_on_large_activations(limit: float) -> None:
    conversion = convert(Strided(Rare(limit)).double().eval(), images())
    assert any(alignment.full for alignment in conversion.plan.alignments)
    require_invariant(conversion.model, 20 * images())


class Silent(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if float(x.sum()) > 0 or True else x


class Failing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if float(x.abs().max()) > 100:
            raise OverflowError
        return x


class MixingInSecret(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + x.flip(0) if float(x.abs().max()) > 0 else x


def test_an_opaque_module_that_mixes_samples_is_not_accepted() -> None:
    conversion = convert(Strided(MixingInSecret()).double().eval(), images())
    assert conversion.plan.accepted == ()
    require_invariant(conversion.model)


def test_what_was_accepted_by_trial_is_told() -> None:
    plan = convert(Strided(Silent()), images(dtype=torch.float32)).plan
    assert plan.accepted == ("middle",)
    assert "middle moved with its input in every trial; that is no proof" in str(plan)
    assert not any(alignment.full for alignment in plan.alignments)


def test_an_exception_in_a_trial_is_a_failure() -> None:
    plan = convert(Strided(Failing()), images(dtype=torch.float32)).plan
    assert plan.accepted == ()
    assert any(alignment.full for alignment in plan.alignments)


def test_windows_that_hung_over_the_border_are_told() -> None:
    model = Strided(nn.MaxPool2d(3, 2, ceil_mode=True)).double().eval()
    conversion = convert(model, images())
    require_invariant(conversion.model)
    assert [c.before for c in conversion.plan.paddings if c.where == "middle (MaxPool2d)"] == [
        "ceil_mode adds a window that hangs over the border"
    ]


# --- modules that are declared ------------------------------------------------------------------


def test_an_own_module_can_be_declared_equivariant() -> None:
    model = Strided(Rare(1.0)).double().eval()
    plan = convert(Strided(Silent()).double().eval(), images(), equivariant=[Silent]).plan
    assert plan.accepted == ()
    assert not any(alignment.full for alignment in plan.alignments)
    with pytest.raises(ConversionError, match="must not change under a shift"):
        convert(model, images(), equivariant=["middle"])  # it is not


def test_a_part_can_be_left_alone() -> None:
    model = Strided(nn.Sequential(nn.Conv2d(8, 8, 3, padding=1))).double().eval()
    conversion = convert(model, images(), skip=["middle"])
    require_invariant(conversion.model)
    assert conversion.model.middle[0].padding_mode == "zeros"
    with pytest.raises(ConversionError, match="must name modules of the network, got missing"):
        convert(model, images(), skip=["missing"])
    with pytest.raises(ConversionError, match="allow_full_size=False"):
        convert(model, images(), skip=["middle"], allow_full_size=False)


# --- borders kept -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "middle",
    [
        nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(8, 8, 3, 2)),
        nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(8, 8, 3, 2)),
        nn.Sequential(nn.ConstantPad2d(1, 1.0), nn.ReLU(), nn.MaxPool2d(3, 2)),
        nn.Conv2d(8, 8, 3, 2, 1, padding_mode="replicate"),
    ],
)
def test_borders_are_kept(middle: nn.Module) -> None:
    model = Strided(middle).double().eval()
    conversion = convert(model, images(), padding="keep", selector=FirstPhase())
    torch.testing.assert_close(conversion.model(images()), model(images()))
    assert conversion.plan.paddings == ()
    require_invariant(convert(model, images()).model)


# --- batch axis ---------------------------------------------------------------------------------


MIXTURES = {
    "flip": lambda x: x + x.flip(0),
    "roll": lambda x: x + x.roll(1, 0),
    "mean": lambda x: x - x.mean(0, keepdim=True),
    "frames": lambda x: (
        F.avg_pool3d(x.reshape(-1, 2, *x.shape[1:]).transpose(1, 2), (2, 1, 1), (1, 1, 1))
        .transpose(1, 2)
        .flatten(0, 1)
        .repeat_interleave(2, 0)
    ),
    "index": lambda x: x + x[torch.arange(len(x) - 1, -1, -1)],
    "softmax": lambda x: x * x.softmax(0),
    "cat": lambda x: x + torch.cat([x[1:], x[:1]]),
}


@pytest.mark.parametrize("name", MIXTURES)
def test_samples_that_are_mixed_are_aligned_first(name: str) -> None:
    model = Strided(Parts(lambda s, x: MIXTURES[name](x))).double().eval()
    conversion = convert(model, images(num=4))
    require_invariant(conversion.model, images(num=4))
    reasons = [reason for a in conversion.plan.alignments for reason in a.reasons]
    assert any("samples" in reason or "fixed place" in reason for reason in reasons), reasons


# --- shapes of outputs --------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", [8, 6])
def test_a_window_does_not_change_the_shape_of_the_output(kernel: int) -> None:
    head = nn.Conv2d(8, 16, kernel)
    body = [nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.MaxPool2d(2), head, nn.Flatten()]
    model = nn.Sequential(*body).double().eval()
    converted = convert(model, images()).model
    assert converted(images()).shape == model(images()).shape
    require_invariant(converted)


def test_a_shape_may_be_allowed_to_change() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 3)).double().eval()
    assert convert(model, images()).model(images()).shape == (2, 2, 28, 28)
    changed = convert(model, images(), allow_shape_change=True)
    assert changed.model(images()).shape == (2, 2, 32, 32)
    assert len(changed.plan.geometry) == 2
    require_equivariant(changed.model, images())


# --- maps without channels ----------------------------------------------------------------------


class Positioned(nn.Module):
    def __init__(self, last) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular")
        self.position = nn.Parameter(torch.randn(4, 32, 32))
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.conv(x) + self.position)


LASTS = {
    "squeezed": lambda x: x.mean(1),
    "argmax": lambda x: x.argmax(1),
    "index": lambda x: x[:, 0].relu(),
    "channels": lambda x: x,
}


@pytest.mark.parametrize("name", LASTS)
def test_maps_without_channels_move_with_the_input(name: str) -> None:
    model = convert(Positioned(LASTS[name]).double().eval(), images()).model
    require_equivariant(model, images())
    assert shiftproof.certify(model, images()).verdict != "not invariant"


# --- never run ----------------------------------------------------------------------------------


class Transposed(nn.Module):
    """Takes its images for ``(N, 1, T, C)``, and time for the last axis in the end."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, (1, 5), padding=(0, 2))
        self.deep = nn.Conv2d(4, 8, (6, 1), groups=4)
        self.pool = nn.AvgPool2d((1, 4))
        self.fc = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x.permute(0, 1, 3, 2))
        x = self.pool(self.deep(x).relu()).squeeze(2)
        return self.fc(x[:, :, -1])


def test_a_conversion_that_cannot_run_is_refused_or_runs() -> None:
    x = torch.randn(2, 1, 32, 6, dtype=torch.float64)
    model = Transposed().double().eval()
    converted = convert(model, x).model
    assert converted(x).shape == model(x).shape


# --- pickling -----------------------------------------------------------------------------------


class GeM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.tensor(3.0))

    def forward(self, x: Tensor) -> Tensor:
        powers = x.clamp(min=1e-6).pow(self.p)
        return F.avg_pool2d(powers, x.shape[-2:]).pow(1.0 / self.p).flatten(1)


class MadeFromSizes(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        rows = torch.arange(x.shape[2], device=x.device, dtype=x.dtype)
        return (x + torch.zeros(x.shape[2:], dtype=x.dtype) + 0 * rows.sum()).mean((2, 3))


@pytest.mark.parametrize("last", [GeM(), MadeFromSizes(), nn.Flatten()])
def test_converted_networks_are_pickled(last: nn.Module, tmp_path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.MaxPool2d(2), last).double().eval()
    converted = convert(model, images()).model
    require_invariant(converted)
    torch.save(converted, tmp_path / "model.pt")
    loaded = torch.load(tmp_path / "model.pt", weights_only=False)
    for twin in (loaded, copy.deepcopy(converted), pickle.loads(pickle.dumps(converted))):
        assert torch.equal(twin(images()), converted(images()))
        twin.double()
        for parameter in twin.parameters():
            parameter.data.zero_()
    require_invariant(converted)  # the copies share nothing


# --- nothing is aligned by its full size without need -------------------------------------------


def _blurred(s: nn.Module, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    padded = F.pad(x, (1, 1, 1, 1), mode="reflect").view(-1, 1, h + 2, w + 2)
    return F.conv2d(padded, torch.full((1, 1, 3, 3), 1 / 9, dtype=x.dtype)).view(n, c, h, w)


MIDDLES = {
    "maximum over one axis": lambda s, x: x * x.flatten(2).max(2)[0][..., None, None],
    "vector norm": lambda s, x: x / torch.linalg.vector_norm(x, ord=2, dim=(2, 3), keepdim=True),
    "padding before a pool": lambda s, x: F.avg_pool2d(F.pad(x, (0, 1, 0, 1)), 2, 1),
    "padding by -inf": lambda s, x: F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=-torch.inf), 3, 2),
    "blur behind a view": _blurred,
    "norm over positions": lambda s, x: x / x.norm(dim=(2, 3), keepdim=True),
    "minimum and its place": lambda s, x: (
        x - torch.min(x.flatten(2), dim=2).values[..., None, None]
    ),
}


@pytest.mark.parametrize("name", MIDDLES)
def test_nothing_is_aligned_by_its_full_size_without_need(name: str) -> None:
    conversion = convert(Strided(Parts(MIDDLES[name])).double().eval(), images())
    require_invariant(conversion.model)
    assert not any(a.full for a in conversion.plan.alignments), str(conversion.plan)


# --- the example decides ------------------------------------------------------------------------


def test_a_network_without_values_is_converted_alike() -> None:
    on_cpu = convert(Strided(nn.MaxPool2d(2)), images(dtype=torch.float32)).plan
    with torch.device("meta"):
        model = Strided(nn.MaxPool2d(2))
    plan = convert(model, images(dtype=torch.float32)).plan
    assert (plan.alignments, plan.edits, plan.paddings) == (
        on_cpu.alignments,
        on_cpu.edits,
        on_cpu.paddings,
    )
    assert any("no values yet" in note for note in plan.notes)


def test_the_batch_of_the_example_does_not_matter() -> None:
    plans = [convert(Strided().double(), images(num=num)).plan for num in (1, 2, 5)]
    assert plans[0] == plans[1] == plans[2]


def test_a_small_example_does_not_decide_in_silence() -> None:
    class Pyramid(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down = nn.ModuleList(nn.Conv2d(c, 4, 3, 2, 1) for c in (3, 4, 4, 4, 4))
            self.head = nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, x: Tensor) -> list[Tensor]:
            maps = []
            for layer in self.down:
                x = layer(x)
                maps.append(self.head(x).mean((2, 3)))
            return maps

    for size in (32, 64):
        conversion = convert(Pyramid().double().eval(), images(size))
        if not conversion.plan.any_size:
            assert any("for this size only: at" in note for note in conversion.plan.notes)


# --- the tensor that a module wrote to goes on under another name -------------------------------


class PreActivated(nn.Module):
    """The shortcut holds the very tensor that the activation writes to."""

    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self.act, self.conv = act, nn.Conv2d(8, 8, 3, 2, 1)
        self.short = nn.Conv2d(8, 8, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        self.act(x)
        return self.conv(x) + self.short(x)


class Cast(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.double() * (1 + x.double().square().mean(1, keepdim=True)).rsqrt()


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.conv = Cast(), nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(self.norm(x))


@pytest.mark.parametrize(
    "middle",
    [
        PreActivated(nn.ReLU(inplace=True)),
        PreActivated(nn.Hardswish(inplace=True)),
        nn.Sequential(Residual(), Residual()),
        nn.Sequential(nn.ReLU(inplace=True), Residual(), PreActivated(nn.ReLU(inplace=True))),
    ],
)
def test_one_tensor_under_two_names_is_aligned_once(middle: nn.Module) -> None:
    conversion = convert(Strided(middle).double().eval(), images())
    require_invariant(conversion.model)
    assert not any(a.full for a in conversion.plan.alignments)


class TwoSums(nn.Module):
    """Two sums in one forward pass, each read by a layer and by a function with a stride."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, 2, 1)
        self.third = nn.Conv2d(8, 8, 3, 2, 1)
        self.weight = nn.Parameter(torch.randn(8, 8, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        y = y + y.sin()
        z = F.conv2d(y, self.weight, stride=2, padding=1) + self.second(y)
        z = z + z.cos()
        return (F.conv2d(z, self.weight, stride=2, padding=1) + self.third(z)).mean((2, 3))


def test_two_results_of_one_function_are_aligned() -> None:
    torch.manual_seed(0)
    conversion = convert(TwoSums().double().eval(), images())
    functions = [alignment.site.function for alignment in conversion.plan.alignments]
    assert functions == ["add", "add"]
    assert deviation(conversion.model, images()) < 1e-9


def test_a_hook_may_take_statistics_with_the_functions_of_the_network() -> None:
    torch.manual_seed(0)
    converted = convert(TwoSums().double().eval(), images()).model
    seen = []
    converted.second.register_forward_hook(lambda _m, _a, y: seen.append(y.mean((0, 2, 3)) + 1))
    assert deviation(converted, images()) < 1e-9
    assert seen
