import contextlib

import torch


@contextlib.contextmanager
def one_thread():
    """Maps of a few pixels are not worth a second thread, which on a busy machine costs seconds."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
