import errno
import itertools
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from shiftproof.data.folders import (
    check_unreadable,
    default_max_unreadable,
    list_classes,
    read_image,
)
from shiftproof.data.image_folder import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    ImageFiles,
    imagenet_transform,
    open_imagenet,
)
from shiftproof.data.loading import make_loader
from shiftproof.data.plan import Batch, EvalPlan
from shiftproof.data.transforms import CircularAugment
from shiftproof.ops.shift import circular_shift


def write_images(folder: Path, count: int, seed: int = 0) -> None:
    folder.mkdir(parents=True)
    draw = np.random.default_rng(seed)
    for number in range(count):
        coarse = draw.integers(0, 256, (5, 6, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((60, 50)).save(folder / f"{number}.jpg")


@pytest.fixture
def root(tmp_path) -> Path:
    for split, count in (("train", 3), ("val", 2)):
        for seed, name in enumerate(("ant", "bee", "cow")):
            write_images(tmp_path / split / name, count, seed)
    return tmp_path


def files(root: Path, *, train: bool = True, **options) -> ImageFiles:
    transform = imagenet_transform(train, resize=24, crop=16)
    return ImageFiles(root / "train", transform, **options)


def test_a_batch_is_decoded_cropped_and_normalised(root):
    data = files(root, train=False)
    examples = data[Batch((4, 0), seed=0, step_size=2)]
    assert examples.images.shape == (2, 3, 16, 16)
    assert (examples.labels.tolist(), examples.indices.tolist()) == ([1, 0], [4, 0])
    small = Image.open(data.paths[4]).convert("RGB").resize((28, 24), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(small)).permute(2, 0, 1)[:, 4:20, 6:22].float() / 255
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    assert torch.equal(examples.images[0], (pixels - mean) / std)


def test_flips_follow_the_batch_seed_and_leave_the_global_generator_alone(root):
    data = files(root)
    plain = files(root, train=False)[Batch(tuple(range(9)), seed=0, step_size=9)].images
    before = torch.get_rng_state()
    seen = []
    for seed in range(4):
        images = data[Batch(tuple(range(9)), seed=seed, step_size=9)].images
        torch.rand(3)  # a stream that runs on must not matter
        assert torch.equal(data[Batch(tuple(range(9)), seed=seed, step_size=9)].images, images)
        seen.append([bool(torch.equal(a, b.flip(-1))) for a, b in zip(images, plain, strict=True)])
        torch.set_rng_state(before)
    assert len({tuple(mirrored) for mirrored in seen}) > 1
    data[Batch((0,), seed=0, step_size=1)]
    assert torch.equal(torch.get_rng_state(), before)


def test_the_batch_transform_sees_the_stack_and_a_seed_of_its_own(root):
    data = files(root, train=False, batch_transform=CircularAugment(4))
    plain = files(root, train=False)[Batch((0, 1, 2), seed=0, step_size=3)].images
    drawn = set()
    for seed in range(6):
        images = data[Batch((0, 1, 2), seed=seed, step_size=3)].images
        shifts = [(y, x) for y in range(-4, 4) for x in range(-4, 4)]
        found = [s for s in shifts if torch.equal(circular_shift(plain, s), images)]
        assert len(found) == 1
        drawn.add(found[0])
    assert len(drawn) > 1


def test_broken_files_are_left_out_and_named(root):
    data = files(root)
    truncated, other = Path(data.paths[1]), Path(data.paths[5])
    truncated.write_bytes(truncated.read_bytes()[:400])
    other.write_text("not an image")
    examples = data[Batch((0, 1, 4, 5), seed=3, step_size=4)]
    assert examples.unreadable == (str(truncated), str(other))
    assert (examples.indices.tolist(), examples.labels.tolist()) == ([0, 4], [0, 1])
    assert examples.images.shape == (2, 3, 16, 16)
    empty = files(root, batch_transform=CircularAugment(2))[Batch((1, 5), seed=3, step_size=2)]
    assert empty.images.shape == (0, 3, 16, 16)
    assert (len(empty), empty.labels.dtype) == (0, torch.int64)
    other.unlink()
    assert data[Batch((5,), seed=0, step_size=1)].unreadable == (str(other),)


def test_grey_and_transparent_images_become_rgb(root):
    for mode in ("L", "RGBA", "P", "CMYK"):
        path = root / f"{mode}.{'jpg' if mode == 'CMYK' else 'png'}"
        Image.new(mode, (8, 8)).save(path)
        assert read_image(str(path), mode="RGB").mode == "RGB"
        assert read_image(str(path)).mode == mode


def read_grey(path: Path, image: Image.Image, **options) -> np.ndarray:
    image.save(path, **options)
    read = read_image(str(path), mode="RGB")
    assert read.mode == "RGB"
    return np.asarray(read)[..., 0]


@pytest.mark.parametrize("name", ["x.png", "x.tif", "x.pgm"])
def test_grey_images_of_16_bits_are_scaled(tmp_path, name):
    deep = np.arange(0, 1 << 16, 64, dtype=np.uint16).reshape(32, 32)
    assert np.array_equal(read_grey(tmp_path / name, Image.fromarray(deep)), deep >> 8)
    shallow = np.arange(256, dtype=np.uint8).reshape(16, 16)
    as_deep = Image.fromarray(shallow.astype(np.uint16) * 257)
    assert np.array_equal(read_grey(tmp_path / name, as_deep), shallow)
    assert np.array_equal(read_grey(tmp_path / name, Image.fromarray(shallow)), shallow)


def test_pixels_without_a_known_range_are_refused(tmp_path):
    for dtype, mode in ((np.float32, "F"), (np.int32, "I")):
        path = tmp_path / f"{mode}.tif"
        Image.fromarray(np.ones((4, 4), dtype)).save(path)
        with pytest.raises(
            RuntimeError, match=rf"known range, got .*{mode}.tif in mode {mode}; save"
        ):
            read_image(str(path), mode="RGB")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_turned_upright(tmp_path, orientation):
    turns = (None, 0, 3, 1, 5, 2, 6, 4)  # how a camera held that way stores the upright image
    upright = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(6, 8) * 5)
    how = turns[orientation - 1]
    stored = upright if how is None else upright.transpose(Image.Transpose(how))
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(read_grey(tmp_path / "x.png", stored, exif=exif), np.asarray(upright))


def test_broken_exif_does_not_cost_the_image(tmp_path, monkeypatch):
    def fail(_):
        raise SyntaxError("not a TIFF file")

    monkeypatch.setattr("PIL.ImageOps.exif_transpose", fail)
    grey = np.arange(16, dtype=np.uint8).reshape(4, 4)
    assert np.array_equal(read_grey(tmp_path / "x.png", Image.fromarray(grey)), grey)


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [
        *itertools.product(("1", "L", "P", "RGB", "RGBA"), ("gif", "webp", "bmp", "png", "tif")),
        *(("LA", "png"), ("CMYK", "tif"), ("CMYK", "jpg"), ("YCbCr", "jpg")),
    ],
)
def test_every_usual_kind_of_image_becomes_rgb(tmp_path, mode, suffix):
    path = tmp_path / f"x.{suffix}"
    Image.new("RGB", (8, 8), (250, 250, 250)).convert(mode).save(path)
    assert np.asarray(read_image(str(path), mode="RGB")).mean() > 240


ERRORS = {
    "descriptors": (OSError(errno.EMFILE, "Too many open files"), "Too many open files"),
    "permission": (PermissionError(errno.EACCES, "Permission denied"), "Permission denied"),
    "disk": (OSError(errno.EIO, "Input/output error"), "Input/output error"),
    "memory": (MemoryError(), "out of memory"),
}


@pytest.mark.parametrize("name", ERRORS)
@pytest.mark.parametrize("step", ["PIL.Image.open", "PIL.ImageFile.ImageFile.load"])
def test_a_fault_of_the_machine_is_not_a_broken_image(root, monkeypatch, name, step):
    error, reason = ERRORS[name]
    data = files(root)

    def fail(*_):
        raise error

    monkeypatch.setattr(step, fail)
    message = rf"must be readable here, got .*0.jpg \({reason}\); "
    with pytest.raises(RuntimeError, match=message):
        data[Batch((0,), seed=0, step_size=1)]


def test_an_image_above_the_limit_of_pillow_is_named(root, monkeypatch):
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 1000)
    path = files(root).paths[0]
    with pytest.raises(RuntimeError, match=r"0.jpg \(Image size \(3000 pixels\) exceeds .*; make"):
        read_image(path)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_fault_in_a_worker_is_told_in_the_same_line(root, monkeypatch, workers):
    data = files(root)
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 1000)
    plan = EvalPlan(len(data), 2)
    loader = make_loader(data, plan, workers=workers, device=torch.device("cpu"))
    with pytest.raises(RuntimeError, match=r"^read_image: .*0.jpg \(Image size") as raised:
        next(iter(loader))
    assert "\n" not in str(raised.value)


def test_warnings_as_errors_cost_no_image(tmp_path, monkeypatch):
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 50)  # 64 pixels are worth a warning
    palette = Image.new("P", (8, 8))
    palette.info["transparency"] = bytes(range(16))
    palette.save(tmp_path / "palette.png")
    Image.new("L", (8, 8)).save(tmp_path / "large.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for path in tmp_path.iterdir():
            assert read_image(str(path), mode="RGB").size == (8, 8)


def test_hidden_files_and_folders_are_no_images(root):
    plain = files(root)
    image = Path(plain.paths[0])
    for folder in (".ipynb_checkpoints", "@eaDir", "__MACOSX", "lost+found", "bee/@eaDir/x"):
        (root / "train" / folder).mkdir(parents=True)
        shutil.copy(image, root / "train" / folder / "a.jpg")
    (root / "train" / "ant" / ".DS_Store").write_text("no image")
    for name in ("ant/._0.jpg", "cow/.hidden.jpg"):
        shutil.copy(image, root / "train" / name)
    data = files(root)
    assert (data.classes, data.paths) == (plain.classes, plain.paths)
    assert torch.equal(data.labels, plain.labels)
    names = {".ipynb_checkpoints", "@eaDir", "__MACOSX", "lost+found", "bee/@eaDir", "ant/._0.jpg"}
    names.add("cow/.hidden.jpg")
    assert set(data.left_out) == {str(root / "train" / name) for name in names}
    assert open_imagenet(root, train=False)[1].classes == plain.classes
    assert plain.left_out == ()


def test_hidden_folders_alone_are_no_classes(tmp_path):
    write_images(tmp_path / ".cache", 1)
    with pytest.raises(RuntimeError, match="one subfolder of images per class, got none"):
        list_classes("ImageFiles", tmp_path)


def test_images_are_listed_as_torchvision_lists_them(root):
    write_images(root / "train" / "bee" / "deeper" / "still", 2)
    expected = torchvision.datasets.ImageFolder(root / "train")
    data = files(root)
    assert list(zip(data.paths, data.labels.tolist(), strict=True)) == expected.samples


def test_validation_counts_the_classes_of_training(root):
    val = ImageFiles(root / "val", imagenet_transform(False), ["ape", "ant", "bee", "cow"])
    assert val.labels.tolist() == [1, 1, 2, 2, 3, 3]
    assert val.classes == ("ape", "ant", "bee", "cow")
    with pytest.raises(ValueError, match=r"one of the 2 of training, got bee in .*val"):
        ImageFiles(root / "val", imagenet_transform(False), ["ant", "cow"])


def test_missing_and_empty_folders_are_refused(root):
    (root / "train" / "dog").mkdir()
    (root / "train" / "dog" / "readme.txt").write_text("no image")
    with pytest.raises(RuntimeError, match=r"each class must have an image, got none for dog in"):
        files(root)
    (root / "bare").mkdir()
    with pytest.raises(RuntimeError, match=r"one subfolder of images per class, got none in"):
        ImageFiles(root / "bare", imagenet_transform(False))
    with pytest.raises(RuntimeError, match=r"the folder must exist, got .*absent"):
        list_classes("ImageFiles", root / "absent")


def test_open_imagenet_gives_both_splits(root):
    train, val = open_imagenet(root, resize=24, crop=16, batch_transform=CircularAugment(2))
    assert train is not None
    assert (len(train), len(val)) == (9, 6)
    assert val.classes == train.classes == ("ant", "bee", "cow")
    assert (train.batch_transform, val.batch_transform) == (CircularAugment(2), None)
    batch = Batch((0, 1), seed=0, step_size=2)
    assert torch.equal(val[batch].images, val[Batch((0, 1), seed=1, step_size=2)].images)


def test_evaluation_needs_no_training_folder_but_takes_its_classes(root):
    write_images(root / "train" / "ape", 1)
    train, val = open_imagenet(root, train=False)
    assert train is None
    assert (val.classes, val.labels.tolist()) == (("ant", "ape", "bee", "cow"), [0, 0, 2, 2, 3, 3])
    (root / "train").rename(root / "gone")
    train, val = open_imagenet(root, train=False)
    assert (train, val.labels.tolist()) == (None, [0, 0, 1, 1, 2, 2])
    with pytest.raises(RuntimeError, match=r"must have a folder train, got .* without it"):
        open_imagenet(root)
    (root / "val").rename(root / "hidden")
    with pytest.raises(RuntimeError, match="must have a folder val"):
        open_imagenet(root, train=False)


def test_open_imagenet_refuses_what_its_parts_refuse(root):
    with pytest.raises(ValueError, match=r"crop must be in \[1, resize=24\], got 25"):
        open_imagenet(root, resize=24, crop=25)
    write_images(root / "val" / "elk", 1)
    with pytest.raises(ValueError, match="one of the 3 of training, got elk"):
        open_imagenet(root)


def test_one_image_in_a_hundred_may_be_broken():
    assert [default_max_unreadable(n) for n in (0, 1, 100, 101, 50_000)] == [0, 1, 1, 2, 500]
    check_unreadable("here", ["a", "b"], 2)
    with pytest.raises(RuntimeError, match=r"here: at most 3 .* got 4: a, b, c, \.\.\.; replace"):
        check_unreadable("here", ["a", "b", "c", "d"], 3)
