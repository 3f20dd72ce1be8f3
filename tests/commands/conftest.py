import pytest

from nasenv.records.tensorboard import TensorBoardWriter


@pytest.fixture(scope="module")
def without_pictures_in_tensorboard():
    """Draw none of the pictures of a search, which take most of the time of one that does not train."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TensorBoardWriter, "choice_shares", lambda *_: None)
        patch.setattr(TensorBoardWriter, "best_architecture", lambda *_: False)
        yield
