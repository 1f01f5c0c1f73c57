"""Entries of whole networks: a forward pass, a training step, eager and compiled."""

import dataclasses
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch import nn as torch_nn

import shiftproof
from benchmarks.entry import Candidate, Entry, Prepared, Setup
from benchmarks.equivariance import logits_error
from benchmarks.maps import FORMATS
from benchmarks.published import PublishedResNet
from shiftproof import nn, ops

PUBLISHED = "published "
NAIVE = ", naive scores"


@dataclass(frozen=True)
class Trunk:
    """One trunk and the networks that are compared on it.

    Attributes:
        name: Our name of the plain network, the baseline.
        batch: Images per call.
        size: Height and width of the images.
        kinds: Suffixes of our names.
        published: Whether the published formulation is among the candidates.
        naive: Whether the aligned network with inexact scores is.
        compiled: Suffixes of the networks that are compiled too.
        compiled_passes: What is compiled; training of the CIFAR-10 recipe is measured elsewhere.
        seconds: Time for the rounds of each entry.
    """

    name: str
    batch: int
    size: int
    kinds: tuple[str, ...]
    published: bool = False
    naive: bool = False
    compiled: tuple[str, ...] = ()
    compiled_passes: tuple[str, ...] = ()
    seconds: float = 25.0

    @property
    def shown(self) -> str:
        return f"{self.batch} images of {self.size}x{self.size}, float32"

    @property
    def networks(self) -> list[str]:
        names = [self.name + kind for kind in self.kinds]
        if self.published:
            names.append(f"{PUBLISHED}{self.name}_aps1")
        if self.naive:
            names.append(f"{self.name}_pa{NAIVE}")
        return names


TRUNKS = (
    Trunk(
        "resnet18",
        batch=16,
        size=224,
        kinds=("", "_lpf1", "_lpf3", "_aps1", "_aps3", "_pa"),
        published=True,
        naive=True,
        compiled=("", "_pa"),
        compiled_passes=("forward", "training_step"),
        seconds=45,
    ),
    Trunk("resnet50", batch=8, size=224, kinds=("", "_aps1", "_pa"), seconds=25),
    Trunk(
        "cifar_resnet20",
        batch=256,
        size=32,
        kinds=("", "_lpf3", "_aps1", "_aps3", "_pa"),
        published=True,
        compiled=("", "_aps1", "_pa"),
        compiled_passes=("forward",),
    ),
    Trunk("cifar_resnet18", batch=64, size=32, kinds=("", "_aps1", "_pa"), seconds=20),
)

QUICK_TRUNKS = ("resnet18", "cifar_resnet20")


class NaiveSelect(nn.SelectPhase2d):
    """The cheapest choice: a sum of squares in the type of the map, and the first largest."""

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        energy = x.detach().square().sum(1, keepdim=True)
        return ops.polyphase_split(energy, self.stride).sum((1, 3, 4)).argmax(1)


def replace_selects(model: torch_nn.Module, choice: type[nn.SelectPhase2d]) -> torch_nn.Module:
    """Have every place of a network choose its phase another way."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.SelectPhase2d):
                setattr(parent, name, choice(child.stride))
    return model


def build(name: str) -> torch_nn.Module:
    """Build a network by the name of its candidate; equal seeds, so equal weights."""
    torch.manual_seed(0)
    if name.startswith(PUBLISHED):
        ours = shiftproof.create_model(name.removeprefix(PUBLISHED))
        model = PublishedResNet(name.removeprefix(PUBLISHED).removesuffix("_aps1"))
        model.load_state_dict(ours.state_dict())
        return model
    if name.endswith(NAIVE):
        return replace_selects(shiftproof.create_model(name.removesuffix(NAIVE)), NaiveSelect)
    return shiftproof.create_model(name)


def _images(trunk: Trunk, layout: str, device: str) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(trunk.batch, 3, trunk.size, trunk.size, generator=generator)
    return x.to(device).contiguous(memory_format=FORMATS[layout])


def _forward(trunk: Trunk, name: str, layout: str, compiled: bool, device: str) -> Prepared:
    x = _images(trunk, layout, device)
    model = build(name).eval().to(device).to(memory_format=FORMATS[layout])
    if compiled:
        model.compile()
    run = torch.no_grad()(lambda: model(x))
    # Two images are enough; a compiled network would be compiled again for them.
    some = x if compiled else x[:2]
    return Prepared(run, lambda: logits_error(model, some))


def _training(trunk: Trunk, name: str, layout: str, compiled: bool, device: str) -> Prepared:
    x = _images(trunk, layout, device)
    model = build(name).train().to(device).to(memory_format=FORMATS[layout])
    labels = torch.arange(trunk.batch, device=device) % 10
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)
    # Compiling for evaluation too would double the wait, for a number that eager mode shows.
    error = None if compiled else functools.partial(_error_of, model, x[:2])
    if compiled:
        model.compile()

    def step() -> None:
        torch.autograd.backward(F.cross_entropy(model(x), labels))
        optimizer.step()
        # Here, not first: a call then starts and ends with the same tensors alive.
        optimizer.zero_grad(set_to_none=True)

    return Prepared(step, error)


def _error_of(model: torch_nn.Module, x: Tensor) -> float:
    model.eval()
    error = logits_error(model, x)
    model.train()
    return error


_PASSES = {"forward": _forward, "training_step": _training}


def _quick(trunk: Trunk) -> Trunk:
    batch = max(trunk.batch // 16, 2)
    return dataclasses.replace(trunk, batch=batch, seconds=4.0, compiled_passes=())


def _eager(trunk: Trunk, what: str, common: dict[str, Any], device: str) -> Entry:
    """Every network in every layout."""
    prepare = _PASSES[what]
    return Entry(
        name=f"models/{trunk.name}/{what}",
        what=f"{what.replace('_', ' ')}, {trunk.shown}",
        candidates=tuple(
            Candidate(name, layout, functools.partial(prepare, trunk, name, layout, False, device))
            for name in trunk.networks
            for layout in FORMATS
        ),
        baseline=trunk.name,
        seconds=trunk.seconds,
        **common,
    )


def _compiled(trunk: Trunk, what: str, common: dict[str, Any], device: str) -> Entry:
    """Some networks in channels_last, eager and compiled."""
    prepare, layout = _PASSES[what], "channels_last"
    return Entry(
        name=f"models/{trunk.name}/{what}_compiled",
        what=f"{what.replace('_', ' ')} with torch.compile, {trunk.shown}",
        candidates=tuple(
            Candidate(
                f"{trunk.name}{kind}, {'compiled' if compiled else 'eager'}",
                layout,
                functools.partial(prepare, trunk, trunk.name + kind, layout, compiled, device),
            )
            for kind in trunk.compiled
            for compiled in (False, True)
        ),
        baseline=f"{trunk.name}, compiled",
        seconds=trunk.seconds / 2,
        **common,
    )


def model_entries(setup: Setup) -> Iterator[Entry]:
    """Each trunk, forward and training, eager and, for some, compiled."""
    for trunk in TRUNKS:
        if setup.quick:
            if trunk.name not in QUICK_TRUNKS:
                continue
            trunk = _quick(trunk)
        tests = ["tests/models/test_invariance.py"]
        if trunk.published:
            tests.append("tests/benchmarks/test_published_formulation.py")
        common = {"tests": tuple(tests), "images": trunk.batch}
        for what in _PASSES:
            yield _eager(trunk, what, common, setup.device)
            if what in trunk.compiled_passes:
                yield _compiled(trunk, what, common, setup.device)
