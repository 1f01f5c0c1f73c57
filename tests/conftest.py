import os

import pytest
import torch
from hypothesis import settings

# On the tiny maps of the tests a second thread costs more than it gives, and with two test
# processes on two cores it costs tens of times more.
torch.set_num_threads(1)

settings.register_profile("ci", max_examples=200, deadline=None, derandomize=True)
settings.register_profile("deep", max_examples=20000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def pytest_addoption(parser):
    parser.addoption("--device", default="cpu", help="where the laws are tested, for instance cuda")


def pytest_collection_modifyitems(config, items):
    """On another device than the CPU there are the laws alone: the tests that ask for a device."""
    if config.getoption("--device") == "cpu":
        return
    laws, others = [], []
    for item in items:
        names, own = getattr(item, "fixturenames", ()), getattr(item, "callspec", None)
        is_law = "device" in names and (own is None or "device" not in own.params)
        (laws if is_law else others).append(item)
    config.hook.pytest_deselected(items=others)
    items[:] = laws


@pytest.fixture(scope="session")
def device(request):
    """Where the laws are tested."""
    found = torch.device(request.config.getoption("--device"))
    if found.type == "cuda":
        # Matrix products of 10 bits differ by more than the rounding of the dtype that is tested.
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    return found
