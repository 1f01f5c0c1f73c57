"""What is measured: any network as a function from images to logits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from shiftproof.audit.defaults import Preset, preset_of
from shiftproof.audit.files import open_onnx, open_program
from shiftproof.data.image_folder import IMAGENET_MEAN, IMAGENET_STD
from shiftproof.models.named import named_model

_USUAL = 224
"""Height and width where nothing else is known."""

_BATCH = 16
"""Images that are run at a time."""


@dataclass(frozen=True)
class Subject:
    """A network as a function from RGB images in [0, 1] to logits.

    Attributes:
        name: What it is called in tables.
        network: From normalised images ``(N, C, H, W)`` to whatever it returns.
        size: Height and width of the images that it is made for, in pixels.
        resize_size: Shorter side that photographs are brought to before a window of ``size`` is
            cut; larger than the window by a total stride, where that is known.
        mean: Subtracted from images in [0, 1], one number or one per channel.
        std: What they are then divided by.
        channels: Channels of the images that it takes; 1 gets the mean of the three.
        num_outputs: Number of logits.
        stride: Total stride in pixels, if known without a measurement.
        module: The network, if it is a module of torch.
        batch: The only number of images that it takes; None for any.
    """

    name: str
    network: Callable[[Tensor], Any]
    size: int
    resize_size: int
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    channels: int = 3
    num_outputs: int = 0
    stride: int | None = None
    module: nn.Module | None = None
    batch: int | None = None

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        first = None if self.module is None else next(self.module.parameters(), None)
        return torch.device("cpu") if first is None else first.device

    def normalised(self, images: Tensor) -> Tensor:
        """What the network is given for images.

        Args:
            images: RGB in [0, 1], ``(N, 3, H, W)``.

        Returns:
            Normalised images, ``(N, channels, H, W)``, on the device of the network.
        """
        x = images.to(self.device)
        x = x.mean(1, keepdim=True) if self.channels == 1 else x
        mean, std = (x.new_tensor(numbers).reshape(-1, 1, 1) for numbers in (self.mean, self.std))
        x = (x - (mean.mean(0) if self.channels == 1 else mean)) / (
            std.mean(0) if self.channels == 1 else std
        )
        return x.contiguous(memory_format=torch.channels_last)

    def predict(self, images: Tensor) -> Tensor:
        """Logits of images.

        Args:
            images: RGB in [0, 1], ``(N, 3, H, W)``, of the size that the network takes.

        Returns:
            Logits, ``(N, num_outputs)``, float32 on the CPU.

        Raises:
            ValueError: If the network returns no logits, or it is not clear which they are.
        """
        with torch.inference_mode():
            pieces: tuple[Tensor, ...] = torch.split(images, self.batch or _BATCH)
            parts = [self._run(self.normalised(piece)) for piece in pieces if len(piece)]
        return torch.cat(parts).cpu() if parts else torch.zeros(0, self.num_outputs)

    def _run(self, x: Tensor) -> Tensor:
        count = len(x)
        if self.batch is not None and count < self.batch:
            x = torch.cat([x, x[-1:].expand(self.batch - count, -1, -1, -1)])
        logits = find_logits(self.name, self.network(x), len(x))
        return logits[:count].float()

    def logits(self, x: Tensor) -> Tensor:
        """Logits of images that are normalised already, in one batch where the network takes it.

        Args:
            x: What ``normalised`` gives, or shifted versions of it, ``(N, channels, H, W)``.

        Returns:
            Logits, ``(N, num_outputs)``, float32 on the device of ``x``.

        Raises:
            ValueError: If the network returns no logits, or it is not clear which they are.
        """
        pieces: tuple[Tensor, ...] = torch.split(x, self.batch or max(1, len(x)))
        with torch.no_grad():
            return torch.cat([self._run(piece) for piece in pieces]).to(x.device)

    def probabilities(self, images: Tensor) -> Tensor:
        """Class probabilities of images: the softmax of the logits.

        Args:
            images: RGB in [0, 1], ``(N, 3, H, W)``.

        Returns:
            Probabilities, ``(N, num_outputs)``.
        """
        return self.predict(images).softmax(1)


def find_logits(name: str, result: Any, count: int) -> Tensor:
    """The logits among what a network returns.

    Args:
        name: Name of the network, for the error message.
        result: A tensor, or a mapping, an object with ``logits`` or a sequence that holds one.
        count: Number of images.

    Returns:
        The logits, ``(N, num_outputs)``.

    Raises:
        ValueError: If there are none, or it is not clear which they are.
    """
    given = result
    if isinstance(result, Mapping) and "logits" in result:
        given = result["logits"]
    elif not isinstance(result, Tensor) and isinstance(getattr(result, "logits", None), Tensor):
        given = result.logits
    if isinstance(given, Tensor):
        found = [given]
    elif isinstance(given, Mapping):
        found = [value for value in given.values() if isinstance(value, Tensor)]
    elif isinstance(given, Sequence):
        found = [value for value in given if isinstance(value, Tensor)]
    else:
        found = []
    tables = [
        x.flatten(1)
        for x in found
        if x.ndim >= 2 and len(x) == count and x.is_floating_point() and x[0].numel() == x.shape[1]
    ]
    if len(tables) == 1 and tables[0].shape[1] > 1:
        return tables[0]
    raise ValueError(
        f"{name}: the network must return logits (N, classes), got {_described(result)}; name a "
        "function FILE.py:CALLABLE that builds a network which returns them alone"
    )


def _described(result: Any) -> str:
    if isinstance(result, Tensor):
        return f"a tensor of shape {tuple(result.shape)}"
    if isinstance(result, Mapping):
        parts = [f"{key} {_described(value)}" for key, value in list(result.items())[:4]]
        return f"a {type(result).__name__} of {', '.join(parts) or 'nothing'}"
    if isinstance(result, Sequence) and not isinstance(result, str):
        parts = [_described(value) for value in result[:4]]
        return f"a {type(result).__name__} of {', '.join(parts) or 'nothing'}"
    return type(result).__name__


def load_subject(
    spec: str,
    weights: str | None = None,
    *,
    untrained: bool = False,
    size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    name: str | None = None,
    device: torch.device | str = "cpu",
) -> Subject:
    """Make a subject of what a command line names.

    Sizes and normalisation are those of the library's preset for the network (timm, torchvision),
    of the file (ONNX, exported programs), or 224 pixels and ImageNet's.

    Args:
        spec: A name of ``shiftproof list``, ``torchvision:NAME``, ``timm:NAME``,
            ``MODULE:CALLABLE``, ``FILE.py:CALLABLE``, ``FILE.onnx`` or ``FILE.pt2``.
        weights: See ``named_model``; files bring their own.
        untrained: Whether random weights will do.
        size: Height and width in pixels, in the place of the preset's.
        mean: Normalisation in the place of the preset's, one number or one per channel, of images
            in [0, 1].
        std: Likewise.
        name: What it is called; the spec without folders if None.
        device: Where the network runs.

    Returns:
        The subject, which has answered once.

    Raises:
        ValueError: If there is no such network, it does not take images of this size, or it
            returns no logits.
        RuntimeError: If a file or a package is missing.
    """
    path = Path(spec)
    if path.suffix in (".onnx", ".pt2"):
        if weights is not None or untrained:
            raise ValueError(
                f"{spec}: a file brings its weights, got --weights or --untrained; leave it out"
            )
        opened = open_onnx(path) if path.suffix == ".onnx" else open_program(path, device)
        network, module, batch = opened.network, opened.module, opened.batch
        channels, preset = opened.channels, Preset(size=opened.size)
    else:
        torch.manual_seed(0)
        module = named_model(spec, weights, untrained=untrained).eval().to(device)
        module = module.to(memory_format=torch.channels_last)
        network, batch, preset = module, None, preset_of(spec, module)
        channels = _channels(module)
    if size is not None and size < 1:
        raise ValueError(f"--size: must be at least 1, got {size}; enlarge it")
    if path.suffix in (".onnx", ".pt2") and size not in (None, preset.size or size):
        raise ValueError(
            f"{spec}: the file takes images of {preset.size} pixels, got --size {size}; leave it "
            "out"
        )
    if size is not None and size != preset.size:
        preset = dataclasses.replace(preset, size=size, resize_size=None)
    pixels = preset.size or _USUAL
    subject = Subject(
        name=name or path.name,
        network=network,
        size=pixels,
        resize_size=max(preset.resize_size or 0, pixels + (preset.stride or -(-pixels // 7))),
        mean=_numbers("mean", mean, preset.mean),
        std=_numbers("std", std, preset.std),
        channels=channels,
        stride=preset.stride,
        module=module,
        batch=batch,
    )
    return dataclasses.replace(subject, num_outputs=_count_outputs(subject))


def _numbers(
    what: str, given: Sequence[float] | None, default: tuple[float, ...]
) -> tuple[float, ...]:
    numbers = default if given is None else tuple(map(float, given))
    if len(numbers) not in (1, 3) or (what == "std" and min(numbers) <= 0):
        raise ValueError(
            f"--{what}: must be 1 or 3 numbers{', above 0' * (what == 'std')}, got "
            f"{' '.join(map(str, numbers)) or 'none'}; pass those of the training, for images in "
            "[0, 1]"
        )
    return numbers


def _channels(module: nn.Module) -> int:
    """Channels that the first convolution reads."""
    first = next((m for m in module.modules() if isinstance(m, nn.Conv2d)), None)
    return 1 if first is not None and first.in_channels == 1 else 3


def _count_outputs(subject: Subject) -> int:
    """Run the network once."""
    images = torch.rand(2, 3, *[subject.size] * 2, generator=torch.Generator().manual_seed(0))
    try:
        return subject.predict(images).shape[1]
    except ValueError as error:
        if str(error).startswith(f"{subject.name}: "):
            raise
        problem: Exception = error
    except Exception as error:  # whatever a stranger's network raises
        problem = error
    text = " ".join(str(problem).split())
    raise ValueError(
        f"{subject.name}: the network must take images of {subject.size}x{subject.size}, got "
        f"{type(problem).__name__} ({text[:300]}); choose another --size"
    ) from problem
