import pickle
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from shiftproof.data.cifar10 import load_cifar10, paper_split
from shiftproof.extras import require


def pixels(seed: int, size: tuple[int, ...] = (32, 32, 3)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)


def write_pickle(path: Path, content: dict[str, object]) -> None:
    path.write_bytes(pickle.dumps(content, protocol=2))


@pytest.fixture
def batches(tmp_path, monkeypatch) -> Path:
    """A folder in torchvision's layout, three images per file, whose MD5 sums are not checked."""
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr(torchvision.datasets.cifar, "check_integrity", lambda *_: True)
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for number, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        data = pixels(number, (3, 3072))
        write_pickle(folder / name, {"data": data, "labels": [number, 9, 0]})
    write_pickle(folder / "batches.meta", {"label_names": [f"class {i}" for i in range(10)]})
    return tmp_path


@pytest.fixture
def class_folders(tmp_path) -> Path:
    """Two classes, PNG and JPEG, four files to train on and two to test on per class."""
    for split, count in (("train", 4), ("test", 2)):
        for label, name in enumerate(("cat", "dog")):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                suffix = "png" if number % 2 == 0 else "jpg"
                Image.fromarray(pixels(10 * label + number)).save(folder / f"{number}.{suffix}")
    return tmp_path


@pytest.mark.parametrize("inside", ["", "cifar-10-batches-py"])
def test_torchvisions_files_are_read_from_the_folder_or_its_parent(batches, inside):
    train = load_cifar10(batches / inside, train=True, download=False)
    assert train.images.shape == (15, 3, 32, 32)
    assert train.labels.tolist() == [0, 9, 0, 1, 9, 0, 2, 9, 0, 3, 9, 0, 4, 9, 0]
    assert train.classes == tuple(f"class {i}" for i in range(10))
    assert torch.equal(train.images[3:6], torch.from_numpy(pixels(1, (3, 3072))).view(3, 3, 32, 32))
    test = load_cifar10(batches / inside, train=False, download=False)
    assert test.labels.tolist() == [5, 9, 0]
    assert test.images.is_contiguous()


def test_damaged_files_are_refused(batches, monkeypatch):
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "_check_integrity", lambda self: False)
    with pytest.raises(RuntimeError, match=r"published MD5 sums, got others in .*batches-py"):
        load_cifar10(batches, train=True)


def test_class_folders_are_read_in_order(class_folders):
    train = load_cifar10(class_folders, train=True)
    assert (train.classes, train.labels.tolist()) == (("cat", "dog"), [0] * 4 + [1] * 4)
    assert train.images.shape == (8, 3, 32, 32)
    for index, seed in ((0, 0), (2, 2), (4, 10)):  # PNG is exact
        assert torch.equal(train.images[index], torch.from_numpy(pixels(seed)).permute(2, 0, 1))
    assert not torch.equal(train.images[1], train.images[0])
    assert len(load_cifar10(class_folders, train=False)) == 4


def test_broken_files_are_named_skipped_and_limited(class_folders):
    truncated = class_folders / "train" / "cat" / "1.jpg"
    truncated.write_bytes(truncated.read_bytes()[:300])
    data = load_cifar10(class_folders, train=True)
    assert data.unreadable == (str(truncated),)
    assert data.labels.tolist() == [0] * 3 + [1] * 4
    assert torch.equal(data.images[1], torch.from_numpy(pixels(2)).permute(2, 0, 1))
    (class_folders / "train" / "dog" / "0.png").write_text("not an image")
    with pytest.raises(RuntimeError, match=r"at most 1 images may be unreadable, got 2: .*1\.jpg"):
        load_cifar10(class_folders, train=True)
    assert len(load_cifar10(class_folders, train=True, max_unreadable=2)) == 6
    with pytest.raises(RuntimeError, match="at most 0 images may be unreadable, got 2"):
        load_cifar10(class_folders, train=True, max_unreadable=0)


@pytest.mark.parametrize(
    ("image", "what"),
    [
        (Image.new("RGB", (31, 32)), "32x31 RGB"),
        (Image.new("L", (32, 32)), "32x32 L"),
    ],
)
def test_an_image_of_another_kind_is_refused_by_name(class_folders, image, what):
    image.save(class_folders / "test" / "dog" / "odd.png")
    with pytest.raises(ValueError, match=rf"must be 32x32 RGB, got {what} in .*odd\.png"):
        load_cifar10(class_folders, train=False)


def test_an_empty_class_is_refused(class_folders):
    for split in ("train", "test"):
        (class_folders / split / "emu").mkdir()
    with pytest.raises(RuntimeError, match="each class must have an image, got none for emu"):
        load_cifar10(class_folders, train=True)


def test_a_missing_split_is_refused(class_folders):
    (class_folders / "test").rename(class_folders / "other")
    for train in (True, False):
        with pytest.raises(RuntimeError, match=r"the folder must exist, got .*test"):
            load_cifar10(class_folders, train=train)


def test_different_classes_are_refused(class_folders):
    (class_folders / "test" / "dog").rename(class_folders / "test" / "wolf")
    for train in (True, False):
        with pytest.raises(ValueError, match="the same classes, got dog, wolf in one of them"):
            load_cifar10(class_folders, train=train)


def test_without_data_and_network_the_layouts_are_named(tmp_path, monkeypatch):
    def no_network(_url, root, **_):
        Path(root).mkdir(parents=True, exist_ok=True)
        (Path(root) / "cifar-10-python.tar.gz").write_bytes(b"half")
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(torchvision.datasets.cifar, "download_and_extract_archive", no_network)
    root = tmp_path / "nowhere"
    layouts = r"nowhere.*cifar-10-batches-py, or with train/<class>/\* and test/<class>/\*"
    with pytest.raises(RuntimeError, match=layouts):
        load_cifar10(root, train=True)
    assert not root.exists(), "nothing half-written stays"
    with pytest.raises(RuntimeError, match=layouts):
        load_cifar10(root, train=True, download=False)


def test_absent_files_are_downloaded(batches, monkeypatch):
    archive = batches / "cifar-10-batches-py"
    archive.rename(batches / "elsewhere")

    def download(self):
        Path(self.root).mkdir(exist_ok=True)
        (batches / "elsewhere").rename(Path(self.root) / "cifar-10-batches-py")

    monkeypatch.setattr(torchvision.datasets.CIFAR10, "download", download)
    assert len(load_cifar10(batches / "new", train=False)) == 3


def test_paper_split_is_the_legacy_shuffle():
    numpy = require("numpy", extra="train")
    state = numpy.random.get_state()
    try:
        numpy.random.seed(0)
        expected = numpy.arange(50_000)
        numpy.random.shuffle(expected)
        numpy.random.seed(7)
        before = numpy.random.get_state()[1].copy()
        train, val = paper_split()
        assert numpy.array_equal(numpy.random.get_state()[1], before)
    finally:
        numpy.random.set_state(state)
    assert (len(train), len(val), train.dtype) == (45_000, 5_000, torch.int64)
    assert torch.cat([train, val]).tolist() == expected.tolist()


@pytest.mark.parametrize("num_train", [0, 10, 11])
def test_paper_split_leaves_images_on_both_sides(num_train):
    with pytest.raises(ValueError, match=r"num_train must be in \[1, 9\]"):
        paper_split(10, num_train)
