import math

import pytest
import torch

from shiftproof.training.schedule import Constant, Cosine, MultiStep, Step

EPOCHS = 12
RELATIVE = 1e-12  # torch multiplies epoch by epoch, the closed form once


def torch_rates(make, base=0.1):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=base)
    scheduler = make(optimizer)
    rates = []
    for _ in range(EPOCHS):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(
    ("schedule", "make"),
    [
        (Constant(), lambda o: torch.optim.lr_scheduler.ConstantLR(o, factor=1)),
        (Step(3, 0.2), lambda o: torch.optim.lr_scheduler.StepLR(o, 3, 0.2)),
        (MultiStep((2, 7), 0.3), lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [2, 7], 0.3)),
        (Cosine(EPOCHS), lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, EPOCHS)),
    ],
    ids=["constant", "step", "multistep", "cosine"],
)
def test_rates_are_those_of_torch(schedule, make):
    ours = [schedule.lr(0.1, epoch) for epoch in range(EPOCHS)]
    assert ours == pytest.approx(torch_rates(make), rel=RELATIVE)


def test_another_schedule_has_other_rates():
    reference = torch_rates(lambda o: torch.optim.lr_scheduler.StepLR(o, 3, 0.2))
    ours = [Step(4, 0.2).lr(0.1, epoch) for epoch in range(EPOCHS)]
    assert ours != pytest.approx(reference, rel=RELATIVE)


def test_cosine_stays_at_zero():
    assert [Cosine(4).lr(1.0, epoch) for epoch in (4, 5, 100)] == [0.0] * 3


@pytest.mark.parametrize("gamma", [0.0, -1.0, 1.5, math.nan])
def test_gamma_must_be_a_share(gamma):
    with pytest.raises(ValueError, match=r"Step: gamma must be in \(0, 1\], got"):
        Step(1, gamma)
    with pytest.raises(ValueError, match=r"MultiStep: gamma must be in \(0, 1\], got"):
        MultiStep((1,), gamma)


def test_numbers_of_epochs_must_make_sense():
    with pytest.raises(ValueError, match=r"Step: every must be at least 1 epoch, got 0"):
        Step(0)
    with pytest.raises(ValueError, match=r"Cosine: epochs must be at least 1, got 0"):
        Cosine(0)
    for milestones in ((5, 3), (3, 3), (-1, 3)):
        with pytest.raises(ValueError, match=r"MultiStep: milestones must increase"):
            MultiStep(milestones)
