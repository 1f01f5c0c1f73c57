import pytest
import torch
from certified import noise
from torch import nn

from shiftproof.certification import certify
from shiftproof.nn import GlobalMean


def test_an_input_is_a_tensor():
    with pytest.raises(TypeError, match="certify: the images must be a tensor, got list"):
        certify(GlobalMean(), [1.0])


@pytest.mark.parametrize("shape", [(3,), (8, 8), (1, 1, 2, 2, 2, 2), (0, 3, 8, 8)])
def test_an_input_is_a_batch_of_maps(shape):
    with pytest.raises(ValueError, match="certify: the images must be"):
        certify(GlobalMean(), torch.zeros(shape))


def test_an_input_changes_under_the_shifts():
    with pytest.raises(ValueError, match="some shift must change the images"):
        certify(GlobalMean(), torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match="some shift must change the images"):
        certify(GlobalMean(), noise(1, 3, 8, 8), shifts=[(0, 0), (8, -16)])
    with pytest.raises(ValueError, match="some shift must change the images"):
        certify(GlobalMean(), noise(1, 3, 1, 1))


@pytest.mark.parametrize("shifts", [[], torch.zeros(0, 2, dtype=torch.int64)])
def test_there_are_shifts(shifts):
    with pytest.raises(ValueError, match="shifts must hold at least one shift, got none"):
        certify(GlobalMean(), noise(1, 3, 8, 8), shifts=shifts)


@pytest.mark.parametrize("shifts", [[(1,)], [1, 2], torch.tensor([1, 2]), [(1, 2, 3)]])
def test_a_shift_has_one_value_per_axis(shifts):
    with pytest.raises(ValueError, match="must have one value per spatial axis, 2 here"):
        certify(GlobalMean(), noise(1, 3, 8, 8), shifts=shifts)


@pytest.mark.parametrize("shifts", [[(1.0, 2.0)], torch.tensor([[1.0, 2.0]])])
def test_a_shift_is_whole(shifts):
    with pytest.raises(TypeError, match="shifts must be made of whole pixels"):
        certify(GlobalMean(), noise(1, 3, 8, 8), shifts=shifts)


def test_a_model_returns_a_tensor():
    with pytest.raises(TypeError, match=r"the model must return a tensor, .* got str"):
        certify(lambda x: "cat", noise(1, 3, 8, 8))


def test_an_output_is_finite():
    with pytest.raises(ValueError, match="the output for example_input must be finite"):
        certify(lambda x: x.mean((2, 3)) / 0, noise(1, 3, 8, 8))


def test_an_output_keeps_its_shape():
    with pytest.raises(ValueError, match="the shapes of the outputs must be the same"):
        certify(lambda x: x[x[:, 0, 0, 0] > 0], noise(4, 3, 8, 8))


def test_an_output_depends_on_the_input():
    silent = nn.Linear(3, 4)
    nn.init.zeros_(silent.weight)
    network = nn.Sequential(nn.Conv2d(3, 3, 3, 2), GlobalMean(), silent)
    with pytest.raises(ValueError, match="the output must depend on the input"):
        certify(network, noise(1, 3, 8, 8))


class Uncopyable(nn.Module):
    def __deepcopy__(self, memo):
        raise RuntimeError("no copies")


def test_a_module_can_be_copied():
    with pytest.raises(ValueError, match=r"must survive copy.deepcopy, .* RuntimeError: no copies"):
        certify(Uncopyable(), noise(1, 3, 8, 8))


def test_errors_of_the_model_come_through():
    with pytest.raises(RuntimeError, match="expected input"):
        certify(nn.Conv2d(5, 1, 1), noise(1, 3, 8, 8))
