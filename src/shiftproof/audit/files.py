"""Networks that are files: ONNX, and exported programs of torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from shiftproof.motion.networks import session


@dataclass(frozen=True)
class OpenedFile:
    """A network read from a file.

    Attributes:
        network: From images to its outputs.
        size: Height and width of its images; None for any.
        channels: Their channels.
        batch: The only number of images that it takes; None for any.
        module: The network, if it is a module.
    """

    network: Callable[[Tensor], Any]
    size: int | None
    channels: int
    batch: int | None
    module: nn.Module | None = None


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise RuntimeError(f"{path}: the network must be a file, got none; check its name")


def _opened(
    path: Path, network: Callable[[Tensor], Any], shape: list[int | None], module: Any = None
) -> OpenedFile:
    batch, channels, height, width = shape
    if height != width and None not in (height, width):
        raise ValueError(
            f"{path}: the network must take square images, got {height}x{width}; export it again"
        )
    if channels not in (None, 1, 3):
        raise ValueError(
            f"{path}: the network must take images of 1 or 3 channels, got {channels}; export it "
            "with channels first"
        )
    return OpenedFile(network, height or width, channels or 3, batch, module)


def open_onnx(path: Path) -> OpenedFile:
    """Open a network for onnxruntime.

    Args:
        path: The file.

    Returns:
        The network, with the sizes that the file declares.

    Raises:
        RuntimeError: If the file or onnxruntime is missing.
        ValueError: If it is no network of images.
    """
    _check_file(path)
    try:
        opened = session(path)
    except RuntimeError:
        raise
    except Exception as error:  # whatever onnxruntime raises
        raise ValueError(
            f"{path}: the file must hold an ONNX network, got {' '.join(str(error).split())[:150]}"
            "; export it again"
        ) from error
    inputs = opened.get_inputs()
    if len(inputs) != 1 or len(inputs[0].shape) != 4:
        named = ", ".join(f"{i.name} {i.shape}" for i in inputs)
        raise ValueError(
            f"{path}: the network must take images (N, C, H, W) alone, got {named}; export it again"
        )
    (image,) = inputs
    dtypes = {"tensor(float)": torch.float32, "tensor(float16)": torch.float16}
    if image.type not in dtypes:
        raise ValueError(
            f"{path}: images must be float32 or float16, got {image.type}; export the network "
            "behind its normalisation"
        )

    def network(x: Tensor) -> list[Tensor]:
        x = x.to(dtypes[image.type]).contiguous()
        return [torch.as_tensor(y) for y in opened.run(None, {image.name: x.numpy()})]

    return _opened(path, network, [d if isinstance(d, int) else None for d in image.shape])


def open_program(path: Path, device: torch.device | str = "cpu") -> OpenedFile:
    """Open an exported program, a file of ``torch.export.save``.

    Args:
        path: The file.
        device: Where it runs.

    Returns:
        The network, with the sizes that it was exported for.

    Raises:
        RuntimeError: If the file is missing.
        ValueError: If it is no exported program of images.
    """
    _check_file(path)
    try:
        program = torch.export.load(path)
    except Exception as error:  # of zipfile, json, or torch
        raise ValueError(
            f"{path}: the file must hold an exported program, got "
            f"{' '.join(str(error).split())[:150]}; write it with torch.export.save"
        ) from error
    names = program.graph_signature.user_inputs
    nodes = [node for node in program.graph.nodes if node.op == "placeholder"]
    shapes = [node.meta["val"].shape for node in nodes if node.name in names]
    if len(shapes) != 1 or len(shapes[0]) != 4:
        found = ", ".join(str(tuple(shape)) for shape in shapes)
        raise ValueError(
            f"{path}: the program must take images (N, C, H, W) alone, got {found or 'no tensor'}; "
            "export it again"
        )
    module = program.module().to(device)
    sizes = [size if isinstance(size, int) else None for size in shapes[0]]
    return _opened(path, module, sizes, module)
