"""The pictures of a comparison: what they show of runs whose answer is known, and that odd runs do no harm."""

import re
import warnings
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from scipy.stats import CensoredData, ecdf

from nasenv.comparison.analysis import summarise
from nasenv.comparison.figures import NOTES, _met, draw, save
from nasenv.comparison.run import Run, Trajectory
from nasenv.comparison.statistics import wilson

OPTIMUM = 0.95


def make_run(agent: str, seed: int, rewards, **changes) -> Run:
    """Return a run of evaluations of 10 s each; validation is the reward, test is 0.01 below."""
    reward = np.array(rewards, dtype=float)
    n = len(reward)
    run = Run(
        problem="cells", agent=agent, seed=seed, ended="budget", error=None, wall_seconds=0.5, proposals=n + 2,
        charged_seconds=10.0 * n, architectures=tuple(map(str, range(n))), proposal=np.arange(1, n + 1),
        seconds=10.0 * np.arange(1, n + 1), reward=reward, val_score=reward,
        final_val_score=np.full(n, np.nan), test_score=reward - 0.01,
    )  # fmt: skip
    return replace(run, **changes)


def make_runs(agents=("random", "ppo"), seeds=3, n=20, level=0.9) -> list[Run]:
    rng = np.random.default_rng(1)
    return [
        make_run(agent, seed, np.minimum(rng.normal(level + 0.01 * k, 0.02, n), OPTIMUM))
        for k, agent in enumerate(agents)
        for seed in range(seeds)
    ]


def drawn(runs, optimum=OPTIMUM):
    """Return the figures; a warning on the way is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return draw(summarise(runs[0].problem, runs, optimum), runs, "random")


@pytest.fixture
def without_layout(monkeypatch):
    """Half of the time goes into the layout, which has no part in what is drawn inside of the axes."""
    for module in ("drawing", "figures"):
        monkeypatch.setattr(f"nasenv.comparison.{module}.fix_layout", lambda figure: figure)


def texts(figure) -> list[str]:
    labels = [text for axes in figure.axes for text in (axes.get_xlabel(), axes.get_ylabel())]
    ticks = [t for axes in figure.axes for t in (*axes.get_xticklabels(), *axes.get_yticklabels())]
    return [*labels, *(t.get_text() for axes in figure.axes for t in axes.texts), *(t.get_text() for t in ticks)]


@pytest.fixture(scope="module")
def figures():
    return drawn(make_runs())


def test_every_kind_is_drawn_and_says_what_it_shows(figures):
    assert list(figures) == list(NOTES)
    for kind, figure in figures.items():
        assert figure.get_suptitle() == "cells (3 seeds)"
        assert " ".join(figure.get_supxlabel().split()) == NOTES[kind]
        assert {"random", "ppo"} <= set(texts(figure))
    assert {"distinct evaluations", "charged seconds", "validation accuracy (%)", "test accuracy (%)"} <= set(
        texts(figures["anytime"])
    )
    assert figures["regret"].axes[0].get_yscale() == "log"


def test_an_agent_looks_the_same_everywhere_and_random_search_is_grey_and_dashed(figures):
    def looks(axes):
        return {to_hex(line.get_color()): line.get_linestyle() for line in axes.lines if line.get_marker() == "None"}

    grey, blue = "#767676", "#0072b2"
    for kind in ("anytime", "regret", "success"):
        assert looks(figures[kind].axes[0]) == {grey: "--", blue: "-"}
    assert {to_hex(c.get_facecolor()[0]) for c in figures["final"].axes[0].collections} == {grey, blue}


@pytest.mark.usefixtures("without_layout")
def test_a_line_is_the_interquartile_mean_of_the_incumbents():
    runs = [make_run("a", seed, [0.5 + 0.1 * seed, 0.4, 0.9]) for seed in range(4)]
    axes = drawn(runs)["anytime"].axes[0]
    assert axes.lines[0].get_xydata().tolist() == pytest.approx(np.array([[1, 65], [2, 65], [3, 90]]))


@pytest.mark.usefixtures("without_layout")
def test_a_metric_that_is_no_accuracy_is_drawn_in_its_own_numbers():
    runs = [make_run("a", seed, [-3.0, -1.5]) for seed in range(4)]
    axes = draw(summarise("cells", runs, None, metric="r2"), runs)["anytime"].axes[0]
    assert axes.get_ylabel() == "validation r2"
    assert axes.lines[0].get_ydata().tolist() == [-3.0, -1.5]


@pytest.mark.usefixtures("without_layout")
def test_regret_is_measured_from_the_optimum():
    runs = [make_run("a", seed, [0.75, 0.85, OPTIMUM - 0.05]) for seed in range(4)]
    axes = drawn(runs)["regret"].axes[0]
    assert axes.lines[0].get_ydata().tolist() == pytest.approx([0.2, 0.1, 0.05])


@pytest.mark.parametrize("censored", [[], [10, 10], [6, 10, 4]])
def test_success_is_one_minus_kaplan_meier(censored):
    met = [3, 5, 5, 9]
    runs = [[0.1] * (k - 1) + [1.0] + [0.1] * (10 - k) for k in met] + [[0.1] * n for n in censored]
    line = _met([Trajectory.of(make_run("a", s, r)) for s, r in enumerate(runs)], 1.0)
    expected = ecdf(CensoredData(uncensored=met, right=censored)).cdf
    assert line.y / 100 == pytest.approx(expected.evaluate(line.x))
    if censored != [6, 10, 4]:  # nobody left early: the band ends as the interval of the success rate
        assert (line.low[-1] / 100, line.high[-1] / 100) == pytest.approx(
            wilson(len(met) / len(runs), len(runs)), abs=1e-6
        )
    assert (line.low <= line.y + 1e-9).all()
    assert (line.y <= line.high + 1e-9).all()


@pytest.mark.usefixtures("without_layout")
def test_the_first_evaluations_and_a_broken_agent_do_not_set_the_scale():
    runs = [make_run(f"good {k}", s, [0.1, *np.linspace(0.9, 0.92 + k / 100, 30)]) for k in range(3) for s in range(3)]
    runs += [make_run("broken", s, [0.05] * 31) for s in range(3)]
    axes = drawn(runs)["anytime"].axes[0]
    bottom, top = axes.get_ylim()
    assert 85 < bottom < 92
    assert 94 < top < 97
    assert "broken ↓" in texts(axes.figure)


def leaders(axes):
    """Return, by name, the first point of the thin line that leads to it, in the data's coordinates."""
    thin = [line for line in axes.lines if line.get_linewidth() < 1]
    pixels = [line.get_transform().transform(line.get_xydata())[0] for line in thin]
    points = axes.transData.inverted().transform(pixels)
    return {text.get_text(): tuple(point) for text, point in zip(axes.texts, points, strict=True)}


@pytest.mark.usefixtures("without_layout")
def test_lines_lead_from_the_ends_of_the_curves_to_the_names():
    best = [make_run("best", s, [0.7, 0.9, OPTIMUM]) for s in range(3)]  # ends early; regret leaves at the bottom
    runs = [*best, *(make_run("poor", s, [0.5] * 5 + [0.8] * 15) for s in range(3))]
    figures = drawn(runs)
    assert leaders(figures["anytime"].axes[0]) == {"best": pytest.approx((3, 95)), "poor": pytest.approx((20, 80))}
    assert leaders(figures["anytime"].axes[2]) == {"best": pytest.approx((30, 95)), "poor": pytest.approx((200, 80))}
    regret = figures["regret"].axes[0]
    bottom = regret.get_ylim()[0]
    assert leaders(regret) == {"best ↓": pytest.approx((3, bottom)), "poor": pytest.approx((20, OPTIMUM - 0.8))}


@pytest.mark.usefixtures("without_layout")
@pytest.mark.parametrize("agents", [("a", "b", "c"), ("c", "b", "a"), ("b", "c", "a")])
def test_of_equal_ends_the_quick_is_named_on_top(agents):
    runs = [
        make_run(agent, s, [0.5] * (10 * k + 1) + [0.9] * 10**k)  # the quicker, the sooner it stops
        for k, agent in enumerate(agents)
        for s in range(3)
    ]
    texts = drawn(runs)["anytime"].axes[0].texts
    assert [text.get_text() for text in sorted(texts, key=lambda text: -text.get_position()[1])] == [*agents]


def test_names_of_twelve_agents_do_not_overlap_and_stay_in_the_picture():
    agents = ["random", *(f"agent of a long name {k}" for k in range(11))]
    figure = drawn([make_run(a, s, [0.5, 0.9]) for a in agents for s in range(2)])["anytime"]
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = [text.get_window_extent(renderer) for text in figure.axes[0].texts]
    assert len(boxes) == 12
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert all(figure.bbox.x0 <= b.x0 and b.x1 <= figure.bbox.x1 for axes in figure.axes for b in _extents(axes))


def _extents(axes):
    return [text.get_window_extent() for text in (*axes.texts, *axes.get_yticklabels())]


@pytest.mark.usefixtures("without_layout")
def test_the_matrix_holds_each_pair_both_ways_and_marks_the_separated():
    runs = [make_run("a", s, [0.8 + s / 1000]) for s in range(12)] + [make_run("b", s, [0.7]) for s in range(12)]
    cells = [t.get_text() for t in drawn(runs)["improvement"].axes[0].texts]
    assert sorted(cells) == ["0.00*", "1.00*"]
    equal = [make_run(agent, s, [0.7]) for agent in "ab" for s in range(12)]
    assert [t.get_text() for t in drawn(equal)["improvement"].axes[0].texts] == ["0.50", "0.50"]


NAN = np.full(20, np.nan)


@pytest.mark.parametrize(
    ("runs", "optimum", "kinds"),
    [
        (make_runs(["ppo"]), OPTIMUM, ["anytime", "regret", "success", "final"]),
        (make_runs(seeds=1), OPTIMUM, list(NOTES)),
        (make_runs(["ppo"], seeds=1, n=1), OPTIMUM, ["anytime", "regret", "success", "final"]),
        (make_runs(), None, ["anytime", "final", "improvement"]),
        ([make_run(a, s, [0.5] * 5) for a in "ab" for s in range(3)], 0.5, [k for k in NOTES if k != "regret"]),
        ([replace(r, test_score=NAN) for r in make_runs()], OPTIMUM, list(NOTES)),
        ([replace(r, val_score=NAN, test_score=NAN) for r in make_runs()], OPTIMUM, list(NOTES)),
        ([replace(r, seconds=np.zeros(20), charged_seconds=0.0) for r in make_runs()], OPTIMUM, list(NOTES)),
        ([replace(r, error="boom") for r in make_runs()], OPTIMUM, []),
        (make_runs(["<script>", "$\\frac{", "two\nlines", "a" * 90]), OPTIMUM, list(NOTES)),
    ],
    ids=["agent", "seed", "evaluation", "optimum", "equal", "untested", "failed", "free", "faulty", "names"],
)  # fmt: skip
def test_odd_runs_do_no_harm(runs, optimum, kinds):
    assert list(drawn(runs, optimum)) == kinds


@pytest.mark.usefixtures("without_layout")
def test_an_unknown_test_score_has_no_panel():
    one_known = [replace(r, test_score=np.where(np.arange(20) == r.incumbents[-1], 0.9, np.nan)) for r in make_runs()]
    figures = drawn(one_known)
    assert "test accuracy (%)" not in texts(figures["anytime"])
    assert "test accuracy (%)" in texts(figures["final"])


def test_files_are_the_same_twice_and_parse(tmp_path):
    runs = make_runs(seeds=2, n=5)
    svgs = save(drawn(runs), tmp_path / "a", "a/b c")
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == sorted(f"a%2Fb c-{kind}.{suffix}" for kind in NOTES for suffix in ("pdf", "png", "svg"))
    again = drawn(runs)
    save({kind: again[kind] for kind in ("anytime", "final")}, tmp_path / "b", "a/b c")  # lines with bands, and dots
    assert len(list((tmp_path / "b").iterdir())) == 2 * 3
    for path in (tmp_path / "b").iterdir():
        assert path.read_bytes() == (tmp_path / "a" / path.name).read_bytes(), path.name
    for kind, svg in svgs.items():
        assert (tmp_path / "a" / f"a%2Fb c-{kind}.svg").read_text() == svg
        assert ElementTree.fromstring(svg).tag.endswith("svg")
        assert all(target.startswith(("#", "data:")) for target in re.findall(r'(?:href|src)="([^"]*)"', svg))
