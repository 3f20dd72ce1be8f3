"""The end of a search: its best designs are trained for longer, the winner is tested, and leaves as files."""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from nasenv.deployment.export import save_model
from nasenv.errors import InputError, SearchStopped
from nasenv.evaluators.evaluator import Answer, Measurement, TestResult, Trial
from nasenv.files import write_whole
from nasenv.records.trials import ask
from nasenv.results.result import RESULT, Contender, Result, mean, table
from nasenv.search.search import Search
from nasenv.spaces.space import Architecture

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
    winner = max(trained, key=lambda a: _mean_reward(search, confirmed[a]))
    roles = {"winner": winner, **rivals}
    tested_designs = list(dict.fromkeys(roles.values()))
    tested = _tested(search, tested_designs, winner)
    networks = [(seed, t.test_accuracy) for seed, t in enumerate(tested[winner]) if t.test_accuracy is not None]
    if not networks:
        raise InputError(f"the winner's final training failed: {tested[winner][0].error}")
    seed, test_accuracy = networks[0]
    first, *others = (
        Contender(
            role,
            design,
            search.space.to_text(design),
            tuple(m.val_accuracy for m in confirmed[design] if m.val_accuracy is not None),
            tuple(t.test_accuracy for t in tested[design] if t.test_accuracy is not None),
            _params(tested[design]),
        )
        for role, design in roles.items()
    )
    history = search.history
    result = Result(
        winner=first,
        others=tuple(others),
        test_accuracy=test_accuracy,
        ended=str(search.ended),
        evaluations=len(history),
        repeats=history.repeats,
        train_seconds=history.train_seconds,
    )
    network = tested[winner][seed].model or _kept_network(search, Trial(winner, "test", seed))
    if network is None and search.evaluator.dataset is not None:  # its file was deleted between two starts
        network = search.evaluator.test([winner], [seed])[0][0].model
    _write(search, result, network, confirmed[winner])
    return result


def _confirmed(search: Search, designs: Sequence[Architecture]) -> dict[Architecture, list[Measurement]]:
    """Return, of each design, the final training on the training split of each seed."""
    seeds = range(search.budget.final_seeds)
    trials = [Trial(design, "confirm", seed) for design in designs for seed in seeds]
    answers = ask(search.evaluator, trials, search.trials, search.is_stopped)
    return {design: [answers[Trial(design, "confirm", seed)] for seed in seeds] for design in designs}


def _tested(
    search: Search, designs: Sequence[Architecture], winner: Architecture
) -> dict[Architecture, list[TestResult]]:
    """Return, of each design, the final training on training + validation data, and its test, of each seed."""
    seeds = range(search.budget.final_seeds)

    def keep(trial: Trial, answer: Answer) -> None:
        if trial.architecture == winner and isinstance(answer, TestResult) and answer.model is not None:
            _keep_network(search, trial, answer.model)

    trials = [Trial(design, "test", seed) for design in designs for seed in seeds]
    answers = ask(search.evaluator, trials, search.trials, search.is_stopped, keep)
    return {design: [answers[Trial(design, "test", seed)] for seed in seeds] for design in designs}


def _keep_network(search: Search, trial: Trial, model: nn.Module) -> None:
    """Write a network's weights into the run directory, if there is one: only the trained one can be exported."""
    if search.run_dir is None:
        return
    path = _network_path(search.run_dir, trial)
    path.parent.mkdir(exist_ok=True)
    write_whole(path, save({name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}))


def _kept_network(search: Search, trial: Trial) -> nn.Module | None:
    """Return a network that was trained before an interruption; None where the evaluator has none."""
    if search.run_dir is None or not (path := _network_path(search.run_dir, trial)).exists():
        return None
    model = search.space.build(trial.architecture).eval()
    try:
        model.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError, OSError) as error:
        raise InputError(f"{path} is damaged; delete it, and the line of its training in trials.jsonl") from error
    return model


def _network_path(run_dir: Path, trial: Trial) -> Path:
    return run_dir / _NETWORKS / f"seed-{trial.seed}.safetensors"


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


def _mean_reward(search: Search, measurements: Sequence[Measurement]) -> float:
    return statistics.fmean(search.objective.reward(m) for m in measurements)


def _params(tested: Sequence[TestResult]) -> int | None:
    return next((int(t.metrics["params"]) for t in tested if "params" in t.metrics), None)


def _write(search: Search, result: Result, network: nn.Module | None, confirmed: Sequence[Measurement]) -> None:
    record, run_dir, space = search.record, search.run_dir, search.space
    if record is None or run_dir is None:
        return
    from nasenv.plots import draw_diagram, to_png  # matplotlib takes half a second to import

    figure = draw_diagram(space.diagram(result.winner.architecture), f"{result.test_accuracy:.2%} test accuracy")
    write_whole(run_dir / "architecture.png", to_png(figure))
    heads, rows = table(result)
    lines = [heads, ["---"] * len(heads), *rows]
    record.choice_shares(space, search.history.architectures)
    record.figure("architecture", figure)
    record.text("result", "\n".join(f"| {' | '.join(line)} |" for line in lines))
    record.text("winner", result.winner.text)
    for seed, measurement in enumerate(confirmed):
        record.curve(f"winner/train_loss_seed_{seed}", measurement.curve)
    if network is not None:
        record.graph(network, space.input_shape)
        if search.evaluator.dataset is not None:
            dataset = search.evaluator.dataset
            save_model(run_dir / "model", space, result.winner.architecture, network, dataset)
    record.finish_hparams(
        {
            "best/test_accuracy": result.test_accuracy,
            "best/mean_val_accuracy": mean(result.winner.val_accuracies),
            "best/mean_test_accuracy": mean(result.winner.test_accuracies),
        }
    )
    search.restore()
    result.write(run_dir / RESULT)
    clear(run_dir)


def clear(run_dir: Path) -> None:
    """Delete what a finished run needs no more: the winner's networks of each seed."""
    shutil.rmtree(run_dir / _NETWORKS, ignore_errors=True)
