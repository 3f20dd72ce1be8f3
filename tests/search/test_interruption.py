"""A search that was interrupted in a program that lives on, as a notebook does: it goes on, and says who holds what."""

import json
import multiprocessing

import pytest

import nasenv
from nasenv.agents import PPO, RandomSearch, RegularizedEvolution
from nasenv.errors import InputError, SearchStopped
from nasenv.evaluators.training import TrainingEvaluator
from nasenv.results.conclude import conclude
from nasenv.search.search import Budget, Search
from nasenv.spaces.chain_cnn import ChainCNN
from tests.fakes import OneByOne

pytestmark = pytest.mark.usefixtures("without_pictures")
SPACE = ChainCNN(max_layers=2)
BUDGET = Budget(24, finalists=2, final_seeds=1)
AGENTS = {
    "RandomSearch": lambda: RandomSearch(batch_size=8),
    "asynchronous": lambda: RandomSearch(asynchronous=True),
    "RegularizedEvolution": lambda: RegularizedEvolution(8, 3, batch_size=4),
    "PPO": lambda: PPO(num_envs=8),
}


class Interrupted(OneByOne):
    """Is interrupted, as by Ctrl-C, at some of its measurements; each has a training time of its own."""

    def __init__(self, space, at=()):
        super().__init__(space)
        self.at, self.made = set(at), []

    def fingerprint(self):
        return "interrupted"

    def config(self):
        return {"class_path": "Interrupted", "init_args": {}}

    def figure(self, architecture):
        if len(self.made) in self.at:
            self.at.remove(len(self.made))
            raise KeyboardInterrupt
        self.made.append(architecture)
        return super().figure(architecture)


def search_on(folder, evaluator, agent="RandomSearch", **options):
    return Search(SPACE, evaluator, AGENTS[agent](), BUDGET, seed=3, run_dir=folder, **options)


def told(search):
    return [(o.architecture, o.reward, o.cached, o.proposal) for o in search.history], search.ended


def journal(folder):
    lines = map(json.loads, (folder / "journal.jsonl").read_text().splitlines()[1:])
    return [{key: value for key, value in line.items() if key not in ("seconds", "slots")} for line in lines]


def interrupt(search):
    with pytest.raises(KeyboardInterrupt):
        search.run()


@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.parametrize("has_folder", [True, False])
def test_it_goes_on(agent, has_folder, tmp_path):
    first, second = (tmp_path / "first", tmp_path / "second") if has_folder else (None, None)
    evaluator, other = Interrupted(SPACE, at=(0, 5, 17)), Interrupted(SPACE)
    with search_on(first, other, agent) as undisturbed:
        undisturbed.run()
    with search_on(second, evaluator, agent) as search:
        for _ in range(3):
            interrupt(search)
        search.run()
        assert sorted(evaluator.made) == sorted(other.made), "nothing is trained twice"
        result = conclude(search)
    assert told(search) == told(undisturbed)
    if has_folder:
        assert journal(second) == journal(first)
        with search_on(second, Interrupted(SPACE), agent) as again:  # and as a new process would
            again.run()
            assert told(again) == told(undisturbed)
            assert conclude(again) == result


def test_what_the_cache_knew_is_still_free(tmp_path):
    with nasenv.Cache(tmp_path / "cache.db") as cache:
        with search_on(None, Interrupted(SPACE), cache=cache) as other:
            other.run()
        with search_on(None, Interrupted(SPACE, at=(0,)), "RegularizedEvolution", cache=cache) as search:
            interrupt(search)
            search.run()
        with search_on(None, Interrupted(SPACE), "RegularizedEvolution", cache=None) as alone:
            alone.run()
    known = {SPACE.canonical(o.architecture) for o in other.history}
    assert [o.architecture for o in search.history] == [o.architecture for o in alone.history]
    assert all(o.cached for o in search.history if SPACE.canonical(o.architecture) in known)


def test_it_goes_on_after_the_with_block(tmp_path):
    with pytest.raises(KeyboardInterrupt), search_on(tmp_path, Interrupted(SPACE, at=(9,))) as search:
        search.run()
    search.run()
    search.close()
    assert len(search.history) == BUDGET.evaluations


def test_it_goes_on_after_a_stop(tmp_path):
    stop_at = [7]

    def stop(search, outcome):
        if stop_at and outcome.evaluation == stop_at[0]:
            stop_at.pop()
            search.stop("enough for today")

    with search_on(tmp_path, Interrupted(SPACE), callbacks=[stop]) as search:
        search.run()
        assert search.stopped == "enough for today"
        with pytest.raises(SearchStopped):
            conclude(search)
        search.run()
        assert search.stopped is None
        assert len(search.history) == BUDGET.evaluations


def test_a_stop_before_the_first_run_stops_it():
    with search_on(None, Interrupted(SPACE)) as search:
        search.stop("at once")
        search.run()
        assert (search.stopped, len(search.history)) == ("at once", 0)


def test_the_same_search_again_says_that_this_program_holds_the_folder(tmp_path):
    search = search_on(tmp_path, Interrupted(SPACE, at=(9,)))
    interrupt(search)
    with pytest.raises(InputError, match=r"is in use by a search that this program made before; call its close\(\)"):
        search_on(tmp_path, Interrupted(SPACE))
    search.close()
    with search_on(tmp_path, Interrupted(SPACE)) as again:
        assert again.replayed == 8


def hold(folder, pipe):
    with search_on(folder, Interrupted(SPACE)):
        pipe.send("made")
        pipe.recv()


def test_a_search_of_another_program_is_another_search(tmp_path):
    fork = multiprocessing.get_context("fork")
    ours, theirs = fork.Pipe()
    other = fork.Process(target=hold, args=(tmp_path, theirs))
    other.start()
    try:
        assert ours.poll(60)
        with pytest.raises(InputError, match="is in use by another search; wait for it or give another run_dir"):
            search_on(tmp_path, Interrupted(SPACE))
    finally:
        ours.send("end")
        other.join()
    assert other.exitcode == 0
    search_on(tmp_path, Interrupted(SPACE)).close()


@pytest.mark.parametrize("has_folder", [True, False])
def test_conclude_after_the_with_block(has_folder, tmp_path):
    folders = (tmp_path / "within", tmp_path / "after") if has_folder else (None, None)
    with search_on(folders[0], Interrupted(SPACE)) as search:
        search.run()
        expected = conclude(search)
    with search_on(folders[1], Interrupted(SPACE)) as search:
        search.run()
    assert conclude(search) == expected
    if has_folder:
        for name in ("result.json", "trials.jsonl"):
            texts = [(folder / name).read_text().splitlines() for folder in folders]
            assert [line for line in texts[0][1:] if "seconds" not in line] == [
                line for line in texts[1][1:] if "seconds" not in line
            ]
        assert conclude(search) == expected, "twice"
        with search_on(folders[1], Interrupted(SPACE)) as again:  # nobody holds the folder any more
            again.run()


def test_conclude_after_another_went_on_there(tmp_path):
    with search_on(tmp_path, Interrupted(SPACE)) as search:
        search.run()
    with (tmp_path / "journal.jsonl").open("a") as file:
        file.write("{}\n")
    evaluator = search.evaluator
    made = len(evaluator.made)
    with pytest.raises(InputError, match=r"journal.jsonl was changed since this search was closed; make it again"):
        conclude(search)
    assert len(evaluator.made) == made
    (tmp_path / "journal.jsonl").unlink()
    with pytest.raises(InputError, match=r"cannot read .*journal.jsonl"):
        conclude(search)


def test_conclude_while_another_holds_the_folder(tmp_path):
    with search_on(tmp_path, Interrupted(SPACE)) as search:
        search.run()
    with search_on(tmp_path, Interrupted(SPACE)), pytest.raises(InputError, match="that this program made before"):
        conclude(search)


def test_nothing_is_trained_for_a_closed_search(tmp_path):
    with search_on(tmp_path, Interrupted(SPACE)) as search:
        search.evaluate([SPACE.reference()])
    with pytest.raises(InputError, match="this search is closed; make it again with the same run_dir"):
        search.evaluate(SPACE.all_architectures()[:2])
    assert len(search._evaluator.made) == 1


def test_trainings_go_on_in_workers(tmp_path):
    """The interrupt comes while workers train; their processes are not lost, nor what they had done."""
    space = ChainCNN(max_layers=2, widths=(8,))
    evaluator = TrainingEvaluator(space, epochs=1, final_epochs=1, concurrency=2)

    def interrupt_at(search, outcome):
        if outcome.evaluation == 3 and not interrupted:
            interrupted.append(outcome)
            raise KeyboardInterrupt

    interrupted = []
    budget = Budget(6, finalists=1, final_seeds=1)
    agent = RandomSearch(batch_size=2)
    with Search(space, evaluator, agent, budget, run_dir=tmp_path, callbacks=[interrupt_at]) as search:
        interrupt(search)
        search.run()
    with Search(space, TrainingEvaluator(space, epochs=1, concurrency=0), agent, budget) as alone:
        alone.run()
    assert [o.reward for o in search.history] == [o.reward for o in alone.history]
    assert 0 < conclude(search).test_score <= 1
    trained = [json.loads(line) for line in (tmp_path / "trials.jsonl").read_text().splitlines()[1:]]
    searched = [tuple(line["architecture"]) for line in trained if line["purpose"] == "search"]
    assert len(set(searched)) == len(searched)
