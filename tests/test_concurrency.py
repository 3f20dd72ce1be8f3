import pytest

from nasenv.evaluators.concurrency import Concurrency


def found(rate_of, least=1, most=16, batches=10):
    """Return the number that is settled on where so many at once come to such a rate."""
    concurrency = Concurrency(least, most)
    for _ in range(batches):
        concurrency.measured(32, 32.0, 32.0 / rate_of(concurrency.now))
    return concurrency.now


@pytest.mark.parametrize(
    ("rate_of", "expected"),
    [
        (lambda n: n, 16),  # as many as there may be
        (lambda n: 1.0, 1),  # a second gains nothing
        (lambda n: min(n, 4), 4),
        (lambda n: n if n < 8 else 1.0, 4),  # eight are in each other's way
        (lambda n: 1.05 * n**0.1, 1),  # gains too little
    ],
)
def test_it_doubles_while_that_pays(rate_of, expected):
    assert found(rate_of) == expected


def test_it_keeps_to_its_bounds():
    assert found(lambda n: n, least=2, most=12) == 8
    assert found(lambda n: 1.0, least=2) == 2
    assert found(lambda n: n, least=4, most=2) == 4


def test_small_batches_tell_nothing():
    concurrency = Concurrency(1, 8)
    for _ in range(9):
        concurrency.measured(2, 2.0, 1.0 / concurrency.now)
    assert concurrency.now == 2


def test_it_backs_off_for_good_where_memory_runs_out():
    concurrency = Concurrency(1, 16)
    for _ in range(3):
        concurrency.measured(32, 1.0, 1.0 / concurrency.now)
    assert concurrency.now == 8
    assert concurrency.out_of_memory()
    concurrency.measured(32, 1.0, 0.01)
    assert concurrency.now == 4
    assert concurrency.out_of_memory()
    assert concurrency.out_of_memory()
    assert not concurrency.out_of_memory()
    assert concurrency.now == 1
