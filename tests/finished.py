"""A finished run that nobody ran."""

from shiftproof.metrics import rate
from shiftproof.results import Environment, EpochResult, RunResult


def result(*, epochs=2, consistency=True, stride=2, model="tiny"):
    rates = {"top-1": rate("top-1", 7, 10), "top-5": rate("top-5", 9, 10)}
    if consistency:
        rates["consistency (circular)"] = rate("circular", 8, 10)
    history = tuple(
        EpochResult(epoch, 0.1, 1.0, 10.0, 1.0 / (epoch + 1), 0.5, 1.0, rates)
        for epoch in range(epochs)
    )
    tested = {f"test {name}": value for name, value in rates.items()}
    tested["test worst-shift accuracy"] = rate("worst-shift", 6, 10)
    for dy in range(stride):
        for dx in range(stride):
            name = f"top-1 at shift ({dy}, {dx})"
            tested[name] = rate(name, 6 + dy, 10)
    return RunResult(
        model,
        num_parameters=12345,
        epochs=epochs,
        config={},
        environment=Environment.collect("cpu", 1),
        rates=tested,
        values={"seconds per epoch": 1.25, "total stride": stride},
        history=history,
    )
