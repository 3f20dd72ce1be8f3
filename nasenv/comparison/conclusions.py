"""States in plain words what may be concluded from a comparison, and what may not."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

from nasenv.comparison.statistics import fewest_seeds, smallest_difference
from nasenv.comparison.summary import LEVEL, Pair, Standing, Summary
from nasenv.errors import counted

_MANY_SEEDS = 100_000  # more are not told apart
_MANY_FAULTS = 3  # of an agent; more are only counted
_USUAL_SPREAD = 0.45  # standard deviation of an agent's evaluations to the best, in means: the median of those in
# scripts/measured/published_tables that every run met within 600 evaluations (they go from 0.27 to 0.78)


def conclusions(summary: Summary, final: bool, random: str | None) -> tuple[str, ...]:
    """Return the sentences, one conclusion each.

    Args:
        summary: summary of the problem, still without conclusions.
        final: whether validation scores are those after the final training.
        random: the name of the agent that is random search, None where there is none.
    """
    standings, pairs = summary.standings, summary.pairs
    return (
        _criterion(summary, final),
        *_method(pairs),
        *_separated(summary),
        *_open(summary),
        *_against_random(standings, pairs, random),
        *_success(standings, summary.optimum),
        *_left_out(standings),
        *_untested(summary),
        "All this holds for this problem, this budget and these settings of the agents, and for no others.",
    )


def detectable(seeds: int, agents: int, evaluations: bool) -> str:
    """Return the sentence on the smallest difference that a comparison can show, before it is made.

    Args:
        seeds: number of seeds of each agent.
        agents: number of agents, two or more; Holm's correction is taken for all of their pairs.
        evaluations: whether agents may be ranked by their evaluations to the best.
    """
    pairs = math.comb(agents, 2)
    many, deviations = counted(seeds, "seed"), smallest_difference(seeds, LEVEL / pairs)
    test = f"Wilcoxon's signed-rank test at the {100 * LEVEL:.0f} % level{_corrected(pairs)}"
    if deviations is None:
        return f"{many} can show no difference, however large: {test}, needs at least {fewest_seeds(LEVEL / pairs)}."
    usual, k = "", (deviations * _USUAL_SPREAD) ** 2
    if evaluations and k < 1.0:  # two agents of means m and (1 - f) m: f^2 = k (1 + (1 - f)^2)
        fewer = (math.sqrt(2 * k - k * k) - k) / (1 - k)
        usual = f"; if runs spread as on published tables, {100 * fewer:.0f} % fewer evaluations to the best reward"
    return (
        f"{many} can show a mean difference of {deviations:.2f} standard deviations of the differences between paired "
        f"runs{usual} ({test}, with a power of 80 %)."
    )


def _criterion(summary: Summary, final: bool) -> str:
    """Return the sentence that says what agents are ranked by."""
    words = f"Agents are ranked by the {summary.display(summary.ranked_by).words}"
    if summary.ranked_by == "evaluations_to_best":
        limit = max(s.success.limit for s in summary.standings if s.success is not None)
        return (
            f"{words}, fewer is better. A run that did not meet it in {counted(limit, 'evaluation')} counts as worse "
            "than all that did; the area under the curve of the best reward so far orders such runs."
        )
    if summary.ranked_by == "area":
        top = "any run found" if summary.optimum is None else "the space has"
        why = "is not known" if summary.optimum is None else "was met by fewer than half of the runs of every agent"
        return (
            f"{words} over the evaluations, from 0 (the lowest that was the best so far) to 1 (the best that {top}), "
            f"since the best reward of the space {why}."
        )
    trained = " after the final training" if final else " measured in the search"
    return f"{words}{trained * (summary.ranked_by == 'val_score')} of their best architecture (by reward) at the end."


def _method(pairs: Sequence[Pair]) -> Iterator[str]:
    if not pairs:
        yield "There are no two agents that can be compared."
        return
    least, most = (pick(p.seeds for p in pairs) for pick in (min, max))
    seeds = counted(most, "seed") if least == most else f"{least:,} to {counted(most, 'seed')}"
    yield (
        f"Two agents are told apart over the {seeds} that both have, by Wilcoxon's signed-rank test at the "
        f"{100 * LEVEL:.0f} % level{_corrected(len(pairs))}; differences given are means over these seeds."
    )


def _corrected(pairs: int) -> str:
    return f", with Holm's correction for {pairs} pairs" if pairs > 1 else ""


def _separated(summary: Summary) -> Iterator[str]:
    gains = {(p.better, p.worse): _difference(summary, p) for p in summary.pairs if p.separated}
    for s in summary.standings:
        agents = [o.agent for o in summary.standings if (s.agent, o.agent) in gains]
        if agents:
            yield f"{s.agent} is better than {_list(f'{other} (by {gains[s.agent, other]})' for other in agents)}."
    if summary.pairs and not gains:
        yield "No agent may be called better than another."


def _difference(summary: Summary, pair: Pair) -> str:
    """Return the difference of a pair as text, with the criterion where it is not the one of the problem.

    Where only the worse one has runs that did not meet the best, the mean is a lower bound: these runs ended before.
    """
    of = " of the area" if pair.by == "area" else ""
    met = {s.agent: s.success.rate.value == 1.0 for s in summary.standings if s.success is not None}
    is_bound = pair.by == "evaluations_to_best" and met[pair.better] and not met[pair.worse]
    return f"{'at least ' * is_bound}{summary.display(pair.by).difference(pair.difference)}{of}"


def _open(summary: Summary) -> Iterator[str]:
    """Yield sentences on the pairs of agents that are not separated."""
    left = [p for p in summary.pairs if not p.separated]
    if same := [p for p in left if p.equal == p.seeds]:
        yield f"{_list(_both(p) for p in same)}: equal on every seed, so there is no difference to be seen."
    if torn := [p for p in left if p.seeds_needed is None and p.equal < p.seeds]:
        yield (
            f"{_list(_both(p) for p in torn)}: the mean and the ranks do not speak for the same agent, so neither may "
            "be called better."
        )
    if unsure := [(p, p.seeds_needed) for p in left if p.seeds_needed is not None]:
        told = [f"{_both(p)} ({_difference(summary, p)} in favour of {p.better}; {_needed(n)})" for p, n in unsure]
        yield (
            "Not told apart (in brackets: the mean difference, and about how many seeds would show it with a power of "
            f"80 % if it is the true one): {_list(told)}."
        )


def _against_random(standings: Sequence[Standing], pairs: Sequence[Pair], random: str | None) -> Iterator[str]:
    if random is None:
        yield "No random search was among the agents: whether any of them beats it cannot be said."
        return
    others = [s.agent for s in standings if s.agent != random]
    beaten = {p.better for p in pairs if p.separated and p.worse == random}
    losing = {p.worse for p in pairs if p.separated and p.better == random}
    tested = {agent for p in pairs for agent in (p.better, p.worse) if random in (p.better, p.worse)}
    answers = {
        "beat random search": beaten,
        "did worse than random search": losing,
        "cannot be said to beat random search": tested - beaten - losing,
        "could not be held against random search": set(others) - tested,
    }
    for answer, agents in answers.items():
        if named := [agent for agent in others if agent in agents]:
            yield f"{_list(named)} {answer} ({random})."


def _success(standings: Sequence[Standing], optimum: float | None) -> Iterator[str]:
    if optimum is None:
        yield "The best reward of the space is not known: neither regret nor success can be given."
        return
    known = [(s, s.success) for s in standings if s.success is not None]
    if always := [s.agent for s, success in known if success.rate.value == 1.0]:
        yield f"Every run of {_list(always)} met the best reward of the space."
    if never := [s.agent for s, success in known if success.rate.value == 0.0]:
        yield f"No run of {_list(never)} met the best reward of the space: how long that takes cannot be said."
    if partly := [(s, success) for s, success in known if 0.0 < success.rate.value < 1.0]:
        missed = [f"{s.agent} ({round(s.seeds * (1 - x.rate.value)):,} of {s.seeds:,})" for s, x in partly]
        yield (
            f"Not every run met the best reward of the space; those that did not of {_list(missed)} count as censored "
            "at their last evaluation, so the mean number of evaluations is a lower bound."
        )
    bounds = [(s, success) for s, success in known if success.rate.value < 1.0]
    if partly and len({success.limit for _, success in bounds}) > 1:
        limits = [f"{s.agent} {success.limit:,}" for s, success in bounds]
        yield (
            f"The longest runs differ in length (evaluations: {_list(limits)}): bounds from runs of different "
            "length may not be compared."
        )
    if open_ended := [s.agent for s, success in partly if success.median_evaluations is None]:
        yield f"Fewer than half of the runs of {_list(open_ended)} met it: the median cannot be given."


def _by_seed(reasons: Mapping[int, str]) -> str:
    """Return each reason with the first seeds that have it, and the number of the others."""
    seeds: dict[str, list[int]] = {}
    for seed, reason in list(reasons.items())[:_MANY_FAULTS]:
        seeds.setdefault(reason, []).append(seed)
    named = [f"seed{'s' * (len(of) > 1)} {_list(list(map(str, of)))}: {reason}" for reason, of in seeds.items()]
    more = f"; and {len(reasons) - _MANY_FAULTS} more" if len(reasons) > _MANY_FAULTS else ""
    return f"{'; '.join(named)}{more}"


def _left_out(standings: Sequence[Standing]) -> Iterator[str]:
    for s in standings:
        runs = s.seeds + len(s.faults)
        for reasons, what in (
            (s.faults, "did not come to their end and count nowhere"),
            (s.early, "ended before their budget and count as they are"),
        ):
            if reasons:
                yield f"{s.agent}: {len(reasons)} of {counted(runs, 'run')} {what} ({_by_seed(reasons)})."


def _untested(summary: Summary) -> Iterator[str]:
    ranked = [s for s in summary.standings if summary.ranks(s)]
    for s in summary.standings:
        if s.seeds and s not in ranked:
            words = summary.display(summary.ranked_by).words
            yield f"{s.agent}: the {words} of a run or more is not known, so it is neither ranked nor tested."
    tested = {frozenset((p.better, p.worse)) for p in summary.pairs}
    for one, other in itertools.combinations(ranked, 2):
        if frozenset((one.agent, other.agent)) not in tested:
            yield f"{one.agent} and {other.agent}: no seeds in common, so they are not tested."
    if ranked and all(s.mean_rank is None for s in ranked):
        yield "No seed is common to all agents: there are no mean ranks."


def _both(pair: Pair) -> str:
    return f"{pair.better} and {pair.worse}"


def _list(texts: Iterable[str]) -> str:
    *first, last = texts
    return f"{', '.join(first)} and {last}" if first else last


def _needed(n: int) -> str:
    return counted(n, "seed") if n <= _MANY_SEEDS else f"more than {_MANY_SEEDS:,} seeds"
