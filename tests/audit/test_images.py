import pytest
import torch
from PIL import Image

from shiftproof.audit.images import central_square, list_pictures, read_photographs


def save(path, mode="RGB", color=(200, 100, 50), size=(40, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, color).save(path)


def test_class_folders_are_numbered(tmp_path):
    for name in ("dog/b.png", "cat/a.png", "cat/c.png"):
        save(tmp_path / name)
    pictures = list_pictures("audit", tmp_path)
    assert pictures.folders == ("cat", "dog")
    assert pictures.numbers == (0, 0, 1)
    assert len(pictures.spread(2)) == 2
    assert pictures.spread(2).numbers == (0, 0)
    assert pictures.spread(9) is pictures


def test_a_flat_folder_has_no_classes(tmp_path):
    save(tmp_path / "b.png")
    save(tmp_path / "a.JPG")
    (tmp_path / "notes.txt").write_text("no image")
    save(tmp_path / ".hidden.png")
    pictures = list_pictures("audit", tmp_path)
    assert [path[-5:] for path in pictures.paths] == ["a.JPG", "b.png"]
    assert pictures.numbers == ()


@pytest.mark.parametrize("kind", ["missing", "empty", "empty class", "only text"])
def test_no_images_are_one_line(tmp_path, kind):
    folder = tmp_path / "data"
    if kind != "missing":
        folder.mkdir()
    if kind == "empty class":
        (folder / "cat").mkdir()
    if kind == "only text":
        (folder / "a.txt").write_text("a")
    with pytest.raises(RuntimeError, match="audit: ") as caught:
        list_pictures("audit", folder)
    assert "\n" not in str(caught.value)


def test_grey_images_get_three_equal_channels(tmp_path):
    save(tmp_path / "grey.png", "L", 51)
    Image.new("I;16", (8, 8), 51 * 257).save(tmp_path / "grey16.png")
    photographs, broken = read_photographs("audit", list_pictures("audit", tmp_path))
    assert not broken
    for photograph in photographs:
        assert photograph.pixels.shape[0] == 3
        torch.testing.assert_close(photograph.pixels, torch.full_like(photograph.pixels, 0.2))


def test_broken_files_are_left_out_and_named(tmp_path):
    save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no")
    photographs, broken = read_photographs("audit", list_pictures("audit", tmp_path))
    assert len(photographs) == 1
    assert broken == (str(tmp_path / "b.png"),)
    (tmp_path / "a.png").unlink()
    with pytest.raises(RuntimeError, match="at least one image must be readable, got 1"):
        read_photographs("audit", list_pictures("audit", tmp_path))


def test_the_square_is_central_and_of_bytes():
    pixels = torch.zeros(3, 60, 120)
    pixels[:, 20:40, 50:70] = 1
    square = central_square(pixels, 60, 20)
    assert torch.equal(square, torch.ones(3, 20, 20))
    values = 255 * central_square(torch.rand(3, 50, 33), 40, 40)
    assert torch.allclose(values, values.round(), atol=1e-4)
    assert central_square(torch.rand(3, 9, 500), 16, 16).shape == (3, 16, 16)
