"""Summarises the runs of one problem: spreads over seeds, ranks, and tests of all pairs of agents."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import replace
from typing import get_args

import numpy as np

from nasenv.comparison import statistics
from nasenv.comparison.conclusions import conclusions
from nasenv.comparison.ranking import Values, areas_of, longest, speed_criterion, values_of
from nasenv.comparison.run import Quantity, Run, Trajectory, final_known, trajectories
from nasenv.comparison.summary import (
    LEVEL,
    POINTS,
    Criterion,
    IntervalEstimate,
    Pair,
    RankBy,
    Spread,
    Standing,
    Success,
    Summary,
)
from nasenv.errors import InputError


def summarise(
    problem: str,
    runs: Iterable[Run],
    optimum: float | None,
    rank_by: RankBy = "speed",
    seed: int = 0,
    random: str | None = None,
    metric: str = "accuracy",
    reward_is_score: bool = False,
) -> Summary:
    """Return the summary of the runs of one problem.

    Args:
        problem: its name.
        runs: its runs, or their trajectories; a stream is read once, and little of each run is kept.
        optimum: the best reward of the space, None where not known.
        rank_by: speed, or the quantity of the last incumbents by which agents are ranked.
        seed: the bootstrap's.
        random: the name of the agent that is random search, None where there is none.
        metric: metric of the scores.
        reward_is_score: whether rewards are scores as they are.

    Raises:
        InputError: no runs, a run of another problem, two runs of one agent and seed, an unknown quantity, no agent of
            the name ``random``.
    """
    agents = _by_agent(problem, trajectories(runs))
    if rank_by not in get_args(RankBy):
        raise InputError(f"rank_by must be one of {', '.join(get_args(RankBy))}, got {rank_by!r}")
    if random is not None and random not in agents:
        raise InputError(f"random search is said to be {random!r}, but the agents are {', '.join(agents)}")
    sound = {agent: [run for run in all_runs if run.fault is None] for agent, all_runs in agents.items()}
    final = final_known(itertools.chain(*sound.values()), slice(-1, None))
    areas = areas_of(sound, optimum)
    criterion = speed_criterion(sound, optimum) if rank_by == "speed" else rank_by
    values = values_of(sound, criterion, optimum, areas, final)
    ranked = {a: of for a, of in values.items() if of and all(map(math.isfinite, of.values()))}
    ranks = _ranks(ranked)
    points = [point for point in POINTS if point <= longest(sound)]
    standings = [_standing(a, agents[a], optimum, final, ranks.get(a), areas[a], points, seed) for a in agents]
    standings.sort(key=lambda s: (s.mean_rank or math.inf, -s.area.mean if s.area else math.inf))
    ranked = {s.agent: ranked[s.agent] for s in standings if s.agent in ranked}
    met = {s.agent for s in standings if s.success is not None and s.success.rate.value > 0.0}
    pairs = _pairs(ranked, criterion, met, seed)
    found = Summary(problem, criterion, optimum, tuple(standings), pairs, (), metric, reward_is_score)
    return replace(found, conclusions=conclusions(found, final, random))


def _by_agent(problem: str, runs: Sequence[Trajectory]) -> dict[str, list[Trajectory]]:
    agents: dict[str, dict[int, Trajectory]] = {}
    for run in runs:
        if run.problem != problem:
            raise InputError(f"problem {problem}: got a run of {run.problem!r} too; summarise one problem at a time")
        if agents.setdefault(run.agent, {}).setdefault(run.seed, run) is not run:
            raise InputError(f"problem {problem}: two runs of {run.agent}, seed {run.seed}; give each run once")
    if not agents:
        raise InputError(f"problem {problem}: no runs to summarise")
    return {agent: list(by_seed.values()) for agent, by_seed in agents.items()}


def _ranks(ranked: Values) -> dict[str, float]:
    """Return each agent's mean rank over the seeds that all agents have; an empty dict if there are none."""
    seeds = sorted(set[int].intersection(*(set(values) for values in ranked.values()))) if ranked else []
    if not seeds:
        return {}
    table = np.array([[values[s] for values in ranked.values()] for s in seeds])
    return dict(zip(ranked, statistics.mean_ranks(table).tolist(), strict=True))


def _standing(
    agent: str,
    runs: Sequence[Trajectory],
    optimum: float | None,
    final: bool,
    rank: float | None,
    areas: Mapping[int, float],
    points: Sequence[int],
    seed: int,
) -> Standing:
    sound = [run for run in runs if run.fault is None]
    ends = {quantity: [float(run.values(quantity, final)[-1]) for run in sound] for quantity in get_args(Quantity)}
    ends["area"] = list(areas.values())
    after = [run.reward_after(points).tolist() for run in sound]
    ends |= {str(point): [rewards[i] for rewards in after] for i, point in enumerate(points)}
    ends["regret"] = [math.nan if optimum is None else optimum - reward for reward in ends["reward"]]
    spreads = _spreads(ends, seed)
    evaluations, wall = (sum(getattr(run, name) for run in sound) for name in ("evaluations", "wall_seconds"))
    return Standing(
        agent=agent,
        seeds=len(sound),
        faults={run.seed: run.fault for run in runs if run.fault is not None},
        reward=spreads["reward"],
        val_score=spreads["val_score"],
        test_score=spreads["test_score"],
        regret=spreads["regret"],
        success=_success(sound, optimum, seed) if optimum is not None and sound else None,
        area=spreads["area"],
        best_so_far={point: spread for point in points if (spread := spreads[str(point)]) is not None},
        mean_rank=rank,
        evaluations=evaluations / len(sound) if sound else math.nan,
        proposals=sum(run.proposals for run in sound) / len(sound) if sound else math.nan,
        charged_seconds=sum(run.charged_seconds for run in sound) / len(sound) if sound else math.nan,
        evaluations_per_second=evaluations / wall if wall > 0 else math.nan,
        early={run.seed: run.ended for run in sound if run.early},
    )


def _spreads(columns: Mapping[str, Sequence[float]], seed: int) -> dict[str, Spread | None]:
    """Return the spread of each column; None if a value is unknown or there are none."""
    spreads: dict[str, Spread | None] = dict.fromkeys(columns)
    known = {name: np.array(values) for name, values in columns.items() if values and all(map(math.isfinite, values))}
    if known:
        table = np.column_stack(list(known.values()))
        iqms = zip(statistics.interquartile_mean(table), *statistics.interquartile_interval(table, seed), strict=True)
        for (name, values), iqm in zip(known.items(), iqms, strict=True):
            mean = float(values[0] + (values - values[0]).mean())  # equal values have exactly their own mean
            std = float(values.std(ddof=1)) if len(values) > 1 else math.nan
            spreads[name] = Spread(mean, std, float(np.median(values)), IntervalEstimate(*map(float, iqm)), len(values))
    return spreads


def _success(sound: Sequence[Trajectory], optimum: float, seed: int) -> Success:
    hits = [run.evaluation_of_optimum(optimum) for run in sound]
    met = np.array([hit is not None for hit in hits])
    times = np.array([hit or run.evaluations for run, hit in zip(sound, hits, strict=True)], dtype=float)
    return Success(
        rate=IntervalEstimate(float(met.mean()), *map(float, statistics.wilson(float(met.mean()), len(met)))),
        mean_evaluations=IntervalEstimate(*statistics.mean_time(times, met, seed)),
        median_evaluations=statistics.median_time(times, met),
        limit=max(run.evaluations for run in sound),
    )


def _pairs(ends: Values, criterion: Criterion, met: Set[str], seed: int) -> tuple[Pair, ...]:
    """Return the pairs of agents with common seeds, the lowest p-values first.

    Args:
        ends: values of the agents, in the order of their standings: of two with equal means the first is the better.
        criterion: what the values are.
        met: agents of which a run met the optimum.
        seed: the bootstrap's.
    """
    samples = []
    for one, other in itertools.combinations(ends, 2):
        seeds = [s for s in ends[one] if s in ends[other]]
        x, y = (np.array([ends[agent][s] for s in seeds]) for agent in (one, other))
        if seeds:
            samples.append((one, x, other, y) if (x - y).sum() >= 0 else (other, y, one, x))
    tests = [statistics.signed_rank(x - y) for _, x, _, y in samples]
    corrected = statistics.holm(np.array([p for _, p in tests]))
    gains = [float((x - y).mean()) for _, x, _, y in samples]
    agree = [share > 0.5 and gain > 0 for (share, _), gain in zip(tests, gains, strict=True)]
    separated = [both and bool(p < LEVEL) for both, p in zip(agree, corrected, strict=True)]
    alpha = LEVEL / max(1, len(tests) - sum(separated))
    pairs = [
        Pair(
            better=better,
            worse=worse,
            improvement=IntervalEstimate(*statistics.improvement(x, y, seed)),
            p_value=tests[i][1],
            p_holm=float(corrected[i]),
            separated=separated[i],
            seeds_needed=statistics.seeds_needed(x - y, alpha) if agree[i] and not separated[i] else None,
            seeds=len(x),
            equal=int((x == y).sum()),
            difference=gains[i],
            by="area" if criterion == "evaluations_to_best" and not {better, worse} & met else criterion,
        )
        for i, (better, x, worse, y) in enumerate(samples)
    ]
    return tuple(sorted(pairs, key=lambda pair: pair.p_value))
