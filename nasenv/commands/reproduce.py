"""``nasenv reproduce``: run a finished search again, and say whether it comes out the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from nasenv.agents.agent import Agent
from nasenv.commands.arguments import call
from nasenv.commands.terminal import Terminal
from nasenv.commands.train import concluded, starting_architectures
from nasenv.data.dataset import Data
from nasenv.errors import BudgetExhausted, InputError, counted
from nasenv.evaluators.evaluator import Evaluator
from nasenv.files import user_path
from nasenv.objectives import Objective
from nasenv.provenance import differences, provenance
from nasenv.records.journal import Journal
from nasenv.records.replay import CompletionOrder
from nasenv.records.run_directory import JOURNAL
from nasenv.results.result import RESULT, Result
from nasenv.search.budget import Budget
from nasenv.search.search import Callback, Search
from nasenv.spaces.space import SearchSpace
from nasenv.task import shown_score
from nasenv.trial import Outcome

_TIMES = ("seconds", "train_seconds", "cached")  # of an evaluation: they may be others
_EARLY = "concluded as asked for"


def reproduce(run_dir: str, output: str | None = None) -> int:
    """Run a finished search again from its configuration, training everything anew, and say what comes out otherwise.

    The exit code is 0 where evaluations, winner and scores are the same, and 1 where they are not.

    Args:
        run_dir: the folder of a run that has ended.
        output: folder for the new run; by default beside the other one, with -again behind its name.
    """
    console = Terminal()
    folder = user_path(run_dir).resolve()
    if not (folder / RESULT).exists():
        raise InputError(f"{folder} holds no {RESULT}; expected the folder of a run that has ended")
    header, entries = Journal.read(folder / JOURNAL)
    result = Result.read(folder / RESULT)
    again = user_path(output) if output is not None else folder.with_name(f"{folder.name}-again")
    if (again / RESULT).exists():
        raise InputError(f"{again} holds a finished run; delete it to train everything anew, or give another --output")
    make = call(_search, "nasenv reproduce", ["--config", str(folder / "config.yaml")])
    with make(run_dir=again, completion_order=CompletionOrder.read(folder / JOURNAL)) as search:
        for said in _circumstances(header, search.identity()):
            console.say(said)
        if result.ended.startswith(_EARLY):
            search.callbacks.append(_concluding(len(entries), result.ended))
        result_again = concluded(search, console)
    _, entries_again = Journal.read(again / JOURNAL)
    found = [*_evaluations(entries, entries_again), *_results(result, result_again)]
    if found:
        console.say("\n- ".join([f"not the same; the new run is in {again}", *found]))
    else:
        test = f"test {result.metric} {shown_score(result.test_score, result.metric)}"
        winner = f"the winner {result.winner.text} and its {test}"
        console.say(f"the same again: {counted(len(entries), 'evaluation')}, {winner}; the new run is in {again}")
    return int(bool(found))


def _search(
    space: SearchSpace,
    evaluator: Evaluator,
    agent: Agent,
    objective: Objective,
    budget: Budget,
    data: Data = Data(),  # noqa: B008, it is frozen
    seed: int = 0,
    start_from: list[str] | None = None,
) -> Callable[..., Search]:
    """Return what makes the search, given its run directory."""
    start = starting_architectures(space, start_from)
    whole = replace(budget, wall_seconds=None)  # it changes nothing but how often the search is interrupted
    return partial(Search, space, evaluator, agent, whole, objective, None, seed, start=start)


def _concluding(evaluations: int, ended: str) -> Callback:
    """Return what ends a search after so many evaluations, though its agent plans for the whole budget."""

    def conclude(search: Search, outcome: Outcome) -> None:
        if len(search.history) == evaluations:
            search.ended = ended
            raise BudgetExhausted(ended)

    return conclude


def _circumstances(header: Mapping[str, Any], identity: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is not as it was when the run was made."""
    yield from differences(header.get("made_with", {}), provenance())
    for what, then in header["config"]["fingerprint"].items():
        if then != (now := identity["fingerprint"].get(what)):
            yield f"{what} of another fingerprint: {then}, now {now}"


def _evaluations(then: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield how the first evaluation that differs does, and how many do."""
    pairs = zip(then, now, strict=False)
    found = [(old, new, [k for k in old if k not in _TIMES and old[k] != new.get(k)]) for old, new in pairs]
    if differing := [(old, new, keys) for old, new, keys in found if keys]:
        old, new, keys = differing[0]
        shown = "text" if "text" in keys else keys[0]
        yield (
            f"{len(differing)} of {counted(len(then), 'evaluation')}, the first of them {old['evaluation']}: "
            f"{shown} was {old[shown]}, now {new.get(shown)}"
        )
    if len(then) != len(now):
        yield f"the number of evaluations: it was {len(then)}, now {len(now)}"


def _results(then: Result, now: Result) -> Iterator[str]:
    if then.winner.text != now.winner.text:
        yield f"the winner: it was {then.winner.text}, now {now.winner.text}"
    elif (then.winner, then.test_score) != (now.winner, now.test_score):
        yield f"the winner's scores: on test data it was {then.test_score}, now {now.test_score}"
    elif then.others != now.others:
        yield "the scores of what the winner is held against"
