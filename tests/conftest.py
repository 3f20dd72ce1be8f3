import pytest
import torch

from nasenv.records.tensorboard import TensorBoardWriter
from scripts.benchmarks.postgresql_server import programs, server

LONGEST = ("test_ray.py", "test_stopping.py", "test_comparison_ray.py", "test_readme.py", "test_soak.py")


def pytest_collection_modifyitems(items):
    """Put the files that take longest first, so that none of them is still at work when all others are done."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture(autouse=True)
def _one_thread():
    """Networks as small as those of the tests are slowed down by a second thread, most of all on a busy machine."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def without_pictures():
    """Draw no pictures for TensorBoard in the course of a search; it takes most of the time of one as short as these.

    Use it where no picture is looked at: ``pytestmark = pytest.mark.usefixtures("without_pictures")``.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TensorBoardWriter, "choice_shares", lambda *_: None)
        patch.setattr(TensorBoardWriter, "best_architecture", lambda *_: False)
        yield


@pytest.fixture(scope="session")
def postgresql():
    """Return a PostgreSQL server; tests that need one are skipped where there is no program."""
    try:
        programs()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    with server(fsync="off") as made:  # the operating system lives on when the server is killed
        yield made


@pytest.fixture(params=["SQLite", "PostgreSQL"])
def place(request, tmp_path):
    """Return where a cache is to be: a file, or an empty database on a server."""
    if request.param == "SQLite":
        return str(tmp_path / "deep" / "down" / "cache.db")
    made = request.getfixturevalue("postgresql")
    made.empty()
    return made.url
