"""Searches still go the way that is written down; `python tests/golden/golden.py --all` compares every case."""

import pytest

from tests.golden import golden

pytestmark = pytest.mark.usefixtures("without_pictures")
KNOWN = golden.known()
SHORT = [name for name, case in golden.cases().items() if case.short]


def compare(name):
    differs = golden.check(name, KNOWN["cases"].get(name))
    if differs is not None and golden.made_with() != KNOWN["made_with"]:
        pytest.skip(f"{name}: {differs}; the record was made with {KNOWN['made_with']}, where numbers may differ")
    assert differs is None, f"{name}: {differs}"


@pytest.mark.parametrize("name", SHORT)
def test_a_search_goes_as_it_is_written_down(name):
    compare(name)


@pytest.mark.parametrize("agent", ["evolution", "maskable_ppo", "q_learning"])
def test_a_layer_that_only_gives_on_changes_nothing(agent, monkeypatch):
    monkeypatch.setenv(golden.LAYERS, "2")
    compare(f"failing/{agent}")


def test_every_case_is_written_down():
    assert set(golden.cases()) == set(KNOWN["cases"])


def test_the_first_difference_is_named():
    one = {"answers": ["0.1 0.5", "0.2 0.7"], "end": {"evaluations": 2}}
    assert golden.difference(one, one) is None
    other = {"answers": ["0.1 0.5", "0.3 0.7"], "end": {"evaluations": 3}}
    assert golden.difference(one, other) == "answers 2: expected '0.2 0.7', found '0.3 0.7'"
    assert golden.difference(one, {**one, "end": {"evaluations": 3}}) == "end evaluations: expected 2, found 3"
    assert golden.difference(one, {**one, "answers": ["0.1 0.5"]}) == "answers: 2 lines expected, 1 found"
    assert golden.difference(one, {"end": one["end"]}).startswith("answers: expected")
