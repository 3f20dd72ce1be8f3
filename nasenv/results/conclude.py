"""`conclude` trains the best architectures of a search for longer, tests the winner, and writes the result."""

from __future__ import annotations

import contextlib
import math
import shutil
import statistics
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeAlias

from torch import nn

from nasenv.deployment.export import build_trained, save_model
from nasenv.errors import InputError, SearchStopped
from nasenv.files import write_whole
from nasenv.objectives import Rewards, is_score
from nasenv.records.trials import OnMeasured, ignore, measure_trials
from nasenv.results.result import EARLY, REFERENCE, RESULT, SEARCHED, WINNER, Contender, Result, mean, table
from nasenv.search.budget import Budget
from nasenv.search.search import Search
from nasenv.spaces.space import SearchSpace
from nasenv.training.trainer import read_weights
from nasenv.trial import Architecture, Measurement, Purpose, Trial

_EARLY = 16  # evaluations before an agent can have learnt anything
_NETWORKS = "networks"  # folder of the winner's weights, a file for each seed, until the run is finished

_Trainings: TypeAlias = Mapping[Architecture, Mapping[Trial, Measurement]]


def conclude(search: Search, on_measured: OnMeasured = ignore) -> Result:
    """Choose and test the winner of a finished search; write the result to the run directory, if there is one.

    The best ``budget.finalists`` architectures by reward, each network once, and those that they are compared with,
    are trained ``budget.final_seeds`` times for the evaluator's final length on the training split; the best mean
    reward wins, be it of the space's hand-made reference, unless that breaks the search's constraints. Then the winner
    and what it is compared with are trained on training + validation data and tested: no choice depends on test data.
    Trainings that ended before an interruption are not repeated.

    Args:
        search: the search.
        on_measured: called whenever a final training has ended, see `measure_trials`.

    Raises:
        InputError: no architecture was measured, or every final training failed; the run directory of a search that was
            closed is in use, or was changed meanwhile.
        SearchStopped: the search was stopped, before its end or during the final trainings.
    """
    with contextlib.ExitStack() as stack:
        if search.files is not None and search.files.is_closed:
            search.files.reopen()
            stack.enter_context(search)
        return _conclude(search, on_measured)


def _conclude(search: Search, on_measured: OnMeasured) -> Result:
    if search.stopped is not None:
        raise SearchStopped(search.stopped)
    finalists, baselines = _finalists(search), _baselines(search)
    architectures = _confirmed(finalists, baselines)
    confirmed = _measured(search, "confirm", architectures, None, on_measured)
    if all(m.error is not None for a in finalists for m in confirmed[a].values()):
        error = next(iter(confirmed[finalists[0]].values())).error
        raise InputError(f"every final training failed, the best architecture's with: {error}")
    ranked = _ranked(search, confirmed)
    roles = {WINNER: ranked[0]}
    found = [*finalists, *(a for role, a in baselines.items() if role != REFERENCE)]
    if ranked[0] not in found:
        roles[SEARCHED] = next(a for a in ranked if a in found)
    roles |= baselines
    tested = _measured(search, "test", list(dict.fromkeys(roles.values())), ranked[0], on_measured)
    networks = [(trial, t.score) for trial, t in tested[ranked[0]].items() if t.score is not None]
    if not networks:
        raise InputError(f"the winner's final training failed: {next(iter(tested[ranked[0]].values())).error}")
    role_of = {architecture: role for role, architecture in reversed(roles.items())}
    history = search.history
    winner, *others = (_contender(search, role, a, confirmed[a], tested[a]) for role, a in roles.items())
    result = Result(
        winner=winner,
        others=tuple(others),
        finalists=tuple(
            _contender(search, role_of.get(a, "finalist"), a, confirmed[a], tested.get(a, {})) for a in ranked
        ),
        test_score=networks[0][1],
        metric=search.space.task.metric,
        ended=str(search.ended),
        evaluations=history.evaluations,
        repeats=history.repeats,
        train_seconds=history.train_seconds,
        constraints=tuple(search.constraints.texts),
        looks=history.looks,
    )
    _write(search, result, _network(search, networks[0][0]), confirmed[ranked[0]].values())
    return result


def final_trainings(search: Search) -> tuple[list[Trial], int]:
    """Return the trainings from which `conclude` chooses the winner of a finished search, and the most that test."""
    finalists, baselines, seeds = _finalists(search), _baselines(search), range(search.budget.final_seeds)
    trials = [Trial(a, 1.0, "confirm", seed) for a in _confirmed(finalists, baselines) for seed in seeds]
    return trials, min(len(trials), (1 + len(baselines)) * len(seeds))


def most_trainings(space: SearchSpace, budget: Budget) -> tuple[int, int]:
    """Return how many trainings there are at most after a search to choose the winner, and to test."""
    limit = math.inf if budget.evaluations is None else budget.evaluations
    compared = (space.reference() is not None) + (limit > _EARLY)
    return int(min(budget.finalists, limit) + compared) * budget.final_seeds, (1 + compared) * budget.final_seeds


def _confirmed(finalists: Sequence[Architecture], baselines: Mapping[str, Architecture]) -> list[Architecture]:
    return list(dict.fromkeys([*finalists, *baselines.values()]))


def _contender(
    search: Search,
    role: str,
    architecture: Architecture,
    confirmed: Mapping[Trial, Measurement],
    tested: Mapping[Trial, Measurement],
) -> Contender:
    """Return an architecture with the scores of its final trainings, apart from those that failed."""
    paid = None if is_score(search.objective) else search.objective.reward

    def split(trained: Mapping[Trial, Measurement]) -> tuple[tuple[float, ...], tuple[int, ...], tuple[float, ...]]:
        done = {trial.seed: m for trial, m in trained.items() if m.error is None}
        scores = tuple(m.score for m in done.values() if m.score is not None)
        return scores, tuple(done), () if paid is None else tuple(map(paid, done.values()))

    metrics = {name: value for m in (*confirmed.values(), *tested.values()) for name, value in m.metrics.items()}
    params, flops = (int(metrics[name]) if name in metrics else None for name in ("params", "flops"))
    (scores, seeds, rewards), (test_scores, test_seeds, test_rewards) = split(confirmed), split(tested)
    text = search.space.to_text(architecture)
    parts = (seeds, test_seeds, rewards, test_rewards, _why_infeasible(search, architecture))
    return Contender(role, architecture, text, scores, test_scores, params, flops, *parts)


def _why_infeasible(search: Search, architecture: Architecture) -> str:
    """Return which constraints an architecture breaks; an empty text if none."""
    look = search.constraints.look(architecture)
    return "" if look is None else look.measurement.error or ""


def _measured(
    search: Search,
    purpose: Purpose,
    architectures: Sequence[Architecture],
    kept: Architecture | None,
    on_measured: OnMeasured,
) -> dict[Architecture, dict[Trial, Measurement]]:
    """Return the final trainings of each architecture, one for each seed; store the weights of ``kept``.

    To confirm is to train on the training split, to test is to train on training + validation data and to be tested.
    """
    trials = [Trial(a, 1.0, purpose, seed) for a in architectures for seed in range(search.budget.final_seeds)]
    keep = {t: path for t in trials if t.architecture == kept and (path := _weights_path(search, t)) is not None}
    found = measure_trials(search.evaluator, trials, search.trials, search.is_stopped, keep, on_measured)
    return {a: {trial: found[trial] for trial in trials if trial.architecture == a} for a in architectures}


def _weights_path(search: Search, trial: Trial) -> Path | None:
    """Return the file of a network's weights until the run is finished; None without a run directory."""
    if search.run_dir is None:
        return None
    folder = search.run_dir / _NETWORKS
    folder.mkdir(exist_ok=True)
    return folder / f"seed-{trial.seed}.safetensors"


def _network(search: Search, trial: Trial) -> nn.Module | None:
    """Return the network of a trial; None if the evaluator trains none, or there is no run directory."""
    path = _weights_path(search, trial)
    if path is None or search.evaluator.dataset is None:
        return None
    if not path.exists():  # its file was deleted between two starts
        measure_trials(search.evaluator, [trial], None, search.is_stopped, {trial: path})
    try:
        return build_trained(search.space, trial.architecture, read_weights(path))
    except (InputError, RuntimeError) as error:
        raise InputError(f"{path} is damaged; delete it, and the line of its training in trials.jsonl") from error


def _finalists(search: Search) -> list[Architecture]:
    """Return the best architectures as their representatives, without duplicates."""
    history = search.history
    ranked = (search.evaluator.representative(o.architecture) for o in history.top(len(history)))
    finalists = list(dict.fromkeys(ranked))[: search.budget.finalists]
    if not finalists:
        what = "broke constraints" if len(history) and history[0].violation else "failed with"
        first = f"; the first {what}: {history[0].measurement.error}" if len(history) else f": {search.ended}"
        raise InputError(f"no architecture could be evaluated{first}")
    return finalists


def _baselines(search: Search) -> dict[str, Architecture]:
    """Return the architectures that the winner is compared with, by role.

    The best of the first evaluations stands for random sampling; where there are no later ones, nothing is compared.
    """
    baselines: dict[str, Architecture] = {}
    reference = search.space.reference()
    if reference is not None:
        baselines[REFERENCE] = reference
    given = len(dict.fromkeys(search.start))
    evaluated = (outcome for outcome in search.history[given:] if outcome.violation is None)
    proposed = list(islice(evaluated, _EARLY + 1))
    early = [o for o in proposed[:_EARLY] if o.measurement.error is None]
    if early and len(proposed) > _EARLY:
        baselines[f"{EARLY}{_EARLY}"] = max(early, key=lambda o: o.reward).architecture
    return {role: search.evaluator.representative(architecture) for role, architecture in baselines.items()}


def _ranked(search: Search, confirmed: _Trainings) -> list[Architecture]:
    """Return the architectures that could be trained, the best mean reward first, then those that could not.

    A training that failed is paid less than any other. Last come those that break the search's constraints.
    """
    rewards = Rewards(search.objective, search.space.task.lowest_score)
    for measurement in (m for row in confirmed.values() for m in row.values() if m.error is None):
        rewards.pay(measurement)

    def worth(architecture: Architecture) -> tuple[bool, bool, float]:
        trained, is_feasible = confirmed[architecture].values(), not _why_infeasible(search, architecture)
        return is_feasible, any(m.error is None for m in trained), statistics.fmean(map(rewards.pay, trained))

    return sorted(confirmed, key=worth, reverse=True)


def _write(search: Search, result: Result, network: nn.Module | None, confirmed: Iterable[Measurement]) -> None:
    files, space = search.files, search.space
    if files is None:
        return
    record, run_dir = files.record, files.path
    from nasenv.plots import draw_diagram, to_png  # matplotlib takes half a second to import

    figure = draw_diagram(
        space.diagram(result.winner.architecture), f"test {space.task.metric} {space.task.shown(result.test_score)}"
    )
    write_whole(run_dir / "architecture.png", to_png(figure))
    heads, rows = table(result)
    lines = [heads, ["---"] * len(heads), *rows]
    record.choice_shares(space, search.history.architectures)
    record.best_architecture(space, search.history.best, len(search.history))
    record.figure("winner/architecture", figure)
    record.text("result", "\n".join(f"| {' | '.join(line)} |" for line in lines))
    record.text("winner", result.winner.text)
    for seed, measurement in enumerate(confirmed):
        record.curve(f"winner/train_loss_seed_{seed}", measurement.curve)
    if network is not None:
        record.graph(network, space.task.shape)
        if search.evaluator.dataset is not None:
            dataset = search.evaluator.dataset
            save_model(run_dir / "model", space, result.winner.architecture, network, dataset)
    record.finish_hparams(
        {
            f"winner/test_{space.task.metric}": result.test_score,
            f"winner/mean_val_{space.task.metric}": mean(result.winner.validation_scores),
            f"winner/mean_test_{space.task.metric}": mean(result.winner.test_scores),
        }
    )
    files.restore()
    result.write(run_dir / RESULT)
    clear(run_dir)


def clear(run_dir: Path) -> None:
    """Delete the winner's networks of each seed, which a finished run does not need."""
    shutil.rmtree(run_dir / _NETWORKS, ignore_errors=True)
