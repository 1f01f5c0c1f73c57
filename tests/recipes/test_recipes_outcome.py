import pytest
import torch

from shiftproof import create_model
from shiftproof.metrics import cluster_interval, cluster_rate, rate
from shiftproof.recipes.command import run_command
from shiftproof.recipes.criteria import CRITERIA
from shiftproof.recipes.outcome import (
    agree_on_seed,
    build_seeded,
    check_size,
    load_trained,
    show_rate,
)
from shiftproof.training import ModelConfig
from shiftproof.training.checkpoint import save_checkpoint
from shiftproof.training.config import describe


def fail_with(error):
    def command():
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            ValueError("lr: must be positive, got 0; use 0.1"),
            "lr: must be positive, got 0; use 0.1",
        ),
        (RuntimeError("two\n  lines"), "two lines"),
        (FileNotFoundError(2, "No such file", "x"), "[Errno 2] No such file: 'x'"),
        (ValueError(), "ValueError"),
    ],
)
def test_what_a_user_can_mend_is_one_line_and_status_1(capsys, error, line):
    assert run_command(fail_with(error)) == 1
    assert capsys.readouterr() == ("", f"error: {line}\n")


def test_ctrl_c_has_the_status_of_its_signal(capsys):
    assert run_command(fail_with(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "error: interrupted\n"


def test_the_trace_is_shown_on_request(monkeypatch):
    monkeypatch.setenv("SHIFTPROOF_TRACEBACK", "1")
    with pytest.raises(ValueError, match="why"):
        run_command(fail_with(ValueError("why")))


def test_an_error_of_our_own_is_not_hidden():
    with pytest.raises(AssertionError):
        run_command(fail_with(AssertionError()))
    assert run_command(lambda: 3) == 3


@pytest.mark.parametrize(
    ("name", "size", "near"),
    [
        ("cifar_resnet20_aps1", 30, "28x28 or 32x32"),
        ("cifar_resnet18_pa", 7, "8x8"),
        ("resnet18_pa", 112, "96x96 or 128x128"),
    ],
)
def test_a_size_that_breaks_the_promise_is_refused(name, size, near):
    model = create_model(name)
    rule = rf"of {model.total_stride}, got {size}x{size}: .*; use {near}$"
    with pytest.raises(ValueError, match=rule):
        check_size(model, size)
    check_size(model, 32)


def test_any_size_is_right_for_a_network_that_promises_nothing():
    for name in ("cifar_resnet20", "cifar_resnet20_lpf3"):
        check_size(create_model(name), 30)
    check_size(torch.nn.Identity(), 30)


def test_initial_weights_follow_from_the_seed():
    config = ModelConfig("cifar_resnet20", 10)
    first, again, other = (build_seeded(config, seed).conv1.weight for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_one_process_keeps_its_seed():
    assert agree_on_seed(5) == 5


def test_a_share_is_shown_with_its_number_of_images_and_interval():
    shown = "75.00 % (n=4, 95 % interval 30.06 to 95.44"
    assert show_rate(rate("top-1", 3, 4)) == f"{shown})"
    assert show_rate(rate("x", 3, 4, 0.5)) == f"{shown}; mean of batch means 50.00)"


def test_a_share_of_batches_that_share_a_shift_says_so():
    low, high = (f"{100 * end:.2f}" for end in cluster_interval([4, 2], [4, 4]))
    assert show_rate(cluster_rate("x", [4, 2], [4, 4])) == (
        f"75.00 % (n=8 in 2 batches that share their shifts, 95 % interval {low} to {high})"
    )
    assert show_rate(cluster_rate("x", [4], [4])) == (
        "100.00 % (n=4 in 1 batch that shares its shift, which gives no interval)"
    )
    assert show_rate(rate("x", 0, 0)) == show_rate(cluster_rate("x", [], [])) == "no images"


@pytest.mark.parametrize("name", CRITERIA)
def test_every_criterion_is_one_score_per_component(name):
    scores = CRITERIA[name](torch.randn(2, 3, 4, 4), 2)
    assert scores.shape == (2, 4)
    model = create_model("cifar_resnet20_aps1", selector=CRITERIA[name])
    assert model.is_shift_invariant


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    path, trained = tmp_path / "checkpoint.pt", ModelConfig("cifar_resnet20_lpf3", 10)
    model = trained.build()
    weights = dict(model.state_dict())
    save_checkpoint(path, {"config": {"model": describe(trained)}, "model": weights})
    load_trained(trained.build(), trained, path)
    for other in (
        ModelConfig("cifar_resnet20_aps3", 10),
        ModelConfig("cifar_resnet20_lpf3", 10, options={"padding_mode": "zeros"}),
    ):
        with pytest.raises(ValueError, match="the network must be the one that was trained"):
            load_trained(other.build(), other, path)
    save_checkpoint(path, {"model": weights})
    with pytest.raises(ValueError, match="the checkpoint must be one of a training run"):
        load_trained(model, trained, path)
