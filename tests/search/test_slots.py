"""Slots that come and go in the course of an asynchronous search."""

import json

import pytest

from nasenv.errors import InputError
from nasenv.records.replay import CompletionOrder
from tests.search.test_asynchronous import AGENTS, SPACE, PowerCut, Slots, journal, run, search

pytestmark = pytest.mark.usefixtures("without_pictures")


class Elastic(Slots):
    """Has other numbers of slots from some trainings on."""

    excluded_from_identity = ("plan", "order", "cut_after")

    def __init__(self, space, plan, order=0, cut_after=None):
        super().__init__(space, 1, order, cut_after)
        self.plan = plan

    @property
    def slots(self):
        self._slots = max((begun, slots) for begun, slots in self.plan.items() if begun <= len(self.began))[1]
        return self._slots


PLAN = {0: 2, 8: 6, 20: 3}


def in_flight_once_answered(entries):
    return {entry["evaluation"]: entry["slots"] for entry in entries if "slots" in entry}


@pytest.mark.parametrize("agent", AGENTS)
def test_the_search_follows_the_slots_and_journals_when(tmp_path, agent):
    evaluator = Elastic(SPACE, PLAN)
    entries = run(tmp_path, AGENTS[agent](asynchronous=True), evaluator)
    assert len(entries) == 40
    assert list(in_flight_once_answered(entries).values()) == [6, 3]
    assert json.loads((tmp_path / "journal.jsonl").read_text().splitlines()[0])["slots"] == 2
    assert max(evaluator.at_once) == 6
    assert max(evaluator.at_once[-12:]) == 3


@pytest.mark.parametrize("cut_after", [5, 14, 30])
@pytest.mark.parametrize("agent", AGENTS)
def test_after_a_power_cut_the_same_is_in_flight_again(tmp_path, agent, cut_after):
    with pytest.raises(PowerCut):
        run(tmp_path, AGENTS[agent](asynchronous=True), Elastic(SPACE, PLAN, cut_after=cut_after))
    before = journal(tmp_path)
    after = run(tmp_path, AGENTS[agent](asynchronous=True), Elastic(SPACE, {0: 4}, order=3))
    assert after[: len(before)] == before
    assert len(after) == 40
    assert list(in_flight_once_answered(after).values())[-1] == 4


@pytest.mark.parametrize("agent", AGENTS)
def test_the_same_completion_order_has_the_same_slots(tmp_path, agent):
    once = run(tmp_path / "once", AGENTS[agent](asynchronous=True), Elastic(SPACE, PLAN))
    completion_order = CompletionOrder.read(tmp_path / "once" / "journal.jsonl")
    assert (
        run(
            tmp_path / "again",
            AGENTS[agent](asynchronous=True),
            Elastic(SPACE, {0: 5}, order=7),
            completion_order=completion_order,
        )
        == once
    )


def test_slots_that_are_no_number_of_them_are_damage(tmp_path):
    run(tmp_path, AGENTS["RandomSearch"](asynchronous=True), Elastic(SPACE, PLAN))
    path = tmp_path / "journal.jsonl"
    path.write_text(path.read_text().replace('"slots":6', '"slots":-6'))
    with pytest.raises(InputError, match=r"line \d+ is damaged"):
        search(tmp_path, AGENTS["RandomSearch"](asynchronous=True), Elastic(SPACE, PLAN))
