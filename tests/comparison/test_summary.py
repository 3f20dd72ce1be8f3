"""What a comparison says: summaries, curves and sentences of runs whose answer is known."""

import csv
import dataclasses
import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nasenv.comparison.analysis import summarise
from nasenv.comparison.conclusions import detectable
from nasenv.comparison.curves import curve
from nasenv.comparison.run import Run, Trajectory, trajectories
from nasenv.comparison.statistics import seeds_needed
from nasenv.comparison.summary import Summary, write_summary
from nasenv.errors import InputError


def make_run(agent: str, seed: int, rewards, **changes) -> Run:
    """Return a run of evaluations of 10 s each; validation is the reward, test is 0.01 below."""
    reward = np.array(rewards, dtype=float)
    n = len(reward)
    values = {
        "problem": "p",
        "agent": agent,
        "seed": seed,
        "ended": "budget",
        "error": None,
        "wall_seconds": 0.5,
        "proposals": n + 2,
        "charged_seconds": 10.0 * n,
        "architectures": tuple(map(str, range(n))),
        "proposal": np.arange(1, n + 1),
        "seconds": 10.0 * np.arange(1, n + 1),
        "reward": reward,
        "val_score": reward,
        "final_val_score": reward,
        "test_score": reward - 0.01,
    }
    return Run(**{**values, **changes})


def ends(**agents) -> list[Run]:
    """Return runs of one evaluation: agent -> the reward of each seed."""
    return [make_run(agent, s, [value]) for agent, values in agents.items() for s, value in enumerate(values)]


def spread_out(n: int, around: float, seed: int = 0) -> np.ndarray:
    return around + np.random.default_rng(seed).normal(0, 0.01, n).round(6)


def said(summary: Summary, *parts: str) -> bool:
    """Return whether one of the sentences has all these parts."""
    return any(all(part in sentence for part in parts) for sentence in summary.conclusions)


# Figures


def test_a_standing_by_hand():
    runs = [
        make_run("a", 0, [0.5, 0.8, 0.7, 0.9]),
        make_run("a", 1, [0.6, 0.4, 0.7, 0.7, 0.1]),
        make_run("b", 0, [0.9]),
        make_run("b", 1, [0.9]),
    ]
    b, a = summarise("p", runs, optimum=0.9).standings
    # from 0.5 (0) to 0.9 (1) over five evaluations, of which a's first run made four
    assert (a.area.mean, b.area.mean) == pytest.approx(((2 * 0.75 + 2 * 1.0 + 2 * 0.25 + 3 * 0.5) / 10, 1.0))
    assert (a.agent, a.seeds, a.mean_rank, b.mean_rank) == ("a", 2, 2.0, 1.0)
    assert (a.reward.mean, a.reward.median, a.reward.n) == pytest.approx((0.8, 0.8, 2))
    assert a.reward.std == pytest.approx(0.2 / math.sqrt(2))
    assert a.test_score.mean == pytest.approx(0.79)
    assert a.regret.mean == pytest.approx(0.1)
    assert (a.evaluations, a.proposals, a.charged_seconds) == (4.5, 6.5, 45.0)
    assert a.evaluations_per_second == 9.0
    # seed 0 met it at its fourth evaluation; seed 1 was censored at its fifth: 4 + 1 / 2
    assert (a.success.rate.value, a.success.mean_evaluations.value) == (0.5, 4.5)
    assert (a.success.median_evaluations, a.success.limit) == (4.0, 5)
    assert (b.success.rate.value, b.success.median_evaluations) == (1.0, 1.0)


def test_the_end_is_the_incumbent_by_reward_whatever_the_metric():
    runs = [make_run("a", 0, [0.9, 0.8], test_score=np.array([0.1, 0.7]))]
    assert summarise("p", runs, None, "test_score").standings[0].test_score.mean == 0.1


def test_validation_is_that_after_the_final_training_only_where_it_is_known_of_every_run():
    known = make_run("a", 0, [0.5, 0.6], final_val_score=np.array([np.nan, 0.7]))
    unknown = make_run("a", 1, [0.5], final_val_score=np.array([np.nan]))
    last = summarise("p", [known], None, "val_score")
    mixed = summarise("p", [known, unknown], None, "val_score")
    assert last.standings[0].val_score.mean == 0.7
    assert said(last, "validation accuracy after the final training")
    assert mixed.standings[0].val_score.mean == pytest.approx(0.55)
    assert said(mixed, "validation accuracy measured in the search")


@pytest.mark.parametrize("metric", ["reward", "val_score", "test_score"])
def test_trajectories_say_what_their_runs_say(metric):
    rng = np.random.default_rng(0)
    runs = [make_run(agent, s, rng.random(30)) for agent in "ab" for s in range(6)]
    summary = summarise("p", iter(runs), 1.0, metric, seed=3)
    assert summary == summarise("p", trajectories(runs), 1.0, metric, seed=3)
    assert summary != summarise("p", runs, 1.0, metric, seed=4)
    assert all(len(d.reward) < 12 for d in trajectories(runs))


@settings(max_examples=20, deadline=None)
@given(st.lists(st.lists(st.sampled_from([0.1, 0.2, 0.3]), min_size=3, max_size=3), min_size=2, max_size=9))
def test_ranks_and_pairs_agree_with_the_means(table):
    runs = ends(a=[r[0] for r in table], b=[r[1] for r in table], c=[r[2] for r in table])
    summary = summarise("p", runs, None, "reward")
    assert sum(s.mean_rank for s in summary.standings) == pytest.approx(6)
    means = {s.agent: s.reward.mean for s in summary.standings}
    for pair in summary.pairs:
        assert pair.difference == pytest.approx(means[pair.better] - means[pair.worse], abs=1e-12)
        assert pair.difference > -1e-12
        assert pair.p_value <= pair.p_holm <= 1
        assert not (pair.separated and pair.seeds_needed)
        assert pair.seeds == len(table)


def test_pairs_are_over_the_seeds_both_have():
    runs = ends(a=[0.1, 0.2, 0.3, 0.4], b=[0.9, 0.9, 0.9, 0.4])
    runs[4] = make_run("b", 0, [0.9], error="it raised ValueError")
    summary = summarise("p", runs, None, "reward")
    (pair,) = summary.pairs
    assert (pair.better, pair.seeds, pair.equal) == ("b", 3, 1)
    assert pair.difference == pytest.approx((0.7 + 0.6) / 3)
    assert said(summary, "b: 1 of 4 runs did not come to their end", "seed 0: it raised ValueError")
    (b,) = (s for s in summary.standings if s.agent == "b")
    assert (b.seeds, b.faults) == (3, {0: "it raised ValueError"})
    assert b.mean_rank == pytest.approx((1 + 1 + 1.5) / 3)


# Speed


def reaching(agent: str, evaluations, best=0.9, n=100, level=0.5) -> list[Run]:
    """Return a run of n evaluations for each seed, at a level until the best is met; None never meets it."""
    return [
        make_run(agent, seed, [best if hit is not None and i + 1 >= hit else level for i in range(n)])
        for seed, hit in enumerate(evaluations)
    ]


def test_of_two_agents_that_end_equal_the_one_in_half_the_evaluations_is_better():
    late, early = [40, 50, 60, 70, 44, 52, 66, 74], [20, 25, 30, 35, 22, 26, 33, 37]
    summary = summarise("p", reaching("late", late) + reaching("early", early), 0.9, random="late")
    (pair,) = summary.pairs
    assert summary.ranked_by == pair.by == "evaluations_to_best"
    assert [s.agent for s in summary.standings] == ["early", "late"]
    assert [s.reward.mean for s in summary.standings] == [0.9, 0.9]
    assert (pair.better, pair.separated, pair.difference, pair.improvement.value) == ("early", True, 28.5, 1.0)
    assert said(summary, "Agents are ranked by the evaluations to the best reward of the space")
    assert said(summary, "early is better than late (by 28.5 evaluations).")
    assert not summarise("p", reaching("late", late) + reaching("early", early), 0.9, "reward").pairs[0].separated


def test_a_run_that_did_not_meet_the_best_is_worse_than_all_that_did_however_early_it_ended():
    gave_up = [make_run("b", s, [0.5, 0.6], early=True, ended="it had enough") for s in range(3)]
    summary = summarise("p", reaching("a", [100, 100, 99]) + gave_up + reaching("c", [None, 1, None]), 0.9)
    ranks = {s.agent: s.mean_rank for s in summary.standings}
    assert ranks == {"a": pytest.approx(4 / 3), "c": pytest.approx(7 / 3), "b": pytest.approx(7 / 3)}
    assert summary.ranked_by == "evaluations_to_best"
    assert said(summary, "did not meet it in 100 evaluations counts as worse than all that did")


def test_agents_of_which_no_run_met_the_best_are_told_apart_by_the_area():
    runs = reaching("a", [10] * 9) + reaching("b", [None] * 9, level=0.5) + reaching("c", [None] * 9, level=0.7)
    summary = summarise("p", runs, 0.9)
    assert [s.agent for s in summary.standings] == ["a", "c", "b"]
    (pair,) = (p for p in summary.pairs if p.better == "c")
    assert (pair.worse, pair.separated, pair.by) == ("b", True, "area")
    assert pair.difference == pytest.approx(0.5)  # of a range from 0.5 to 0.9
    assert said(summary, "c is better than b (by 0.5 of the area).")
    assert said(summary, "a is better than c (by at least 91.5 evaluations) and b (by at least 92 evaluations).")


@pytest.mark.parametrize(("optimum", "met"), [(None, [5, 5, 5, 5]), (0.9, [5, None, None, None])])
def test_where_the_best_is_not_known_or_hardly_met_the_area_decides(optimum, met):
    slow = [make_run("slow", s, [0.5] * 60 + [0.8] * 40) for s in range(4)]
    summary = summarise("p", slow + reaching("quick", met, level=0.7), optimum)
    assert summary.ranked_by == "area"
    assert [s.agent for s in summary.standings] == ["quick", "slow"]
    words = "is not known" if optimum is None else "was met by fewer than half of the runs of every agent"
    assert said(summary, "ranked by the area under the curve of the best reward so far", words)


def test_the_area_is_the_mean_of_the_best_so_far_and_not_of_the_unit():
    rng = np.random.default_rng(0)
    rewards = {(agent, s): rng.random(rng.integers(5, 30)) for agent in "ab" for s in range(4)}
    longest = max(map(len, rewards.values()))
    best = {key: np.pad(np.maximum.accumulate(r), (0, longest - len(r)), "edge") for key, r in rewards.items()}
    low, high = (pick(pick(curve) for curve in best.values()) for pick in (min, max))
    for scale, shift in ((1.0, 0.0), (-3.0, 0.0), (50.0, 7.0)):
        runs = [make_run(agent, s, abs(scale) * r + shift) for (agent, s), r in rewards.items()]
        for standing in summarise("p", runs, None).standings:
            areas = [(best[standing.agent, s].mean() - low) / (high - low) for s in range(4)]
            assert (standing.area.mean, standing.area.n) == (pytest.approx(np.mean(areas)), 4)


def test_an_equal_reward_everywhere_is_the_whole_area():
    assert summarise("p", ends(a=[0.5, 0.5]), None).standings[0].area.mean == 1.0


@pytest.mark.parametrize("names", [("alpha", "omega"), ("omega", "alpha")])
@pytest.mark.parametrize("order", [1, -1])
def test_ties_go_by_speed_and_not_by_the_alphabet_or_the_order(names, order):
    quick, slow = names
    runs = [*reaching(quick, [10, 30, 20]), *reaching(slow, [60, 50, 40])][::order]
    summary = summarise("p", runs, 0.9, "reward")
    assert [(s.agent, s.mean_rank) for s in summary.standings] == [(quick, 1.5), (slow, 1.5)]
    assert (summary.pairs[0].better, summary.pairs[0].difference) == (quick, 0.0)


def test_the_best_so_far_is_given_after_25_50_100_and_200_evaluations():
    rewards = [0.1] * 24 + [0.2] + [0.3] * 30 + [0.1] * 64
    runs = [make_run("long", 0, rewards), make_run("long", 1, [0.4] * 30), make_run("short", 0, [0.5] * 26)]
    long, short = sorted(summarise("p", runs, None).standings, key=lambda s: s.agent)
    assert {point: spread.mean for point, spread in long.best_so_far.items()} == pytest.approx(
        {25: 0.3, 50: 0.35, 100: 0.35}
    )
    assert {point: spread.mean for point, spread in short.best_so_far.items()} == {25: 0.5, 50: 0.5, 100: 0.5}


def test_a_pair_has_one_number_of_seeds_that_it_needs():
    summary = summarise("p", ends(a=[0.9] * 5, b=[0.1] * 5, c=[0.5] * 5), None)
    (sentence,) = (s for s in summary.conclusions if "a and b" in s)
    assert all(sentence.count(f"; {pair.seeds_needed} seeds)") for pair in summary.pairs)
    assert len(re.findall(r"\d+ seeds", sentence)) == 3
    assert len({pair.seeds_needed for pair in summary.pairs}) == 1


@pytest.mark.parametrize(("seeds", "agents", "needed"), [(5, 2, 6), (6, 3, 7), (9, 6, 10)])
def test_too_few_seeds_are_said_before_the_run(seeds, agents, needed):
    assert detectable(seeds, agents, True).startswith(f"{seeds} seeds can show no difference, however large")
    assert f"needs at least {needed}." in detectable(seeds, agents, True)
    assert detectable(needed, agents, True).startswith(f"{needed} seeds can show a mean difference of ")


def test_the_smallest_difference_is_said_before_the_run():
    found = re.match(
        r"30 seeds can show a mean difference of (0\.\d\d) standard deviations of the differences between paired runs; "
        r"if runs spread as on published tables, (\d\d) % fewer evaluations to the best reward "
        r"\(Wilcoxon's signed-rank test at the 5 % level, with Holm's correction for 15 pairs, "
        r"with a power of 80 %\)\.$",
        detectable(30, 6, True),
    )
    deviations, fewer = float(found[1]), int(found[2]) / 100
    of_the_slower = 0.45 * math.sqrt(1 + (1 - fewer) ** 2)  # the spread of a difference, in means of the slower
    assert fewer == pytest.approx(deviations * of_the_slower, abs=0.01)
    assert "evaluations" not in detectable(30, 6, False)


# Sentences


def test_a_clear_winner():
    runs = ends(good=spread_out(20, 0.9), poor=spread_out(20, 0.8, seed=1))
    summary = summarise("p", runs, None, "reward", random="poor")
    (pair,) = summary.pairs
    assert pair.separated
    assert pair.seeds_needed is None
    assert said(summary, "good is better than poor", "(by 0.09")
    assert said(summary, "good beat random search (poor).")
    assert not said(summary, "Not told apart")
    assert not said(summary, "Holm")
    assert said(summary, "The best reward of the space is not known")


def test_the_difference_of_accuracies_is_in_points():
    summary = summarise("p", ends(a=[0.9] * 9, b=[0.875] * 9), None, "test_score")
    assert said(summary, "a is better than b (by 2.5 points)")


def test_another_metric_goes_by_its_name_and_in_its_own_numbers():
    summary = summarise("p", ends(a=[-1.5] * 9, b=[-2.75] * 9), None, "val_score", metric="neg_rmse")
    assert said(summary, "ranked by the validation neg rmse after the final training")
    assert said(summary, "a is better than b (by 1.25).")


def test_no_difference_to_be_seen():
    summary = summarise("p", ends(a=spread_out(30, 0.9), b=spread_out(30, 0.9015, seed=1)), None, random="a")
    (pair,) = summary.pairs
    assert not pair.separated
    assert pair.seeds_needed > 30
    assert said(summary, "No agent may be called better")
    assert said(summary, f"{pair.better} and {pair.worse}", f"{pair.seeds_needed:,} seeds")
    assert said(summary, "b cannot be said to beat random search (a).")


def test_worse_than_random_search():
    summary = summarise("p", ends(a=spread_out(20, 0.9), b=spread_out(20, 0.8)), None, random="a")
    assert said(summary, "b did worse than random search (a).")
    assert said(summarise("p", ends(a=[1.0], b=[1.0]), None), "No random search was among the agents")


def test_too_few_seeds():
    five = summarise("p", ends(a=[0.9] * 5, b=[0.1] * 5), None)
    assert not five.pairs[0].separated
    assert five.pairs[0].seeds_needed >= 6
    assert said(five, f"{five.pairs[0].seeds_needed} seeds")
    agents = {"a": 0.9, "b": 0.5, "c": 0.1}
    six = summarise("p", ends(**{agent: [value] * 6 for agent, value in agents.items()}), None)
    assert not any(pair.separated for pair in six.pairs)
    seven = summarise("p", ends(**{agent: [value] * 7 for agent, value in agents.items()}), None)
    assert all(pair.separated for pair in seven.pairs)


def test_the_same_difference_is_seen_alone_and_not_among_many_that_are_not():
    values = spread_out(12, 0.9)
    gains = np.arange(1, 13) * np.array([1, 1, 1, -1, 1, 1, 1, -1, 1, 1, 1, 1]) / 1000
    two = ends(a=values, b=values + gains)
    far = {name: values - 0.5 * (i + 1) for i, name in enumerate("cdef")}
    near = {name: spread_out(12, 0.9, seed=i + 5) for i, name in enumerate("cdef")}
    summaries = [summarise("p", two + ends(**others), None) for others in ({}, far, near)]
    alone, among_separated, among_open = (
        next(p for p in summary.pairs if (p.better, p.worse) == ("b", "a")) for summary in summaries
    )
    assert 0.05 / 15 < alone.p_value < 0.05
    assert alone.separated
    assert among_separated.separated  # Holm's last step
    assert not among_open.separated
    assert among_open.p_value == alone.p_value < among_open.p_holm
    still_open = sum(not p.separated for p in summaries[2].pairs)
    assert still_open > 1
    assert among_open.seeds_needed == seeds_needed(gains, 0.05 / still_open) > seeds_needed(gains, 0.05)


def test_equal_on_every_seed():
    summary = summarise("p", ends(a=[0.9, 0.8], b=[0.9, 0.8]), 0.9)
    (pair,) = summary.pairs
    assert (pair.p_value, pair.p_holm, pair.separated, pair.seeds_needed) == (1.0, 1.0, False, None)
    assert pair.improvement.value == 0.5
    assert said(summary, "a and b: equal on every seed")
    assert not said(summary, "can show no difference")


def test_mean_and_ranks_that_disagree_separate_nobody():
    values = spread_out(20, 0.5)
    gains = np.array([0.01] * 18 + [-0.4] * 2)  # often a little better, twice far worse
    summary = summarise("p", ends(a=values, b=values + gains), None)
    (pair,) = summary.pairs
    assert pair.better == "a"
    assert pair.p_holm < 0.05
    assert not pair.separated
    assert said(summary, "a and b: the mean and the ranks do not speak for the same agent")


def test_censored_runs_are_counted_and_named():
    runs = [
        *(make_run("some", s, [0.1, 0.9] if s else [0.1, 0.2]) for s in range(3)),
        *(make_run("none", s, [0.1, 0.2]) for s in range(3)),
        *(make_run("all", s, [0.9, 0.2]) for s in range(3)),
        *(make_run("few", s, [0.1, 0.2] if s else [0.9]) for s in range(3)),
    ]
    summary = summarise("p", runs, 0.9)
    assert said(summary, "Every run of all met")
    assert said(summary, "No run of none met")
    assert said(summary, "some (1 of 3)", "few (2 of 3)", "lower bound")
    assert said(summary, "Fewer than half of the runs of few met it")
    assert not said(summary, "may not be compared")
    assert said(summarise("p", [*runs, make_run("long", 0, [0.1] * 5)], 0.9), "some 2", "long 5", "may not be compared")
    soon = [make_run("soon", s, [0.9]) for s in range(3)]  # ended when it met the best: there is no bound
    assert not said(summarise("p", [*runs, *soon], 0.9), "may not be compared")


def test_a_fault_in_every_run_leaves_the_others_to_be_compared(tmp_path):
    runs = [*ends(a=[0.9] * 7, b=[0.1] * 7), make_run("c", 0, [], error="it stalled"), make_run("c", 1, [])]
    summary = summarise("p", runs, 0.9, random="c")
    last = summary.standings[-1]
    assert (last.agent, last.seeds, last.reward, last.success, last.mean_rank) == ("c", 0, None, None, None)
    assert math.isnan(last.evaluations)
    assert last.faults == {0: "it stalled", 1: "it ended without an evaluation"}
    assert said(summary, "a is better than b")
    assert said(summary, "a and b could not be held against random search (c)")
    only = summarise("p", runs[-2:], None)
    assert said(only, "There are no two agents that can be compared.")
    assert only.pairs == ()


def test_many_faults_are_counted():
    runs = [make_run("a", s, [0.5], error=f"wrong {s}" if s else None) for s in range(6)]
    assert said(summarise("p", runs, None), "5 of 6 runs", "seed 1: wrong 1", "and 2 more")


def test_a_fault_that_seeds_share_is_said_once():
    runs = [make_run("a", s, [0.5], error="wrong" if s else None) for s in range(4)]
    assert said(summarise("p", runs, None), "(seeds 1, 2 and 3: wrong)")


def test_an_agent_whose_metric_is_unknown_is_not_ranked():
    runs = [*ends(a=[0.9, 0.8], b=[0.1, 0.2]), make_run("a", 2, [0.5], test_score=np.array([np.nan]))]
    summary = summarise("p", runs, None, "test_score")
    (a,) = (s for s in summary.standings if s.agent == "a")
    assert (a.test_score, a.mean_rank, a.seeds) == (None, None, 3)
    assert a.reward is not None
    assert summary.pairs == ()
    assert said(summary, "a: the test accuracy of a run or more is not known")


def test_no_seeds_in_common():
    summary = summarise("p", [make_run("a", 0, [0.5]), make_run("b", 1, [0.6])], None)
    assert summary.pairs == ()
    assert said(summary, "b and a: no seeds in common")
    assert said(summary, "No seed is common to all agents")


@pytest.mark.parametrize(
    ("runs", "options", "message"),
    [
        ([], {}, "no runs"),
        ([make_run("a", 0, [0.5], problem="q")], {}, "a run of 'q' too"),
        ([make_run("a", 0, [0.5]), make_run("a", 0, [0.6])], {}, "two runs of a, seed 0"),
        ([make_run("a", 0, [0.5])], {"rank_by": "accuracy"}, "rank_by must be one of speed, reward, val_score"),
        ([make_run("a", 0, [0.5])], {"random": "r"}, "said to be 'r', but the agents are a"),
    ],
)
def test_wrong_input_is_one_clear_line(runs, options, message):
    with pytest.raises(InputError, match=message):
        summarise("p", runs, None, **options)


# summary.csv


def test_summary_csv_has_a_row_for_each_problem_and_agent(tmp_path):
    runs = [*ends(a=[0.9, 0.8], b=[0.7, 0.6]), make_run("c, of mine", 0, [], error="it stalled")]
    first = summarise("p", runs, 0.9)
    second = summarise("q", [dataclasses.replace(run, problem="q") for run in runs[:2]], None)
    write_summary(tmp_path / "summary.csv", [first, second])
    with (tmp_path / "summary.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["problem"], row["agent"]) for row in rows] == [("p", "a"), ("p", "b"), ("p", "c, of mine"), ("q", "a")]
    a, _, c, q = rows
    assert float(a["reward_mean"]) == first.standings[0].reward.mean
    assert float(a["regret_iqm_high"]) == first.standings[0].regret.iqm.high
    assert float(a["success_rate_low"]) == first.standings[0].success.rate.low
    assert (c["faults"], c["seeds"], c["reward_mean"], c["evaluations"]) == ("1", "0", "", "")
    assert (q["optimum"], q["regret_mean"], q["success_rate_value"]) == ("", "", "")


# Curves


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.sampled_from(["evaluations", "seconds"]))
def test_a_curve_is_the_mean_of_the_best_so_far(seed, against):
    rng = np.random.default_rng(seed)
    runs = [make_run("a", s, rng.random(rng.integers(1, 30)).round(2)) for s in range(rng.integers(1, 6))]
    line = curve(runs, "test_score", against, points=17)
    for i, spent in enumerate(line.grid):
        x = [run.seconds if against == "seconds" else run.proposal for run in runs]
        rewards = [run.reward[steps <= spent] for run, steps in zip(runs, x, strict=True)]
        best = [r.max() - 0.01 for r in rewards if len(r)]
        assert line.runs[i] == len(best)
        assert line.mean[i] == pytest.approx(np.mean(best))
        assert line.low[i] - 1e-12 <= line.iqm[i] <= line.high[i] + 1e-12


def test_the_grid_goes_from_the_first_evaluation_to_what_was_spent():
    runs = [make_run("a", 0, [0.5] * 7, charged_seconds=90.0), make_run("a", 1, [0.5] * 3)]
    assert curve(runs, "reward", "evaluations").grid.tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert curve(runs, "reward", "evaluations", points=3).grid.tolist() == [1, 4, 7]
    assert curve(runs, "reward", "seconds", points=3).grid.tolist() == [10, 50, 90]
    free = make_run("a", 0, [0.5, 0.6], seconds=np.zeros(2), charged_seconds=0.0)
    assert curve([free], "reward", "seconds").grid.tolist() == [0]


def test_a_run_counts_from_its_first_evaluation_on_and_keeps_its_last_incumbent():
    late = make_run("a", 1, [0.8], seconds=np.array([30.0]), charged_seconds=30.0)
    line = curve([make_run("a", 0, [0.2, 0.4]), late, make_run("a", 2, [0.9], error="stalled")], "reward", "seconds", 3)
    assert line.grid.tolist() == [10, 20, 30]
    assert line.runs.tolist() == [1, 1, 2]
    np.testing.assert_allclose(line.mean, [0.2, 0.4, 0.6])


def test_failed_evaluations_have_a_reward_and_no_score():
    failed = make_run("a", 0, [-1.0, 0.4], val_score=np.array([np.nan, 0.4]), final_val_score=np.array([np.nan, 0.5]))
    runs = [failed, make_run("a", 1, [0.6, 0.1])]
    assert curve(runs, "reward", "evaluations").mean.tolist() == pytest.approx([-0.2, 0.5])
    assert curve(runs, "val_score", "evaluations").runs.tolist() == [1, 2]
    assert curve(runs, "val_score", "evaluations").mean.tolist() == pytest.approx([0.6, 0.55])


def test_where_an_incumbent_is_unknown_the_curve_is_not_that_of_the_known_ones():
    runs = [  # as a search that trains leaves them: only the last incumbent was tested
        make_run("a", 0, [0.9, 0.1, 0.1], test_score=np.array([0.88, np.nan, np.nan])),
        make_run("a", 1, [0.1, 0.2, 0.3], test_score=np.array([np.nan, np.nan, 0.28])),
    ]
    line = curve(runs, "test_score", "evaluations")
    assert line.runs.tolist() == [0, 0, 2]
    np.testing.assert_allclose(line.mean, [np.nan, np.nan, 0.58])
    assert np.isnan(line.low[:2]).all()


@pytest.mark.parametrize("wrong", [{"quantity": "accuracy"}, {"against": "time"}, {"points": 1}, {"runs": []}])
def test_a_curve_of_nothing_is_refused(wrong):
    with pytest.raises(InputError, match=r"^a curve (takes|needs)"):
        curve(**{"runs": [make_run("a", 0, [0.5])], "quantity": "reward", "against": "seconds", **wrong})


def test_a_trajectory_keeps_the_incumbents():
    run = Trajectory.of(make_run("a", 0, [0.5, 0.5, 0.7, 0.6, 0.9]))
    assert run.evaluation.tolist() == [1, 3, 5]
    assert run.seconds.tolist() == [10, 30, 50]
    assert (run.evaluation_of_optimum(0.7), run.evaluation_of_optimum(0.9), run.evaluation_of_optimum(0.95)) == (
        3,
        5,
        None,
    )
    assert run.evaluation_of_optimum(0.9 + 1e-15) == 5
