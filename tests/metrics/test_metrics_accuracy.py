import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shiftproof.metrics import topk_correct


def reference(logits, labels, k):
    """Sort the classes, best first and of equal ones the lower number first."""
    results = []
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        order = sorted(range(len(row)), key=lambda c: (-row[c], c))
        results.append(label in order[:k])
    return torch.tensor(results, dtype=torch.bool)


@given(st.integers(0, 2**32), st.integers(1, 12), st.integers(1, 6), st.integers(1, 8))
def test_against_sorting(seed, num_images, num_classes, k):
    source = torch.Generator().manual_seed(seed)
    # Few different values, so that there are ties.
    logits = torch.randint(-2, 3, (num_images, num_classes), generator=source).float()
    labels = torch.randint(0, num_classes, (num_images,), generator=source)
    correct = topk_correct(logits, labels, k)
    assert correct.dtype == torch.bool
    assert torch.equal(correct, reference(logits, labels, k))
    if k == 1:
        assert torch.equal(correct, logits.argmax(1) == labels)


def test_constant_output_is_right_for_one_class_only():
    correct = topk_correct(torch.zeros(4, 4), torch.arange(4), k=1)
    assert correct.tolist() == [True, False, False, False]


def test_more_than_all_classes_means_all():
    assert topk_correct(torch.rand(5, 3), torch.tensor([0, 1, 2, 0, 1]), k=5).all()


@pytest.mark.parametrize("k", [1, 3, 10])
def test_nan_is_never_correct(k):
    nan = float("nan")
    logits = torch.tensor([[nan, nan, nan], [nan, 5.0, 0.0], [0.0, 5.0, nan], [0.0, 5.0, 1.0]])
    correct = topk_correct(logits, torch.tensor([0, 1, 1, 1]), k)
    assert correct.tolist() == [False, False, False, True]


def test_infinite_logits_are_ordered():
    logits = torch.tensor([[float("inf"), 1.0], [float("-inf"), 1.0]])
    assert topk_correct(logits, torch.tensor([0, 0]), k=1).tolist() == [True, False]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("labels_dtype", [torch.uint8, torch.int32])
def test_other_dtypes(dtype, labels_dtype):
    logits = torch.eye(3, dtype=dtype)
    assert topk_correct(logits, torch.arange(3, dtype=labels_dtype), k=1).all()


def test_no_images():
    assert topk_correct(torch.rand(0, 3), torch.zeros(0, dtype=torch.int64), k=1).shape == (0,)


@pytest.mark.parametrize(
    ("logits", "labels"), [((4, 3), (3,)), ((4, 3), (4, 1)), ((4,), (4,)), ((1, 3), ())]
)
def test_shapes_that_do_not_fit(logits, labels):
    with pytest.raises(ValueError, match="logits must be"):
        topk_correct(torch.rand(logits), torch.zeros(labels, dtype=torch.int64), k=1)


def test_k_must_be_positive():
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        topk_correct(torch.rand(1, 3), torch.tensor([0]), k=0)


@pytest.mark.parametrize("label", [-1, 3])
def test_label_without_a_class(label):
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 3\)"):
        topk_correct(torch.rand(2, 3), torch.tensor([0, label]), k=5)


def test_labels_must_be_integers():
    with pytest.raises(TypeError, match=r"class numbers, got torch\.float32"):
        topk_correct(torch.rand(1, 3), torch.tensor([1.7]), k=1)
