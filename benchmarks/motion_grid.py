"""How well the grid stays with the scene: offsets of moves, drift over many frames, cuts."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from shiftproof.extras import require
from shiftproof.motion import LockedCrop, VideoLock, locate_grid
from shiftproof.motion.pans import Pan
from shiftproof.nn import CornerStrength, DifferenceOfGaussians, Energy
from shiftproof.ops.torus import fold

STRIDE = 32
NOISE = 2.0
RADIUS = 60
SELECTORS: dict[str, torch.nn.Module] = {
    "corner strength": CornerStrength(),
    "difference of Gaussians": DifferenceOfGaussians(),
    "energy": Energy(2),
    "absolute values": Energy(1),
}
DISTURBANCES: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "none": lambda x, g: x,
    "noise of 2 / 255": lambda x, g: x + NOISE / 255 * torch.randn(x.shape, generator=g),
    "exposure, 0.9 to 1.1": lambda x, g: (
        x * torch.linspace(0.9, 1.1, len(x)).reshape(-1, 1, 1, 1)
    ).clamp(0, 1),
    "JPEG of quality 75": lambda x, g: _jpeg(x),
}


def _jpeg(x: Tensor) -> Tensor:
    io = require("torchvision.io", extra="train")
    images = (255 * x).round().clamp(0, 255).to(torch.uint8)
    return torch.stack([io.decode_jpeg(io.encode_jpeg(i, quality=75)) for i in images]) / 255


def measure_offsets(photographs: Sequence[Tensor], size: int = 224) -> list[dict[str, Any]]:
    """How well the offset stays with the content: share of moves with the same grid, and slip."""
    rows = []
    moves = [(0.0, 0.25), (0.3, 0.37), (0.0, 1.0), (1.0, 0.0), (0.0, 4.0), (8.0, 0.0), (0.0, 8.0)]
    for disturbance, disturb in DISTURBANCES.items():
        generator = torch.Generator().manual_seed(0)
        pairs: dict[tuple[float, float], list[Tensor]] = {}
        for photograph in photographs:
            for move in moves:
                pan = Pan(move, 2, size, scale=1.0)
                frames = disturb(pan.frames(photograph), generator)
                pairs.setdefault(move, []).append(frames)
        stacked = {move: torch.cat(frames) for move, frames in pairs.items()}
        for stride in (2, 8, 16, 32):
            for name, selector in SELECTORS.items():
                tapers = ("sine", "hann", "none") if disturbance == "none" else ("sine",)
                for taper in tapers:
                    for move, frames in stacked.items():
                        place = torch.cat(
                            [
                                locate_grid(part, stride, selector, taper=taper).offset
                                for part in frames.split(28)
                            ]
                        ).reshape(-1, 2, 2)
                        slip = place[:, 1] - place[:, 0] + torch.tensor(move)
                        far = fold(slip, stride).norm(dim=1)
                        quantiles = torch.quantile(far, torch.tensor([0.5, 0.9, 0.99])).tolist()
                        rows.append(
                            {
                                "disturbance": disturbance,
                                "stride": stride,
                                "selector": name,
                                "taper": taper,
                                "move": list(move),
                                "photographs": len(far),
                                "same": float((far < 0.5).double().mean()),
                                "slip": quantiles,
                            }
                        )
    return rows


DRIFTS: tuple[tuple[float, float], ...] = ((1.0, 0.0), (4.0, 0.0), (0.0, NOISE))
"""Pixels per frame around a circle, and the noise."""


def measure_drift(photographs: Sequence[Tensor], size: int = 224) -> list[dict[str, Any]]:
    """How far the grid slips in the scene over 500 frames around a circle of 60 pixels.

    Of every third photograph, in grey.
    """
    rows = []
    crop = LockedCrop(size, STRIDE, resize_size=size + STRIDE)
    for speed, noise in DRIFTS:
        pan = Pan((0.0, 0.0), size=size + STRIDE, room=160, noise=noise)
        angles = speed / RADIUS * torch.arange(500)
        places = RADIUS * torch.stack([angles.sin(), angles.cos()], 1)
        generator = torch.Generator().manual_seed(0)
        found = []
        for photograph in photographs[::3]:
            grey, video = photograph.mean(0, keepdim=True), VideoLock(crop)
            offsets = [video.offset(pan.at(grey, p, generator)) for p in places.split(50)]
            slip = torch.cat(offsets) + places
            found.append(fold(slip - slip[0], STRIDE))
        far = torch.stack(found).norm(dim=2)
        steps = fold(torch.stack(found).diff(dim=1), STRIDE).norm(dim=2)
        at = torch.tensor([0.5, 0.9, 1.0])
        rows.append(
            {
                "speed": speed,
                "noise": noise,
                "frames": len(places),
                "photographs": len(far),
                "end": torch.quantile(far[:, -1], at).tolist(),
                "furthest": torch.quantile(far.amax(1), at).tolist(),
                "largest_step": float(steps.max()),
            }
        )
        print(*rows[-1].values(), flush=True)
    return rows


def measure_cuts(photographs: Sequence[Tensor], size: int = 224) -> dict[str, Any]:
    """Cuts from each photograph to each other one: whether the next frame is placed anew.

    Two frames of a pan are seen before, and two after.
    """
    crop = LockedCrop(size, STRIDE, resize_size=size + STRIDE)
    pan = Pan((0.0, 1.0), 2, size + STRIDE)
    shots = [pan.frames(photograph.mean(0, keepdim=True)) for photograph in photographs]
    places = [crop.offset(shot[:1])[0] for shot in shots]
    cuts = released = jumps = 0
    for before, shot in enumerate(shots):
        video = VideoLock(crop)
        video.offset(shot)
        for after, other in enumerate(shots):
            if before != after:
                offset = copy.deepcopy(video).offset(other)
                step = fold(offset[1] - offset[0] + torch.tensor(pan.step), STRIDE)
                cuts += 1
                released += bool((offset[0] - places[after]).norm() < 1e-3)
                jumps += bool(step.norm() > 0.5)
    return {"cuts": cuts, "released": released, "jumps_after": jumps}
