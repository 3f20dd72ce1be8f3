"""From the runs of one problem to its summary; the classes of what is found are in `findings`."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from nasenv.comparison.digest import Digest, digested, final_known
from nasenv.comparison.findings import Estimate, Metric, Pair, Spread, Standing, Success, Summary
from nasenv.comparison.pairs import paired
from nasenv.comparison.run import Run
from nasenv.comparison.statistics import (
    interquartile_interval,
    interquartile_mean,
    mean_ranks,
    mean_time,
    median_time,
    wilson,
)
from nasenv.comparison.verdicts import verdicts
from nasenv.errors import InputError

__all__ = [
    "Estimate",
    "Metric",
    "Pair",
    "Spread",
    "Standing",
    "Success",
    "Summary",
    "summarise",
    "write_summary",
]

_ESTIMATE = ("value", "low", "high")
_COLUMNS = (
    *("problem", "metric", "optimum", "agent", "seeds", "faults", "early", "mean_rank"),
    *(
        f"{spread}_{figure}"
        for spread in ("reward", "val_accuracy", "test_accuracy", "regret")
        for figure in ("mean", "std", "median", *(f"iqm_{e}" for e in _ESTIMATE), "n")
    ),
    *(f"success_{estimate}_{e}" for estimate in ("rate", "mean_evaluations") for e in _ESTIMATE),
    *("success_median_evaluations", "success_limit"),
    *("evaluations", "proposals", "charged_seconds", "evaluations_per_second"),
)

_Floats = NDArray[np.float64]
_Ends: TypeAlias = Mapping[str, Mapping[int, float]]  # agent -> seed -> the chosen metric at the end


def summarise(
    problem: str,
    runs: Iterable[Run | Digest],
    optimum: float | None,
    metric: Metric = "reward",
    seed: int = 0,
    random: str | None = None,
) -> Summary:
    """Return what the runs of one problem say.

    Args:
        problem: its name.
        runs: its runs, or their digests; a stream is read once, and little of each run is kept.
        optimum: the best reward of the space, None where not known.
        metric: what agents are ranked by.
        seed: the bootstrap's.
        random: the name of the agent that is random search, None where there is none.

    Raises:
        InputError: no runs, a run of another problem, two runs of one agent and seed, an unknown metric, no agent of
            the name ``random``.
    """
    agents = _by_agent(problem, digested(runs))
    if metric not in get_args(Metric):
        raise InputError(f"metric must be one of {', '.join(get_args(Metric))}, got {metric!r}")
    if random is not None and random not in agents:
        raise InputError(f"random search is said to be {random!r}, but the agents are {', '.join(agents)}")
    sound = {agent: [d for d in digests if d.fault is None] for agent, digests in agents.items()}
    final = final_known((d for digests in sound.values() for d in digests), slice(-1, None))
    ends = {a: {d.seed: float(d.values(metric, final)[-1]) for d in digests} for a, digests in sound.items()}
    ranked = {a: values for a, values in ends.items() if values and all(map(math.isfinite, values.values()))}
    ranks = _ranks(ranked)
    standings = [_standing(agent, agents[agent], optimum, final, ranks.get(agent), seed) for agent in agents]
    standings.sort(key=lambda s: math.inf if s.mean_rank is None else s.mean_rank)
    pairs = paired(ranked, seed)
    words = verdicts(standings, pairs, optimum, metric, final, random)
    return Summary(problem, metric, optimum, tuple(standings), pairs, words)


def _by_agent(problem: str, digests: Sequence[Digest]) -> dict[str, list[Digest]]:
    agents: dict[str, dict[int, Digest]] = {}
    for digest in digests:
        if digest.problem != problem:
            raise InputError(f"problem {problem}: got a run of {digest.problem!r} too; summarise one problem at a time")
        if agents.setdefault(digest.agent, {}).setdefault(digest.seed, digest) is not digest:
            raise InputError(f"problem {problem}: two runs of {digest.agent}, seed {digest.seed}; give each run once")
    if not agents:
        raise InputError(f"problem {problem}: no runs to summarise")
    return {agent: list(by_seed.values()) for agent, by_seed in agents.items()}


def _ranks(ranked: _Ends) -> dict[str, float]:
    """Return each agent's mean rank over the seeds that all of them have; none where there are no such seeds."""
    seeds = sorted(set[int].intersection(*(set(values) for values in ranked.values()))) if ranked else []
    if not seeds:
        return {}
    table = np.array([[values[s] for values in ranked.values()] for s in seeds])
    return dict(zip(ranked, mean_ranks(table).tolist(), strict=True))


def _standing(
    agent: str, digests: Sequence[Digest], optimum: float | None, final: bool, rank: float | None, seed: int
) -> Standing:
    sound = [d for d in digests if d.fault is None]
    ends = {metric: [float(d.values(metric, final)[-1]) for d in sound] for metric in get_args(Metric)}
    ends["regret"] = [math.nan if optimum is None else optimum - reward for reward in ends["reward"]]
    evaluations, wall = (sum(getattr(d, name) for d in sound) for name in ("evaluations", "wall_seconds"))
    return Standing(
        agent=agent,
        seeds=len(sound),
        faults={d.seed: d.fault for d in digests if d.fault is not None},
        **_spreads(ends, seed),
        success=_success(sound, optimum, seed) if optimum is not None and sound else None,
        mean_rank=rank,
        evaluations=_mean(sound, "evaluations"),
        proposals=_mean(sound, "proposals"),
        charged_seconds=_mean(sound, "charged_seconds"),
        evaluations_per_second=evaluations / wall if wall > 0 else math.nan,
        early={d.seed: d.early for d in sound if d.early is not None},
    )


def _mean(sound: Sequence[Digest], name: str) -> float:
    return sum(getattr(d, name) for d in sound) / len(sound) if sound else math.nan


def _spreads(columns: Mapping[str, Sequence[float]], seed: int) -> dict[str, Spread | None]:
    """Return the spread of each column of values; None where one of them is not known, or there are none."""
    spreads: dict[str, Spread | None] = dict.fromkeys(columns)
    known = {name: np.array(values) for name, values in columns.items() if values and all(map(math.isfinite, values))}
    if known:
        table = np.column_stack(list(known.values()))
        figures = zip(interquartile_mean(table), *interquartile_interval(table, seed), strict=True)
        for (name, values), (iqm, low, high) in zip(known.items(), figures, strict=True):
            spreads[name] = Spread(
                mean=float(values[0] + (values - values[0]).mean()),  # equal values have exactly their own mean
                std=float(values.std(ddof=1)) if len(values) > 1 else math.nan,
                median=float(np.median(values)),
                iqm=Estimate(float(iqm), float(low), float(high)),
                n=len(values),
            )
    return spreads


def _success(sound: Sequence[Digest], optimum: float, seed: int) -> Success:
    hits = [d.met(optimum) for d in sound]
    met = np.array([hit is not None for hit in hits])
    times = np.array([d.evaluations if hit is None else hit for d, hit in zip(sound, hits, strict=True)], dtype=float)
    return Success(
        rate=Estimate(float(met.mean()), *wilson(int(met.sum()), len(met))),
        mean_evaluations=Estimate(*mean_time(times, met, seed)),
        median_evaluations=median_time(times, met),
        limit=max(d.evaluations for d in sound),
    )


def write_summary(path: Path, summaries: Iterable[Summary]) -> None:
    """Write one CSV row for each problem and agent, in the order of their ranks; what is not known stays empty.

    Each figure of a spread or of an estimate is a column: `reward_iqm_low`, `success_rate_high`.
    """
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, _COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        for summary in summaries:
            problem = {"problem": summary.problem, "metric": summary.metric, "optimum": summary.optimum}
            for standing in summary.standings:
                values = {**asdict(standing), "faults": len(standing.faults), "early": len(standing.early)}
                writer.writerow({**problem, **dict(_flat(values))})


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (column, value): those of a part by the part's name and their own."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}_")
        else:
            yield prefix + name, None if value != value else value
