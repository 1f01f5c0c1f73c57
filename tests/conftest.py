import os

import torch
from hypothesis import settings

# On the tiny maps of the tests a second thread costs more than it gives, and with two test
# processes on two cores it costs tens of times more.
torch.set_num_threads(1)

settings.register_profile("ci", max_examples=200, deadline=None, derandomize=True)
settings.register_profile("deep", max_examples=20000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
