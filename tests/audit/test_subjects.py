import collections
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from shiftproof.audit import Subject, load_subject, match_labels
from shiftproof.audit.subjects import find_logits

LOGITS = torch.rand(2, 5)
Output = collections.namedtuple("Output", "logits hidden")


def head(**kwargs):
    return Subject("net", lambda x: x.mean((2, 3)), 8, 10, **kwargs)


@pytest.mark.parametrize(
    "result",
    [
        LOGITS,
        LOGITS[:, :, None, None],
        {"logits": LOGITS, "hidden": torch.rand(2, 7)},
        {"out": LOGITS, "maps": torch.rand(2, 3, 4, 4), "loss": torch.tensor(1.0)},
        SimpleNamespace(logits=LOGITS),
        Output(LOGITS, torch.rand(2, 9)),
        (LOGITS, torch.rand(2, 3, 4, 4)),
        [LOGITS],
    ],
)
def test_logits_are_found(result):
    assert torch.equal(find_logits("net", result, 2), LOGITS)


@pytest.mark.parametrize(
    ("result", "shown"),
    [
        ({"a": LOGITS, "b": LOGITS}, "a dict of a a tensor of shape"),
        (torch.rand(2, 5, 4, 4), "a tensor of shape"),
        ((LOGITS, LOGITS), "a tuple of a tensor"),
        (torch.rand(3, 5), "a tensor"),
        (torch.rand(2, 1), "a tensor"),
        ({}, "a dict of nothing"),
        (None, "NoneType"),
        ("text", "str"),
    ],
)
def test_what_are_no_logits_is_one_line(result, shown):
    with pytest.raises(ValueError, match=f"net: the network must return logits.*got {shown}") as e:
        find_logits("net", result, 2)
    assert "\n" not in str(e.value)


def test_images_are_normalised_as_the_subject_says():
    images = torch.rand(3, 3, 8, 8)
    found = head(mean=(0.1, 0.2, 0.3), std=(2.0, 4.0, 8.0)).predict(images)
    wanted = (images.mean((2, 3)) - torch.tensor([0.1, 0.2, 0.3])) / torch.tensor([2.0, 4.0, 8.0])
    torch.testing.assert_close(found, wanted)
    plain = head(mean=(0.0,), std=(1.0,)).predict(images)
    torch.testing.assert_close(plain, images.mean((2, 3)))


def test_probabilities_sum_to_one():
    assert torch.allclose(head().probabilities(torch.rand(40, 3, 8, 8)).sum(1), torch.ones(40))


def test_a_grey_network_gets_the_mean_of_the_channels():
    seen = []
    subject = Subject("net", lambda x: (seen.append(x), x.flatten(1))[1], 2, 2, (0.5,), (0.5,), 1)
    subject.predict(torch.ones(1, 3, 2, 2))
    assert seen[0].shape == (1, 1, 2, 2)
    assert torch.equal(seen[0], torch.ones(1, 1, 2, 2))


@pytest.mark.parametrize("count", [1, 3, 5])
def test_a_network_of_one_batch_size_takes_any_number_of_images(count):
    sizes = []
    subject = Subject("n", lambda x: (sizes.append(len(x)), x.mean((2, 3)))[1], 8, 8, batch=2)
    images = torch.rand(count, 3, 8, 8)
    whole = Subject("n", lambda x: x.mean((2, 3)), 8, 8).predict(images)
    torch.testing.assert_close(subject.predict(images), whole)
    assert set(sizes) == {2}


def test_a_network_of_the_zoo_knows_its_size_and_stride():
    subject = load_subject("cifar_resnet20_pa", untrained=True)
    assert (subject.size, subject.resize_size, subject.stride) == (32, 36, 4)
    assert subject.num_outputs == 10
    assert load_subject("cifar_resnet20_pa", untrained=True, size=64).resize_size == 68


def test_libraries_know_their_presets():
    found = load_subject("torchvision:mobilenet_v3_small", untrained=True)
    assert (found.size, found.resize_size, found.num_outputs) == (224, 256, 1000)
    found = load_subject("timm:test_vit", untrained=True)
    assert found.mean == (0.5, 0.5, 0.5)
    assert found.size == 160


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    fixed = torch.export.export(net, (torch.rand(2, 3, 16, 16),))
    torch.export.save(fixed, "fixed.pt2")
    size = torch.export.Dim("size", min=8)
    shapes = ({0: torch.export.Dim("batch"), 2: size, 3: size},)
    opened = torch.export.export(net, (torch.rand(2, 3, 16, 16),), dynamic_shapes=shapes)
    torch.export.save(opened, "open.pt2")
    (tmp_path / "broken.pt2").write_text("no")
    (tmp_path / "broken.onnx").write_text("no")
    (tmp_path / "nets.py").write_text(
        "import torch\nfrom torch import nn\n"
        "class Dict(nn.Module):\n"
        "    def forward(self, x): return {'a': x.mean((2, 3)), 'b': x.mean((2, 3))}\n"
    )
    yield net
    sys.modules.pop("nets", None)


def test_exported_programs_are_opened(files):
    images = torch.rand(3, 3, 16, 16)
    plain = {"mean": [0.0], "std": [1.0]}
    fixed = load_subject("fixed.pt2", **plain)
    assert (fixed.size, fixed.batch) == (16, 2)
    with torch.no_grad():
        torch.testing.assert_close(fixed.predict(images), files(images))
    free = load_subject("open.pt2", size=24, **plain)
    assert (free.size, free.batch) == (24, None)


def test_onnx_files_are_opened(files, tmp_path):
    pytest.importorskip("onnxruntime")
    program = torch.export.load("fixed.pt2")
    torch.onnx.export(program, dynamo=True, verbose=False).save("net.onnx")
    images = torch.rand(3, 3, 16, 16)
    subject = load_subject("net.onnx", mean=[0.0], std=[1.0])
    assert (subject.size, subject.batch, subject.module) == (16, 2, None)
    with torch.no_grad():
        torch.testing.assert_close(subject.predict(images), files(images))


@pytest.mark.parametrize(
    ("spec", "options", "error", "message"),
    [
        ("none.onnx", {}, RuntimeError, "none.onnx: the network must be a file"),
        ("broken.onnx", {}, ValueError, "broken.onnx: the file must hold an ONNX network"),
        ("broken.pt2", {}, ValueError, "broken.pt2: the file must hold an exported program"),
        ("fixed.pt2", {"size": 32}, ValueError, "takes images of 16 pixels, got --size 32"),
        ("fixed.pt2", {"untrained": True}, ValueError, "a file brings its weights"),
        ("fixed.pt2", {"std": [0.0]}, ValueError, "--std: must be 1 or 3 numbers, above 0, got 0"),
        ("fixed.pt2", {"mean": [0, 1]}, ValueError, "--mean: must be 1 or 3 numbers, got 0"),
        ("open.pt2", {"size": 0}, ValueError, "--size: must be at least 1, got 0"),
        ("open.pt2", {"size": 2}, ValueError, "must take images of 2x2, got"),
        ("nets.py:Dict", {}, ValueError, "nets.py:Dict: the network must return logits"),
    ],
)
def test_what_cannot_be_loaded_is_one_line(files, spec, options, error, message):
    with pytest.raises(error, match=message) as caught:
        load_subject(spec, **options)
    assert "\n" not in str(caught.value)


def test_folders_are_matched_by_wordnet_ids():
    labels = match_labels(["n01440764", "n15075141"], 1000)
    assert labels.indices == (0, 999)
    assert labels.names[0] == "tench"


@pytest.mark.parametrize(
    ("folders", "outputs", "reason"),
    [
        ([], 1000, "the images have no class folders"),
        (["n00000000"], 1000, "folder n00000000 is none of ImageNet's 1,000 classes"),
        (["a", "b"], 1000, "the network has 1,000 outputs, and there are 2 class folders"),
    ],
)
def test_unknown_labels_have_a_reason(folders, outputs, reason):
    labels = match_labels(folders, outputs)
    assert (labels.indices, labels.reason) == (None, reason)


def test_as_many_folders_as_outputs_are_numbered_in_order():
    assert match_labels(["a", "b", "c"], 3).indices == (0, 1, 2)


def test_without_timm_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.setitem(sys.modules, "timm.data", None)
    with pytest.raises(RuntimeError, match=r"pip install 'shiftproof\[timm\]'"):
        match_labels(["n01440764"], 1000)
    assert match_labels([], 1000).names is None
