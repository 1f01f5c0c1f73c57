"""A small audit, measured once per process: of a network of the zoo on drawn pictures."""

import functools
import tempfile
from pathlib import Path

import torch
from PIL import Image
from torch import nn

from shiftproof.audit import Subject
from shiftproof.audit.images import list_pictures, read_photographs
from shiftproof.audit.run import AuditConfig, run_audit
from shiftproof.nn import Conv2d, GlobalMean, PolyphaseDownsample2d

SIZE = 16


def network(*, nan=False):
    torch.manual_seed(0)

    class Loud(nn.Module):
        """Logits far apart, and NaN for a fifth of all windows."""

        def forward(self, x):
            scaled = 30 * x
            if nan:
                scaled = torch.where((1e4 * x[:, :1]).floor() % 5 > 0, scaled, torch.nan)
            return scaled

    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 3, 3, 2, 1), GlobalMean(), Loud()
    ).eval()


def adaptive():
    torch.manual_seed(0)
    return nn.Sequential(
        Conv2d(3, 3, 3, padding=1, padding_mode="circular"),
        nn.ReLU(),
        PolyphaseDownsample2d(2),
        GlobalMean(),
    ).eval()


def subject(module, **kwargs):
    options = {"mean": (0.5,), "std": (0.25,), "num_outputs": 3}
    if isinstance(module, nn.Module):
        options["module"] = module
    return Subject("tiny <network>", module, SIZE, SIZE + 4, **{**options, **kwargs})


def draw(path, seed, mode="RGB", size=(40, 34)):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(seed))
    large = nn.functional.interpolate(noise, size[::-1], mode="bicubic").clamp(0, 1)
    values = (255 * large[0]).to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    Image.fromarray(values).convert(mode).save(path)


def photographs(folder, classes=("a", "b", "c"), count=2, mode="RGB"):
    for number, name in enumerate(classes):
        for index in range(count):
            draw(Path(folder) / name / f"{index}.png", 10 * number + index, mode)
    pictures = list_pictures("audit", folder)
    return pictures, read_photographs("audit", pictures)[0]


@functools.cache
def small_audit(kind="plain"):
    """One audit of each kind, shared by the tests of a process."""
    with tempfile.TemporaryDirectory() as folder:
        pictures, found = photographs(folder)
        module = {"plain": network, "adaptive": adaptive}.get(kind, lambda: network(nan=True))()
        against = ("locked", "converted") if kind == "plain" else ()
        config = AuditConfig("pictures", against, step=2, shifts=8, num_maps=2, stride=4)
        return run_audit(subject(module), found, pictures.folders, config)
