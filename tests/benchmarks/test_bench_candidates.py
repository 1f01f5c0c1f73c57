import math

import torch

from benchmarks.entries_models import NAIVE, PUBLISHED, NaiveSelect, build
from benchmarks.trainers import Epochs
from shiftproof import nn


def selects(model):
    return [module for module in model.modules() if isinstance(module, nn.SelectPhase2d)]


def test_the_naive_network_differs_in_its_choice_alone():
    exact, naive = build("cifar_resnet20_pa"), build(f"cifar_resnet20_pa{NAIVE}")
    assert len(selects(exact)) == len(selects(naive)) == 2
    assert all(type(one) is nn.SelectPhase2d for one in selects(exact))
    assert all(type(one) is NaiveSelect for one in selects(naive))
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(exact.eval()(x), naive.eval()(x))


def test_the_published_network_is_built_with_our_weights():
    ours = build("cifar_resnet20_aps1").state_dict()
    theirs = build(f"{PUBLISHED}cifar_resnet20_aps1").state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_an_epoch_of_the_recipe_reports_its_own_seconds(tmp_path):
    epochs = Epochs({"amp": "off"}, torch.device("cpu"), tmp_path, quick=True)
    default = Epochs({}, torch.device("cpu"), tmp_path, quick=True)
    assert (epochs.trainer.config.amp, default.trainer.config.amp) == ("off", "auto")
    seconds = [epochs(), epochs()]
    assert all(0 < each < math.inf for each in seconds)
    assert len(epochs.trainer.progress.history) == 1
