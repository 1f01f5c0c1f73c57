"""Entries of converted networks, beside the originals with circular padding."""

import functools
from collections.abc import Iterator

import torch
from torch import nn

import shiftproof
from benchmarks.entry import Candidate, Entry, Prepared, Setup
from benchmarks.equivariance import logits_error
from benchmarks.maps import FORMATS
from shiftproof.extras import require

BATCH, SIZE = 8, 224
CIRCULAR = "original, circular padding"
CONVERTED = "converted"
ORIGINAL = "original, zero padding"
CERTIFY_CONVERTED = "certify, converted"
CERTIFY_ORIGINAL = "certify, original"


def circular_resnet(model: nn.Module) -> nn.Module:
    """Give a ResNet of torchvision torch's own circular padding, in the pool of its stem too."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and any(module.padding):
            other = nn.Conv2d(1, 1, module.kernel_size, padding=module.padding)
            module.padding_mode = "circular"
            module._reversed_padding_repeated_twice = other._reversed_padding_repeated_twice
    model.maxpool = nn.Sequential(nn.CircularPad2d((1, 0, 1, 0)), nn.MaxPool2d(3, 2))
    return model


def build(arch: str, group: str) -> nn.Module:
    """Build a network by the name of its candidate; equal seeds, so equal weights."""
    torch.manual_seed(0)
    model: nn.Module = require("torchvision.models", extra="train").get_model(arch).eval()
    if group == CONVERTED:
        return shiftproof.convert(model, torch.randn(2, 3, SIZE, SIZE)).model
    return circular_resnet(model) if group == CIRCULAR else model


def _prepare(arch: str, group: str, layout: str, batch: int, size: int, device: str) -> Prepared:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, 3, size, size, generator=generator).to(device)
    x = x.contiguous(memory_format=FORMATS[layout])
    model = build(arch, group).to(device).to(memory_format=FORMATS[layout])
    return Prepared(torch.no_grad()(lambda: model(x)), lambda: logits_error(model, x[:2]))


def _prepare_verdict(arch: str, group: str, size: int, device: str) -> Prepared:
    x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0)).to(device)
    kind = {CERTIFY_CONVERTED: CONVERTED, CERTIFY_ORIGINAL: ORIGINAL}.get(group, group)
    model = build(arch, kind).to(device)
    if kind == group:
        return Prepared(torch.no_grad()(lambda: model(x)))
    return Prepared(lambda: shiftproof.certify(model, x))


def conversion_entries(setup: Setup) -> Iterator[Entry]:
    """ResNet-50 of torchvision, forward."""
    arch = "resnet18" if setup.quick else "resnet50"
    batch, size = (2, 64) if setup.quick else (BATCH, SIZE)
    for layout in FORMATS:
        yield Entry(
            name=f"conversion/{arch}/forward_{layout}",
            what=f"forward, {layout}, {batch} images of {size}x{size}, float32",
            candidates=tuple(
                Candidate(
                    group,
                    layout,
                    functools.partial(_prepare, arch, group, layout, batch, size, setup.device),
                )
                for group in (CIRCULAR, CONVERTED, ORIGINAL)
            ),
            baseline=CIRCULAR,
            tests=("tests/conversion/test_convert.py",),
            images=batch,
            seconds=25,
        )
    yield Entry(
        name=f"conversion/{arch}/certify",
        what=f"a verdict, 2 images of {size}x{size}, beside one forward pass of the same",
        candidates=tuple(
            Candidate(
                group,
                "NCHW",
                functools.partial(_prepare_verdict, arch, group, size, setup.device),
            )
            for group in (CONVERTED, ORIGINAL, CERTIFY_CONVERTED, CERTIFY_ORIGINAL)
        ),
        baseline=CONVERTED,
        tests=("tests/certification/test_certify.py",),
        seconds=90,
        memory=False,
    )
