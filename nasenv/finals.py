"""The end of a search: its best designs are trained for longer, the winner is tested, and leaves as files."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from nasenv.errors import InputError
from nasenv.evaluators.evaluator import Measurement, TestResult
from nasenv.export import save_model
from nasenv.search import Search
from nasenv.spaces.space import Architecture

_EARLY = 16  # evaluations made before an agent can have learnt anything
RESULT = "result.json"


@dataclass(frozen=True)
class Contender:
    """One design at the end of a search.

    Args:
        role: what it is there for.
        architecture: the design.
        text: the design in the space's words.
        val_accuracies: in [0, 1], one a seed, after the final training on the training split.
        test_accuracies: in [0, 1], one a seed, after the final training on training and validation data.
        params: number of trainable numbers of the network; None where the evaluator does not say.
    """

    role: str
    architecture: Architecture
    text: str
    val_accuracies: tuple[float, ...]
    test_accuracies: tuple[float, ...]
    params: int | None = None


@dataclass(frozen=True)
class Result:
    """What came out of a search.

    Args:
        winner: the finalist of the best mean reward after the final training.
        others: what it is held against: the space's reference, the best of the first evaluations.
        test_accuracy: of the network that was exported (the winner's first seed), in [0, 1].
        ended: why the search was over.
        evaluations: number of distinct designs evaluated.
        repeats: number of proposals of designs seen before.
        train_seconds: what the search's trainings cost, without those of its end.
    """

    winner: Contender
    others: tuple[Contender, ...]
    test_accuracy: float
    ended: str
    evaluations: int
    repeats: int
    train_seconds: float

    def write(self, path: Path) -> None:
        """Write it as JSON, whole or not at all: the file says that the run is finished."""
        unfinished = path.with_name(f"{path.name}.tmp")
        unfinished.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
        unfinished.replace(path)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return what ``write`` wrote; raise InputError where the file is damaged."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            winner, *others = (_contender(v) for v in [values["winner"], *values["others"]])
            return cls(**{**values, "winner": winner, "others": tuple(others)})
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise InputError(f"{path} is damaged ({error}); delete it to have the end of the search again") from error


def conclude(search: Search) -> Result:
    """Choose and test the winner of a finished search, and write it into the run directory, if there is one.

    The best designs by reward (``budget.finalists``; of those that are the same network, one) are trained
    ``budget.final_seeds`` times for the evaluator's final length on the training split; the best mean reward wins. Then
    the winner, and what it is held against, are trained on training + validation data and tested: test data have no
    part in any choice.

    Raises:
        InputError: no design was measured, or none could be trained to the end.
    """
    evaluator, seeds = search.evaluator, range(search.budget.final_seeds)
    finalists, rivals = _finalists(search), _rivals(search)
    designs = list(dict.fromkeys([*finalists, *rivals.values()]))
    confirmed = dict(zip(designs, evaluator.confirm(designs, seeds), strict=True))
    trained = [a for a in finalists if any(m.error is None for m in confirmed[a])]
    if not trained:
        raise InputError(f"every final training failed, the best design's with: {confirmed[finalists[0]][0].error}")
    winner = max(trained, key=lambda a: _mean_reward(search, confirmed[a]))
    roles = {"winner": winner, **rivals}
    tested_designs = list(dict.fromkeys(roles.values()))
    tested = dict(zip(tested_designs, evaluator.test(tested_designs, seeds), strict=True))
    exported = next((t for t in tested[winner] if t.test_accuracy is not None), None)
    if exported is None or exported.test_accuracy is None:
        raise InputError(f"the winner's final training failed: {tested[winner][0].error}")
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
        first, tuple(others), exported.test_accuracy, str(search.ended), len(history), history.repeats,
        history.train_seconds,
    )  # fmt: skip
    _write(search, result, exported, confirmed[winner])
    return result


def table(result: Result) -> tuple[list[str], list[list[str]]]:
    """Return heads and rows of the comparison that a user reads: mean ± standard deviation over seeds, in percent."""
    heads = ["", "validation %", "test %", "parameters"]
    rows = [
        [c.role, _spread(c.val_accuracies), _spread(c.test_accuracies), f"{c.params:,}" if c.params else ""]
        for c in (result.winner, *result.others)
    ]
    return heads, rows


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


def _write(search: Search, result: Result, exported: TestResult, confirmed: Sequence[Measurement]) -> None:
    record, run_dir, space = search.record, search.run_dir, search.space
    if record is None or run_dir is None:
        return
    from nasenv.plots import draw_diagram, to_png  # matplotlib takes half a second to import

    figure = draw_diagram(space.diagram(result.winner.architecture), f"{result.test_accuracy:.2%} test accuracy")
    (run_dir / "architecture.png").write_bytes(to_png(figure))
    heads, rows = table(result)
    lines = [heads, ["---"] * len(heads), *rows]
    record.choice_shares(space, search.history)
    record.figure("architecture", figure)
    record.text("result", "\n".join(f"| {' | '.join(line)} |" for line in lines))
    record.text("winner", result.winner.text)
    for seed, measurement in enumerate(confirmed):
        record.curve(f"winner/train_loss_seed_{seed}", measurement.curve)
    if exported.model is not None:
        record.graph(exported.model, space.input_shape)
        if search.evaluator.dataset is not None:
            dataset = search.evaluator.dataset
            save_model(run_dir / "model", space, result.winner.architecture, exported.model, dataset)
    record.finish_hparams(
        {
            "best/test_accuracy": result.test_accuracy,
            "best/mean_val_accuracy": _mean(result.winner.val_accuracies),
            "best/mean_test_accuracy": _mean(result.winner.test_accuracies),
        }
    )
    result.write(run_dir / RESULT)


def _contender(values: Mapping[str, Any]) -> Contender:
    numbers = ("architecture", "val_accuracies", "test_accuracies")
    return Contender(**{**values, **{k: tuple(values[k]) for k in numbers}})


def _mean(accuracies: Sequence[float]) -> float:
    return statistics.fmean(accuracies) if accuracies else math.nan


def _spread(accuracies: Sequence[float]) -> str:
    if not accuracies:
        return "failed"
    deviation = statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0
    return f"{100 * _mean(accuracies):.2f} ± {100 * deviation:.2f}"
