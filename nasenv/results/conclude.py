"""`conclude` trains the best architectures of a search for longer, tests the winner, and writes the result."""

from __future__ import annotations

import functools
import shutil
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from torch import nn

from nasenv.deployment.export import build_trained, save_model
from nasenv.errors import InputError, SearchStopped
from nasenv.files import write_whole
from nasenv.objectives import Rewards
from nasenv.records.trials import measure_trials
from nasenv.results.result import RESULT, Contender, Result, mean, table
from nasenv.search.search import Search
from nasenv.training.trainer import read_weights
from nasenv.trial import Architecture, Measurement, Purpose, Trial

_EARLY = 16  # evaluations before an agent can have learnt anything
_NETWORKS = "networks"  # folder of the winner's weights, a file for each seed, until the run is finished


def _reopening(function: Callable[[Search], Result]) -> Callable[[Search], Result]:
    """Return the function such that the run directory of a search that was closed is open meanwhile."""

    @functools.wraps(function)
    def reopened(search: Search) -> Result:
        if search.files is None or not search.files.is_closed:
            return function(search)
        search.files.reopen()
        with search:
            return function(search)

    return reopened


@_reopening
def conclude(search: Search) -> Result:
    """Choose and test the winner of a finished search; write the result to the run directory, if there is one.

    The best ``budget.finalists`` architectures by reward, each network once, are trained ``budget.final_seeds`` times
    for the evaluator's final length on the training split; the best mean reward wins. Then the winner and its
    baselines are trained on training + validation data and tested: no choice depends on test data.
    Trainings that ended before an interruption are not repeated.

    Raises:
        InputError: no architecture was measured, or every final training failed; the run directory of a search that was
            closed is in use, or was changed meanwhile.
        SearchStopped: the search was stopped, before its end or during the final trainings.
    """
    if search.stopped is not None:
        raise SearchStopped(search.stopped)
    finalists, baselines = _finalists(search), _baselines(search)
    architectures = list(dict.fromkeys([*finalists, *baselines.values()]))
    confirmed = _confirmed(search, architectures)
    trained = [a for a in finalists if any(m.error is None for m in confirmed[a])]
    if not trained:
        error = confirmed[finalists[0]][0].error
        raise InputError(f"every final training failed, the best architecture's with: {error}")
    rewards = _mean_rewards(search, {a: confirmed[a] for a in finalists})
    winner = max(trained, key=rewards.__getitem__)
    roles = {"winner": winner, **baselines}
    tested = _tested(search, list(dict.fromkeys(roles.values())), winner)
    networks = [(seed, t.score) for seed, t in enumerate(tested[winner]) if t.score is not None]
    if not networks:
        raise InputError(f"the winner's final training failed: {tested[winner][0].error}")
    seed, test_score = networks[0]
    first, *others = (
        Contender(
            role,
            architecture,
            search.space.to_text(architecture),
            tuple(m.score for m in confirmed[architecture] if m.score is not None),
            tuple(m.score for m in tested[architecture] if m.score is not None),
            _params(tested[architecture]),
        )
        for role, architecture in roles.items()
    )
    history = search.history
    result = Result(
        winner=first,
        others=tuple(others),
        test_score=test_score,
        metric=search.space.task.metric,
        ended=str(search.ended),
        evaluations=len(history),
        repeats=history.repeats,
        train_seconds=history.train_seconds,
    )
    _write(search, result, _network(search, Trial(winner, purpose="test", seed=seed)), confirmed[winner])
    return result


def _confirmed(search: Search, architectures: Sequence[Architecture]) -> dict[Architecture, list[Measurement]]:
    """Return the final trainings of each architecture on the training split, one for each seed."""
    return _measured(search, "confirm", architectures, None)


def _tested(
    search: Search, architectures: Sequence[Architecture], winner: Architecture
) -> dict[Architecture, list[Measurement]]:
    """Return the final trainings of each architecture on training + validation data, tested, one for each seed."""
    return _measured(search, "test", architectures, winner)


def _measured(
    search: Search, purpose: Purpose, architectures: Sequence[Architecture], kept: Architecture | None
) -> dict[Architecture, list[Measurement]]:
    """Return the final trainings of each architecture, one for each seed; store the weights of ``kept``."""
    trials = [Trial(a, 1.0, purpose, seed) for a in architectures for seed in range(search.budget.final_seeds)]
    keep = {t: path for t in trials if t.architecture == kept and (path := _weights_path(search, t)) is not None}
    found = measure_trials(search.evaluator, trials, search.trials, search.is_stopped, keep)
    return {a: [found[trial] for trial in trials if trial.architecture == a] for a in architectures}


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
        first = f"; the first failed with: {history[0].measurement.error}" if len(history) else f": {search.ended}"
        raise InputError(f"no architecture could be evaluated{first}")
    return finalists


def _baselines(search: Search) -> dict[str, Architecture]:
    """Return the architectures that the winner is compared with, by role."""
    baselines: dict[str, Architecture] = {}
    reference = search.space.reference()
    if reference is not None:
        baselines["hand-made reference"] = reference
    early = [o for o in search.history[:_EARLY] if o.measurement.error is None]
    if early:
        baselines[f"best of the first {len(search.history[:_EARLY])}"] = max(early, key=lambda o: o.reward).architecture
    return {role: search.evaluator.representative(architecture) for role, architecture in baselines.items()}


def _mean_rewards(search: Search, confirmed: Mapping[Architecture, Sequence[Measurement]]) -> dict[Architecture, float]:
    """Return the mean reward of each finalist's final trainings; failed ones get a lower reward than any other."""
    rewards = Rewards(search.objective, search.space.task.lowest_score)
    for measurement in (m for row in confirmed.values() for m in row if m.error is None):
        rewards.pay(measurement)
    return {a: statistics.fmean(rewards.pay(m) for m in row) for a, row in confirmed.items()}


def _params(tested: Sequence[Measurement]) -> int | None:
    return next((int(t.metrics["params"]) for t in tested if "params" in t.metrics), None)


def _write(search: Search, result: Result, network: nn.Module | None, confirmed: Sequence[Measurement]) -> None:
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
