import pytest
import torch


@pytest.fixture(autouse=True)
def _one_thread():
    """Networks as small as those of the tests are slowed down by a second thread, most of all on a busy machine."""
    torch.set_num_threads(1)
