"""Class folders of image files: listing them, reading a file, and how many may be broken."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shiftproof.extras import require

_SYSTEM_FOLDERS = (
    *("@eaDir", "@Recycle", "__MACOSX", "__pycache__", "lost+found"),
    *("$RECYCLE.BIN", "System Volume Information"),
)


def _is_hidden(name: str) -> bool:
    """Whether an editor, a file server or an archive made this, and no one meant a class by it."""
    return name.startswith(".") or name in _SYSTEM_FOLDERS


def _folders(root: Path) -> list[str]:
    return [entry.name for entry in root.iterdir() if entry.is_dir()]


def list_classes(operation: str, root: str | os.PathLike[str]) -> tuple[str, ...]:
    """Names of the class folders; hidden ones and those of the system are none.

    Args:
        operation: Name of the caller, for the error message.
        root: Folder of class folders.

    Returns:
        The names, sorted.

    Raises:
        RuntimeError: If there is no such folder, or no folder in it.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        raise RuntimeError(
            f"{operation}: the folder must exist, got {root}; "
            "pass a folder with one subfolder of images per class"
        )
    classes = sorted(name for name in _folders(root) if not _is_hidden(name))
    if not classes:
        raise RuntimeError(
            f"{operation}: the folder must hold one subfolder of images per class, "
            f"got none in {root}; move each image into the folder of its class"
        )
    return tuple(classes)


def list_images(
    operation: str, root: str | os.PathLike[str]
) -> tuple[tuple[str, ...], list[tuple[str, int]], tuple[str, ...]]:
    """List the image files of all classes, as torchvision's ``ImageFolder`` does.

    Hidden files and folders, such as ``.ipynb_checkpoints`` and ``._photo.jpg``, and those of file
    servers and archives, such as ``@eaDir`` and ``__MACOSX``, are left out, in a class too.

    Args:
        operation: Name of the caller, for the error message.
        root: Folder of class folders.

    Returns:
        The class names, sorted; (path, class number) of each image, sorted by both; and the
        hidden folders beside the classes and hidden images and folders of images in them.

    Raises:
        RuntimeError: If the folder is missing, has no class folders, or a class has no image.
    """
    classes = list_classes(operation, root)
    root = Path(root).expanduser()
    folder = require("torchvision.datasets.folder", extra="train")
    found = folder.make_dataset(
        str(root),
        {name: number for number, name in enumerate(classes)},
        extensions=folder.IMG_EXTENSIONS,
        allow_empty=True,
    )
    samples = []
    left_out = {Path(name) for name in _folders(root)}.difference(map(Path, classes))
    for path, number in found:
        parts = Path(path).relative_to(root).parts
        depth = next((place for place, name in enumerate(parts) if _is_hidden(name)), None)
        if depth is None:
            samples.append((path, number))
        else:
            left_out.add(Path(*parts[: depth + 1]))
    filled = {number for _, number in samples}
    empty = [name for number, name in enumerate(classes) if number not in filled]
    if empty:
        raise RuntimeError(
            f"{operation}: each class must have an image, got none for "
            f"{', '.join(empty[:5])}{', ...' if empty[5:] else ''} in {root}; "
            "add images or remove the folder"
        )
    return classes, samples, tuple(str(root / path) for path in sorted(left_out))


class UnusableImageError(RuntimeError):
    """An image that is not broken, and yet could not be read: the run must not go on without it."""

    def __init__(self, text: str) -> None:
        # From a worker of a DataLoader comes the trace with the text in its last line.
        super().__init__(text.strip().splitlines()[-1].split(f"{type(self).__name__}: ")[-1])


def _machine_error(path: str, reason: object, way_out: str) -> UnusableImageError:
    return UnusableImageError(
        f"read_image: each image must be readable here, got {path} ({reason}); {way_out}"
    )


_WAYS_OUT = {
    errno.EMFILE: "allow more open files (ulimit -n) or use fewer workers",
    errno.ENFILE: "allow more open files or use fewer workers",
    errno.EACCES: "make the file readable for this user",
    errno.EPERM: "make the file readable for this user",
    errno.EIO: "check the disk",
}


def _grey_in_8_bits(image: Any, path: str) -> Any:
    """Grey values of more than 8 bits scaled to 8; Pillow takes all above 255 for white."""
    bits = 16
    if image.mode.startswith("I;16"):
        tags = getattr(image, "tag_v2", None)  # of TIFF, which knows 12 bits too
        bits = 16 if tags is None else int(tags.get(258, (16,))[0])
    elif image.mode == "F" or image.format not in ("PNG", "PPM"):
        raise UnusableImageError(
            f"read_image: pixels must have a known range, got {path} in mode {image.mode}; "
            "save it with 8 or 16 bits"
        )
    numpy = require("numpy", extra="train")
    values = numpy.asarray(image).astype("uint32") >> (bits - 8)
    return require("PIL.Image", extra="train").fromarray(values.astype("uint8"))


def _load(path: str) -> Any:
    """Decode a file and turn it upright."""
    with require("PIL.Image", extra="train").open(path) as image:
        image.load()
        try:
            upright = require("PIL.ImageOps", extra="train").exif_transpose(image)
        except Exception:  # broken EXIF says nothing of the pixels
            upright = image.copy()
        upright.format = image.format
        if hasattr(image, "tag_v2"):
            upright.tag_v2 = image.tag_v2
        return upright


_QUIET = threading.Lock()


def read_image(path: str, *, mode: str | None = None) -> Any:
    """Decode an image file, turned upright as its EXIF orientation says.

    Grey images of 16 bits are scaled to 8 bits, transparency is dropped, and of an animation the
    first frame is taken.

    Args:
        path: The file.
        mode: Pillow mode to convert to, for instance ``"RGB"``; the file's own by default.

    Returns:
        A Pillow image, or ``None`` if the file is missing, truncated or not an image.

    Raises:
        RuntimeError: If the machine is at fault and not the file (no permission, too many open
            files, no memory), the image is larger than Pillow's limit, or its pixels have no known
            range.
    """
    pillow = require("PIL.Image", extra="train")
    try:
        try:
            image = _load(path)
        except Warning:  # where warnings are errors, of something odd in a file that can be read
            with _QUIET, warnings.catch_warnings():
                warnings.simplefilter("ignore")
                image = _load(path)
    except pillow.DecompressionBombError as error:
        way_out = "make it smaller or raise PIL.Image.MAX_IMAGE_PIXELS"
        raise _machine_error(path, str(error).split(",")[0], way_out) from error
    except MemoryError as error:
        raise _machine_error(path, "out of memory", "use fewer workers") from error
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno is None:  # Pillow's own: truncated, or not an image
            return None
        way_out = _WAYS_OUT.get(error.errno, "check the file")
        raise _machine_error(path, error.strerror, way_out) from error
    except Exception:  # Pillow's decoders raise what broken bytes happen to trip over.
        return None
    if mode is None or image.mode == mode:
        return image
    if image.mode[0] in "IF":
        image = _grey_in_8_bits(image, path)
    with contextlib.suppress(KeyError):
        if isinstance(image.info["transparency"], bytes):  # else Pillow warns
            image = image.convert("RGBA")
    try:
        return image.convert(mode)
    except ValueError as error:
        raise _machine_error(path, error, f"save it in mode {mode}") from error


def default_max_unreadable(num_images: int) -> int:
    """How many broken files are tolerated: one in a hundred, rounded up.

    Args:
        num_images: Images in the data set.

    Returns:
        The largest number that is not an error.
    """
    return math.ceil(num_images / 100)


def check_unreadable(operation: str, unreadable: Sequence[str], max_unreadable: int) -> None:
    """Stop when too many files are broken.

    Args:
        operation: Name of the caller, for the error message.
        unreadable: Files that could not be read.
        max_unreadable: Largest number that is not an error.

    Raises:
        RuntimeError: If there are more.
    """
    if len(unreadable) > max_unreadable:
        raise RuntimeError(
            f"{operation}: at most {max_unreadable} images may be unreadable, got "
            f"{len(unreadable)}: {', '.join(unreadable[:3])}{', ...' if unreadable[3:] else ''}; "
            "replace or delete these files"
        )
