import dataclasses
import json

import pytest

from shiftproof.results import (
    SCHEMA,
    Environment,
    EpochResult,
    RateResult,
    RunResult,
    load_result,
    save_result,
)


def epoch_result(epoch):
    return EpochResult(
        epoch=epoch,
        lr=0.1,
        seconds=1.5,
        images_per_second=30.0,
        train_loss=2.3 - epoch,
        train_top1=0.1,
        val_loss=2.2,
        val_rates={
            "top-1": RateResult("top-1", 10, 7, 0.39, 0.89),
            "consistency (aps-cifar-val)": RateResult("aps-cifar-val", 4, 4, 0, 1, 1.0, 1),
        },
    )


def run_result(**changes):
    result = RunResult(
        model="resnet18_aps3",
        num_parameters=11_689_512,
        epochs=2,
        config={"lr": 0.1, "milestones": [30, 60], "seed": None, "name": "größe"},
        environment=Environment.collect(device="cpu", num_threads=2),
        rates={
            "test top-1": RateResult("top-1", 10, 7, 0.39, 0.89),
            "consistency": RateResult("crop", 3, 1, 0.06, 0.79, batch_mean=1 / 3),
        },
        values={"seconds per epoch": 0.1 + 0.2},
        history=(epoch_result(0), epoch_result(1)),
        unreadable=("a/b.png", "ü.png"),
    )
    return dataclasses.replace(result, **changes)


def edited(tmp_path, edit):
    """A saved result whose JSON was changed by ``edit``."""
    path = tmp_path / "result.json"
    save_result(run_result(), path)
    data = json.loads(path.read_text(encoding="utf-8"))
    edit(data)
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def test_share_and_percent():
    result = RateResult("top-1", n=8, successes=6, low=0.0, high=1.0)
    assert (result.value, result.percent) == (0.75, 75.0)


def test_share_of_no_images():
    result = RateResult("top-1", n=0, successes=0, low=0.0, high=1.0)
    assert (result.value, result.percent) == (0.0, 0.0)


def test_results_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        run_result().epochs = 3


def test_environment_names_what_is_installed():
    environment = Environment.collect(device="cpu", num_threads=3)
    assert (environment.device, environment.num_threads) == ("cpu", 3)
    assert {"shiftproof", "torch"} <= set(environment.versions)


def test_consistency_of_an_epoch():
    epoch = epoch_result(0)
    assert epoch.consistency == epoch.val_rates["consistency (aps-cifar-val)"]
    assert (
        dataclasses.replace(epoch, val_rates={"top-1": epoch.val_rates["top-1"]}).consistency
        is None
    )


def test_round_trip(tmp_path):
    path = tmp_path / "result.json"
    save_result(run_result(), path)
    assert load_result(path) == run_result()
    assert load_result(str(path)).schema == SCHEMA


def test_a_result_of_the_first_schema_gets_the_names_of_today(tmp_path):
    old = {"n": 4, "successes": 3, "low": 0.3, "high": 0.95, "batch_mean": None}
    names = {
        "test top-1": "test top-1",
        "test aps-cifar-test(max_shift=5)": "test consistency (aps-cifar-test(max_shift=5))",
        "before circular": "before consistency (circular)",
        "test worst-shift": "test worst-shift accuracy",
        "top-1 at shift (0, 1)": "top-1 at shift (0, 1)",
    }

    def edit(data):
        data["schema"] = 1
        protocols = (name.removeprefix("test ").removeprefix("before ") for name in names)
        data["rates"] = {
            name: {"protocol": protocol, **old}
            for name, protocol in zip(names, protocols, strict=True)
        }
        data["history"][0]["val_rates"] = {"top-1": {"protocol": "top-1", **old}}
        data["history"][0]["val_rates"]["circular"] = {"protocol": "circular", **old}

    path = edited(tmp_path, edit)
    result = load_result(path)
    assert list(result.rates) == list(names.values())
    assert list(result.history[0].val_rates) == ["top-1", "consistency (circular)"]
    assert result.history[0].consistency.protocol == "circular"
    save_result(result, path)
    assert load_result(path) == result


def test_round_trip_of_the_least(tmp_path):
    path = tmp_path / "result.json"
    least = run_result(rates={}, values={}, history=(), unreadable=(), config={})
    save_result(least, path)
    assert load_result(path) == least


@pytest.mark.parametrize("step", ["os.fsync", "pathlib.Path.replace"])
def test_failing_write_keeps_the_old_file(tmp_path, monkeypatch, step):
    path = tmp_path / "result.json"
    save_result(run_result(), path)

    def fail(*_):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(step, fail)
        with pytest.raises(RuntimeError, match=r"result.json: .* got disk full"):
            save_result(run_result(epochs=9), path)
    assert load_result(path) == run_result()
    assert list(tmp_path.iterdir()) == [path]


def test_result_that_is_not_json_keeps_the_old_file(tmp_path):
    path = tmp_path / "result.json"
    save_result(run_result(), path)
    with pytest.raises(TypeError, match="not JSON serializable"):
        save_result(run_result(config={"device": object()}), path)
    assert load_result(path) == run_result()


@pytest.mark.parametrize("text", ["[]", "3", "{}", '{"schema": "new"}', '{"schema": null}'])
def test_file_of_something_else(tmp_path, text):
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"must hold a result of this project, got .*other\.json"):
        load_result(path)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00"])
def test_file_that_is_not_json(tmp_path, content):
    path = tmp_path / "other.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"must hold a result of this project, got .*other\.json"):
        load_result(path)


@pytest.mark.parametrize(
    "edit",
    [
        lambda data: data.pop("environment"),
        lambda data: data.pop("model"),
        lambda data: data.update(rates=[]),
        lambda data: data.update(environment=None),
        lambda data: data["history"][1].pop("lr"),
        lambda data: data["rates"]["consistency"].pop("n"),
        lambda data: data.update(surprise=1),
    ],
)
def test_incomplete_result(tmp_path, edit):
    with pytest.raises(ValueError, match=r"must hold a complete result, got .*result\.json"):
        load_result(edited(tmp_path, edit))


def test_newer_schema_is_refused(tmp_path):
    path = edited(tmp_path, lambda data: data.update(schema=SCHEMA + 1, surprise=1))
    with pytest.raises(ValueError, match=f"schema must be at most {SCHEMA}, got {SCHEMA + 1}"):
        load_result(path)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_result(tmp_path / "result.json")
