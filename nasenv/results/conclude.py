"""The end of a search: its best designs are trained for longer, the winner is tested, and leaves as files."""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import nn

from nasenv.deployment.export import built, save_model
from nasenv.errors import InputError, SearchStopped
from nasenv.files import write_whole
from nasenv.objectives import Rewards
from nasenv.records.trials import measured
from nasenv.results.result import RESULT, Contender, Result, mean, table
from nasenv.search.search import Search
from nasenv.training.trainer import read_weights
from nasenv.trial import Architecture, Measurement, Purpose, Trial

_EARLY = 16  # evaluations made before an agent can have learnt anything
_NETWORKS = "networks"  # the winner's, of each seed, until the run is finished


def conclude(search: Search) -> Result:
    """Choose and test the winner of a finished search, and write it into the run directory, if there is one.

    The best designs by reward (``budget.finalists``; of those that are the same network, one) are trained
    ``budget.final_seeds`` times for the evaluator's final length on the training split; the best mean reward wins. Then
    the winner, and what it is held against, are trained on training + validation data and tested: test data have no
    part in any choice. What had been trained when the search was interrupted here is not trained again.

    Raises:
        InputError: no design was measured, or none could be trained to the end.
        SearchStopped: the search was stopped, before its end or here.
    """
    if search.stopped is not None:
        raise SearchStopped(search.stopped)
    finalists, rivals = _finalists(search), _rivals(search)
    designs = list(dict.fromkeys([*finalists, *rivals.values()]))
    confirmed = _confirmed(search, designs)
    trained = [a for a in finalists if any(m.error is None for m in confirmed[a])]
    if not trained:
        raise InputError(f"every final training failed, the best design's with: {confirmed[finalists[0]][0].error}")
    rewards = _mean_rewards(search, {a: confirmed[a] for a in finalists})
    winner = max(trained, key=rewards.__getitem__)
    roles = {"winner": winner, **rivals}
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
    """Return, of each architecture, the final training on the training split of each seed."""
    return _measured(search, "confirm", architectures, None)


def _tested(
    search: Search, architectures: Sequence[Architecture], winner: Architecture
) -> dict[Architecture, list[Measurement]]:
    """Return, of each architecture, the final training on training + validation data, and its test, of each seed."""
    return _measured(search, "test", architectures, winner)


def _measured(
    search: Search, purpose: Purpose, architectures: Sequence[Architecture], kept: Architecture | None
) -> dict[Architecture, list[Measurement]]:
    """Return the final trainings of each architecture, one a seed; weights of one of them are kept."""
    trials = [Trial(a, 1.0, purpose, seed) for a in architectures for seed in range(search.budget.final_seeds)]
    keep = {t: path for t in trials if t.architecture == kept and (path := _weights_path(search, t)) is not None}
    found = measured(search.evaluator, trials, search.trials, search.is_stopped, keep)
    return {a: [found[trial] for trial in trials if trial.architecture == a] for a in architectures}


def _weights_path(search: Search, trial: Trial) -> Path | None:
    """Return where a network's weights are kept until the run is finished; None without a run directory."""
    if search.run_dir is None:
        return None
    folder = search.run_dir / _NETWORKS
    folder.mkdir(exist_ok=True)
    return folder / f"seed-{trial.seed}.safetensors"


def _network(search: Search, trial: Trial) -> nn.Module | None:
    """Return a trained network; None where the evaluator has none, or there is no run directory."""
    path = _weights_path(search, trial)
    if path is None or search.evaluator.dataset is None:
        return None
    if not path.exists():  # its file was deleted between two starts
        measured(search.evaluator, [trial], None, search.is_stopped, {trial: path})
    try:
        return built(search.space, trial.architecture, read_weights(path))
    except (InputError, RuntimeError) as error:
        raise InputError(f"{path} is damaged; delete it, and the line of its training in trials.jsonl") from error


def _finalists(search: Search) -> list[Architecture]:
    """Return the best designs, each as the network that was measured for it, without repeats."""
    history = search.history
    ranked = (search.evaluator.representative(o.architecture) for o in history.top(len(history)))
    finalists = list(dict.fromkeys(ranked))[: search.budget.finalists]
    if not finalists:
        first = f"; the first failed with: {history[0].measurement.error}" if len(history) else f": {search.ended}"
        raise InputError(f"no design could be evaluated{first}")
    return finalists


def _rivals(search: Search) -> dict[str, Architecture]:
    """Return what the winner is held against, by role."""
    rivals: dict[str, Architecture] = {}
    reference = search.space.reference()
    if reference is not None:
        rivals["hand-made reference"] = reference
    early = [o for o in search.history[:_EARLY] if o.measurement.error is None]
    if early:
        rivals[f"best of the first {len(search.history[:_EARLY])}"] = max(early, key=lambda o: o.reward).architecture
    return {role: search.evaluator.representative(design) for role, design in rivals.items()}


def _mean_rewards(search: Search, confirmed: Mapping[Architecture, Sequence[Measurement]]) -> dict[Architecture, float]:
    """Return the mean reward of each finalist's final trainings; one that failed is paid less than all that did not."""
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
    """Delete what a finished run needs no more: the winner's networks of each seed."""
    shutil.rmtree(run_dir / _NETWORKS, ignore_errors=True)
