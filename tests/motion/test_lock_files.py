"""A lock in front of a file, in onnxruntime, against the lock in torch."""

import re

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import shiftproof
from shiftproof import cli
from shiftproof.motion.files import OFFSET, lock_file
from shiftproof.motion.lock import moved_by
from shiftproof.motion.strides import clear_stride
from shiftproof.nn import DarkestPhase, FirstPhase, GridLock2d, WholePixels

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


CHEAP = {"selector": FirstPhase(), "interpolation": WholePixels()}
"""A lock that exports in a second, where it does not matter which."""


def images(num: int = 2, height: int = 64, width: int = 80) -> Tensor:
    x = torch.rand(num, 3, height // 5, width // 5, generator=torch.Generator().manual_seed(num))
    return F.interpolate(x, (height, width), mode="bicubic", align_corners=True)


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.deep = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.deep(self.down(x).relu()).relu().amax((2, 3)))


class Segmenter(Classifier):
    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        y = self.down(x).relu()
        z = self.deep(y)
        full = F.interpolate(z, scale_factor=4.0, mode="bilinear")
        return full, full.argmax(1), y, self.head(z.mean((2, 3)))


class UNet(nn.Module):
    def __init__(self, levels: int = 3) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, 1, 1)
        self.down = nn.ModuleList(nn.Conv2d(8, 8, 3, 2, 1) for _ in range(levels))
        self.up = nn.ModuleList(nn.Conv2d(8, 8, 3, 1, 1) for _ in range(levels))

    def forward(self, x: Tensor) -> Tensor:
        maps = [self.first(x).relu()]
        for down in self.down:
            maps.append(down(maps[-1]).relu())
        y = maps.pop()
        for up in self.up:
            y = (up(F.interpolate(y, scale_factor=2.0)) + maps.pop()).relu()
        return y


def made(cls, **options):
    torch.manual_seed(0)
    return cls(**options).eval()


def written(model, path, x=None, *, fixed=False, names=("full", "mask", "half", "label")):
    """A file of a network, with open sizes unless they are fixed."""
    x = images() if x is None else x
    dims = {0: "N", 2: "H", 3: "W"}
    with torch.no_grad():
        outputs = model(x)
    outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
    shown = list(names[: len(outputs)])
    dynamic = {} if fixed else {"image": dims}
    torch.onnx.export(
        model, (x,), path, dynamo=False, input_names=["image"], output_names=shown,
        dynamic_axes=dynamic, opset_version=17,
    )  # fmt: skip
    return path


@pytest.fixture(autouse=True)
def _old_exporter_warns(recwarn):
    import warnings

    warnings.simplefilter("ignore")


@pytest.fixture
def file(tmp_path):
    return written(made(Segmenter), tmp_path / "net.onnx")


def run(path, x: Tensor) -> dict[str, Tensor]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    names = [output.name for output in session.get_outputs()]
    return {name: torch.as_tensor(value) for name, value in zip(names, found, strict=True)}


def assert_near(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


PAGES = {
    "interpolation": WholePixels(),
    "selector": DarkestPhase(),
    "padding_mode": "replicate",
}
BOTH = pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, marks=pytest.mark.slow, id="between pixels"),
        pytest.param(PAGES, id="whole pixels"),
    ],
)
"""Half a minute of export, and a few seconds."""


@BOTH
def test_a_classifier_answers_as_in_torch(tmp_path, options) -> None:
    model = made(Classifier)
    path, out = written(model, tmp_path / "net.onnx", names=("logits",)), tmp_path / "out.onnx"
    summary = lock_file(path, out, stride=4, **options)
    assert summary.stride == (4, 4)
    assert summary.is_given
    locked = shiftproof.lock_grid(model, images(), stride=4, **options)
    changed = 0.0
    for x in (images(1), images(3), images(1, 96, 70)):
        found = run(out, x)
        with torch.no_grad():
            assert_near(found["logits"], locked(x))
            changed = max(changed, float((found["logits"] - model(x)).abs().max()))
        assert_near(found[OFFSET], moved_by(locked.lock, x))
    assert changed > 1e-3  # the lock does something


@BOTH
def test_maps_are_moved_back_as_in_torch(file, tmp_path, options) -> None:
    model, out = made(Segmenter), tmp_path / "out.onnx"
    summary = lock_file(file, out, stride=4, dense=["full", "mask", "half"], **options)
    assert [tuple(map(int, output.steps)) for output in summary.outputs] == [(1, 1), (1, 1), (2, 2)]
    locked = shiftproof.lock_grid(model, images(), stride=4, **options)
    for x in (images(1), images(3), images(1, 96, 72)):
        found = run(out, x)
        with torch.no_grad():
            full, mask, half, label = locked(x)
        for name, expected in (("full", full), ("half", half), ("label", label)):
            assert_near(found[name], expected)
        assert (found["mask"] == mask).float().mean() > 0.999
        assert list(found) == ["full", "mask", "half", "label", OFFSET]


@pytest.mark.slow
def test_fixed_sizes_and_a_margin_stay(tmp_path) -> None:
    model, out = made(Segmenter), tmp_path / "out.onnx"
    path = written(model, tmp_path / "net.onnx", images(2, 64, 64), fixed=True)
    lock_file(path, out, stride=4, dense=["full"], margin=8, **CHEAP)
    declared = onnx.load(out).graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_value for dim in declared] == [2, 3, 72, 72]
    x = images(2, 72, 72)
    lock = GridLock2d(4, margin=8, **CHEAP)
    with torch.no_grad():
        expected = shiftproof.lock_grid(model, images(2, 64, 64), stride=4, margin=8, **CHEAP)(x)
        assert_near(run(out, x)["full"], expected[0])
    assert_near(run(out, x)[OFFSET], lock.offset(x))


@pytest.mark.slow
def test_half_precision(tmp_path) -> None:
    model, out = made(Classifier).half(), tmp_path / "out.onnx"
    path = written(model, tmp_path / "net.onnx", images().half(), names=("logits",))
    options = {"selector": DarkestPhase(), "interpolation": WholePixels()}
    lock_file(path, out, stride=4, **options)
    found = run(out, images(1).half())
    assert found["logits"].dtype == torch.float16
    locked = shiftproof.lock_grid(model.float(), images(), stride=4, **options)
    with torch.no_grad():
        torch.testing.assert_close(found["logits"].float(), locked(images(1)), rtol=0, atol=5e-3)


@pytest.mark.slow
def test_names_metadata_and_opsets(file, tmp_path) -> None:
    proto = onnx.load(file)
    entry = proto.metadata_props.add()
    entry.key, entry.value = "labels", "cat,dog"
    onnx.save(proto, file)
    summary = lock_file(file, tmp_path / "out.onnx", stride=4, **CHEAP)
    locked = onnx.load(tmp_path / "out.onnx")
    assert [(p.key, p.value) for p in locked.metadata_props if p.key == "labels"] == [
        ("labels", "cat,dog")
    ]
    assert [value.name for value in locked.graph.input] == ["image"]
    assert [d.dim_param for d in locked.graph.input[0].type.tensor_type.shape.dim] == [
        "N", "", "H", "W",
    ]  # fmt: skip
    assert summary.opset == (17, 18)
    assert "opset 17 was converted to 18" in str(summary)
    onnx.checker.check_model(locked, full_check=True)


@pytest.mark.slow
def test_weights_in_another_file_stay_there(file, tmp_path) -> None:
    proto = onnx.load(file)
    source = tmp_path / "apart.onnx"
    onnx.save(proto, source, save_as_external_data=True, location="apart.bin", size_threshold=16)
    out = tmp_path / "out.onnx"
    lock_file(source, out, stride=4, **CHEAP)
    assert [p.name for p in tmp_path.glob("out.onnx.*.data")]
    torch.testing.assert_close(run(out, images())["full"], run(file, images())["full"])


@pytest.mark.parametrize(("cls", "stride"), [(UNet, 8), (Segmenter, 4)])
def test_the_stride_is_measured(tmp_path, cls, stride) -> None:
    path = written(made(cls), tmp_path / "net.onnx", images(1, 128, 128), fixed=True)
    summary = lock_file(path, tmp_path / "out.onnx", **CHEAP)
    assert summary.stride == (stride, stride)
    assert "(measured)" in str(summary)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small"])
def test_the_stride_of_networks_of_torchvision_is_measured(tmp_path, name) -> None:
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    model = models.get_model(name, weights=None).eval()
    path = written(model, tmp_path / "net.onnx", images(1, 224, 224))
    assert lock_file(path, tmp_path / "out.onnx", **CHEAP).stride == (32, 32)


def test_no_stride_is_clear() -> None:
    assert clear_stride(torch.tensor([1.0, 0.9, 1.0, 0.8] * 8, dtype=torch.float64)) is None
    assert clear_stride(torch.zeros(16)) is None
    changes = torch.tensor([1.0, 0.2, 1.0, 0.01] * 8, dtype=torch.float64)
    assert clear_stride(changes) == 4


def refused(pattern: str, *args, **options) -> None:
    with pytest.raises((ValueError, RuntimeError), match=pattern) as caught:
        lock_file(*args, **options)
    assert "\n" not in str(caught.value)


def with_input(file, name, kind, shape):
    """The file with an input declared otherwise, or one more."""
    proto = onnx.load(file)
    value = onnx.helper.make_tensor_value_info(name, kind, shape)
    if name == proto.graph.input[0].name:
        proto.graph.input[0].CopyFrom(value)
    else:
        proto.graph.input.append(value)
    onnx.save(proto, file)


def test_what_is_refused(file, tmp_path) -> None:
    out = tmp_path / "out.onnx"
    out.write_bytes(b"old")
    refused("lock_file: the network must be a file, got .*; check", tmp_path / "no.onnx", out)
    (tmp_path / "text.onnx").write_text("hello, this is no network")
    refused("lock_file: the file must hold an ONNX network", tmp_path / "text.onnx", out)
    refused("--dense must name outputs, got depth; choose from full, mask, half, label", file, out,
            stride=4, dense=["depth"])  # fmt: skip
    refused("--dense must name maps .*, got label", file, out, stride=4, dense=["label"])
    refused("stride must be one integer >= 1", file, out, stride=0)
    refused("the folder of --out must exist", file, tmp_path / "no" / "out.onnx", stride=4)
    refused("padding_mode", file, out, stride=4, padding_mode="white")
    flat = written(made(UNet, levels=0), tmp_path / "flat.onnx", images(1, 96, 96), fixed=True)
    refused("the stride must show in the answers, .*; pass --stride", flat, out)
    assert out.read_bytes() == b"old"
    assert not list(tmp_path.glob(".shiftproof*"))


@pytest.mark.parametrize(
    ("kind", "shape", "message"),
    [
        (2, ["N", 3, "H", "W"], "images must be float32 or float16, got uint8 for image"),
        (1, ["N", "H", "W", 3], "got image with 3 channels last"),
        (1, ["N", 7], "must have an input of images .N, C, H, W., got image float32"),
    ],
)
def test_other_inputs_are_refused(file, tmp_path, kind, shape, message) -> None:
    with_input(file, "image", kind, shape)
    refused(message, file, tmp_path / "out.onnx", stride=4)


def test_several_inputs_of_images(file, tmp_path) -> None:
    with_input(file, "depth", 1, ["N", 1, "H", "W"])
    refused("one input of images, got image, depth; choose", file, tmp_path / "out.onnx")
    refused("--input must be one of image, depth, got no", file, tmp_path / "out.onnx", image="no")


@pytest.mark.slow
def test_a_locked_file_is_not_locked_again(file, tmp_path) -> None:
    lock_file(file, tmp_path / "a.onnx", stride=4, **CHEAP)
    refused("must not be locked already", tmp_path / "a.onnx", tmp_path / "b.onnx", stride=4)


def test_a_lock_that_fails_leaves_the_old_file(file, tmp_path, monkeypatch) -> None:
    from shiftproof.motion import files

    out = tmp_path / "out.onnx"
    out.write_bytes(b"old")
    monkeypatch.setattr(files, "session", lambda path: 1 / 0)
    refused("the locked network must run in onnxruntime", file, out, stride=4, **CHEAP)
    assert out.read_bytes() == b"old"
    assert {path.name for path in tmp_path.iterdir()} == {"net.onnx", "out.onnx"}


def test_a_network_that_does_not_convert_is_refused(file, tmp_path, monkeypatch) -> None:
    def fails(*_):
        raise RuntimeError("no adapter")

    monkeypatch.setattr("onnx.version_converter.convert_version", fails)
    refused("opset 18 or convert to it, got opset 17 .no adapter.", file, tmp_path / "out.onnx",
            stride=4)  # fmt: skip


def test_the_command(file, tmp_path, monkeypatch, capsys) -> None:
    def start(*options) -> int:
        monkeypatch.setattr("sys.argv", ["shiftproof", "lock", str(file), *map(str, options)])
        return cli.main()

    out = tmp_path / "out.onnx"
    options = ["--stride", 4, "--out", out, "--padding-mode", "replicate", "--whole-pixels"]
    assert start(*options, "--selector", "darkest", "--dense", "full", "mask") == 0
    text = capsys.readouterr().out
    assert re.search(r"image is locked to its content modulo 4x4 pixels \(as given\)", text)
    assert "full: moved back, 1x1 pixels per position" in text
    found = run(out, images())
    expected = {"selector": DarkestPhase(), "interpolation": WholePixels()}
    locked = shiftproof.lock_grid(
        made(Segmenter), images(), stride=4, padding_mode="replicate", **expected
    )
    with torch.no_grad():
        assert_near(found["full"], locked(images())[0])
    assert start("--stride", 4) == 1
    assert "got no --out" in capsys.readouterr().err
