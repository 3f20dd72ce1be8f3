"""``nasenv reproduce``: run a finished search again, and compare the results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from nasenv.agents.agent import Agent
from nasenv.commands.arguments import call
from nasenv.commands.terminal import Terminal
from nasenv.commands.train import run_and_conclude, starting_architectures
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
from nasenv.task import is_share, shown_score
from nasenv.trial import Outcome

_MAY_DIFFER = ("seconds", "train_seconds", "cached")  # fields of an evaluation
_CONCLUDED_EARLY = "concluded as asked for"


def reproduce(run_dir: str, output: str | None = None) -> int:
    """Run a finished search again from its configuration, with new trainings, and print every difference.

    The exit code is 0 if evaluations, winner and scores are the same, and 1 if they are not.

    Args:
        run_dir: folder of a finished run.
        output: folder for the new run; by default the old one's name with -again.
    """
    console = Terminal()
    folder = user_path(run_dir).resolve()
    if not (folder / RESULT).exists():
        raise InputError(f"{folder} holds no {RESULT}; expected the folder of a finished run")
    header, entries = Journal.read(folder / JOURNAL)
    result = Result.read(folder / RESULT)
    again = user_path(output) if output is not None else folder.with_name(f"{folder.name}-again")
    if (again / RESULT).exists():
        raise InputError(f"{again} holds a finished run; delete it to train everything anew, or give another --output")
    make = call(_search, "nasenv reproduce", ["--config", str(folder / "config.yaml")])
    with make(run_dir=again, completion_order=CompletionOrder.read(folder / JOURNAL)) as search:
        for difference in _environment_differences(header, search.identity()):
            console.say(difference)
        if result.ended.startswith(_CONCLUDED_EARLY):
            search.callbacks.append(_concluding(len(entries), result.ended))
        result_again = run_and_conclude(search, console)
    _, entries_again = Journal.read(again / JOURNAL)
    found = [
        *_evaluation_differences(entries, entries_again, result.metric),
        *_result_differences(result, result_again),
    ]
    if found:
        console.say("\n- ".join([f"not reproduced; the new run is in {again}", *found]))
    else:
        test = f"test {result.metric} {shown_score(result.test_score, result.metric)}"
        winner = f"the winner {result.winner.text} and its {test}"
        console.say(f"reproduced: {counted(len(entries), 'evaluation')}, {winner}; the new run is in {again}")
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
    constraints: list[str] | None = None,
) -> Callable[..., Search]:
    """Return a function that makes the search in a run directory."""
    start = starting_architectures(space, start_from)
    whole = replace(budget, wall_seconds=None)  # it only says when a search is interrupted
    parts = (space, evaluator, agent, whole, objective)
    return partial(Search, *parts, None, seed, start=start, constraints=constraints)


def _concluding(evaluations: int, ended: str) -> Callback:
    """Return a callback that ends a search after a number of evaluations; its agent plans for the whole budget."""

    def conclude(search: Search, outcome: Outcome) -> None:
        if len(search.history) == evaluations:
            search.ended = ended
            raise BudgetExhausted(ended)

    return conclude


def _environment_differences(header: Mapping[str, Any], identity: Mapping[str, Any]) -> Iterator[str]:
    """Yield the differences in versions, hardware and fingerprints since the run was made."""
    yield from differences(header.get("made_with", {}), provenance())
    for what, then in header["config"]["fingerprint"].items():
        if then != (now := identity["fingerprint"].get(what)):
            yield f"fingerprint of the {what} {then}, now {now}"


def _evaluation_differences(
    then: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]], metric: str
) -> Iterator[str]:
    """Yield texts on the first evaluation that differs, and on the number of evaluations."""
    pairs = zip(then, now, strict=False)
    found = [(old, new, [k for k in old if k not in _MAY_DIFFER and old[k] != new.get(k)]) for old, new in pairs]
    if differing := [(old, new, keys) for old, new, keys in found if keys]:
        old, new, keys = differing[0]
        shown = "text" if "text" in keys else keys[0]
        was, is_now = (_exact(e.get(shown), metric) if shown == "score" else e.get(shown) for e in (old, new))
        yield (
            f"{len(differing)} of {counted(len(then), 'evaluation')}, the first of them {old['evaluation']}: "
            f"{shown} was {was}, now {is_now}"
        )
    if len(then) != len(now):
        yield f"the number of evaluations: it was {len(then)}, now {len(now)}"


def _result_differences(then: Result, now: Result) -> Iterator[str]:
    if then.winner.text != now.winner.text:
        yield f"the winner: it was {then.winner.text}, now {now.winner.text}"
    elif (then.winner, then.test_score) != (now.winner, now.test_score):
        was, is_now = (_exact(result.test_score, result.metric) for result in (then, now))
        yield f"the winner's scores: on test data it was {was}, now {is_now}"
    elif (then.others, then.finalists) != (now.others, now.finalists):
        yield "the scores of the architectures that the winner is compared with"


def _exact(score: float | None, metric: str) -> str:
    """Return a score as text with all digits that may differ, a share in per cent; none of a failed training."""
    if score is None:
        return "none"
    return f"{100 * score:.12g} %" if is_share(metric) else str(score)
