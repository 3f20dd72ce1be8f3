"""The report of a comparison: one file that holds everything, says it in tables, and takes no text for HTML."""

import csv
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nasenv.comparison.report import Description, write_report
from nasenv.comparison.summary import IntervalEstimate, Pair, Spread, Standing, Success, Summary
from nasenv.comparison.table_files import to_latex, write_tables
from nasenv.comparison.tables import PublishedResults, TextTable, problem_tables, standings_table

VOID = {"meta", "br", "path", "use", "rect", "image"}
SVG = (
    '<?xml version="1.0"?>\n<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "http://www.w3.org/svg11.dtd">\n'
    '<svg width="504pt" height="300pt" viewBox="0 0 504 300" xmlns="http://www.w3.org/2000/svg">\n'
    '<metadata>made</metadata><defs><clipPath id="c1"><rect id="r" width="9"/></clipPath></defs>\n'
    '<g id="axes_1" clip-path="url(#c1)"><use xlink:href="#r"/></g>\n</svg>\n'
)


class Page(HTMLParser):
    """What a browser would find: text, tables by rows, targets, ids; every element has to be closed."""

    def __init__(self, html: str):
        super().__init__()
        self.open, self.tags, self.ids, self.targets, self.text = [], [], [], [], ""
        self.tables: list[list[list[str]]] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append(tag)
        self.ids += [attrs["id"]] if "id" in attrs else []
        self.targets += [attrs[name] for name in ("src", "href", "xlink:href", "data", "action") if name in attrs]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("th", "td"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] in (["th"], ["td"]):
            self.tables[-1][-1][-1] += data.replace("\u00a0", " ")
        elif self.open[-1:] != ["style"]:
            self.text += data

    def table(self, *heads: str) -> list[dict[str, str]]:
        """Return the rows of the one table that has these heads, by head."""
        found = [rows for rows in self.tables if set(heads) <= set(rows[0])]
        assert len(found) == 1, [rows[0] for rows in self.tables]
        return [dict(zip(found[0][0], row, strict=True)) for row in found[0][1:]]


def spread(mean, std=0.01):
    return Spread(mean, std, mean + 0.001, IntervalEstimate(mean, mean - 0.002, mean + 0.003), 30)


def standing(agent="ppo", mean=0.9, **changes) -> Standing:
    success = Success(IntervalEstimate(0.5, 0.33, 0.67), IntervalEstimate(1234.4, 1100.2, 1300.6), 1001.0, 2000)
    plain = Standing(
        agent, 30, {}, spread(mean), spread(mean), spread(mean + 0.02), spread(0.95 - mean), success,
        spread(0.75), {25: spread(0.5), 50: spread(mean)}, 1.5, 2000.0, 2100.0, 40000.0, 612.3,
    )  # fmt: skip
    return replace(plain, **changes)


def summary(*standings, problem="cells", ranked_by="reward", pairs=(), conclusions=("So it is.",)) -> Summary:
    return Summary(problem, ranked_by, 0.95, standings or (standing(),), tuple(pairs), tuple(conclusions))


DESCRIPTION = Description("nasenv compare --config c.yaml", "agents:\n  ppo: PPO\n", "2 cores", {"torch": "2.9.1"})


@pytest.fixture
def page(tmp_path):
    def write(*summaries, figures=None, description=DESCRIPTION, published=None, title="Agents"):
        path = tmp_path / "report.html"
        write_report(path, title, summaries, figures or {}, description, published)
        return Page(path.read_text(encoding="utf-8"))

    return write


def test_standings_are_given_with_units_and_uncertainty(page):
    failing = standing("dqn", 0.8, faults={3: "raised"}, seeds=29, success=None)
    found = page(summary(standing(), failing))
    assert found.table("agent", "validation accuracy (%), IQM [95 %]")[0] == {
        "agent": "ppo",
        "validation accuracy (%), mean ± std": "90.00 ± 1.00",
        "validation accuracy (%), median": "90.10",
        "validation accuracy (%), IQM [95 %]": "90.00 [89.80, 90.30]",
        "test accuracy (%), mean ± std": "92.00 ± 1.00",
        "regret, mean ± std": "0.0500 ± 0.0100",
    }
    first, second = found.table("agent", "mean rank", "met the best, % [95 %]")
    assert (first["seeds"], first["mean rank"], second["seeds"]) == ("30", "1.50", "29 of 30")
    assert first["met the best, % [95 %]"] == "50 [33, 67]"
    assert first["evaluations to the best, mean [95 %]"] == "≥ 1,234 [1,100, 1,301]"
    assert second["evaluations to the best, mean [95 %]"] == "-"
    assert first["area under the curve, mean ± std"] == "0.7500 ± 0.0100"
    so_far = found.table("agent", "best reward after 25 evaluations")
    assert (so_far[0]["best reward after 25 evaluations"], so_far[0]["best reward after 50 evaluations"]) == (
        "0.5000 ± 0.0100",
        "0.9000 ± 0.0100",
    )
    assert "The best reward of the space is 0.9500." in found.text


def test_a_reward_that_is_no_accuracy_has_columns_of_its_own():
    heads, rows = standings_table(summary(standing(reward=spread(-3.5, float("nan")))))
    assert dict(zip(heads, rows[0], strict=True))["reward"] == "-3.5000"
    assert "test accuracy (%)" in heads
    ranked_by_test, _ = standings_table(summary(ranked_by="test_score"))
    assert ranked_by_test.index("test accuracy (%)") < ranked_by_test.index("validation accuracy (%)")


def test_a_metric_that_is_no_accuracy_is_a_plain_number(page):
    found = page(replace(summary(standing(mean=-0.25)), metric="r2"))
    row = found.table("agent", "validation r2, IQM [95 %]")[0]
    assert row["validation r2, mean ± std"] == "-0.2500 ± 0.0100"
    assert row["test r2, mean ± std"] == "-0.2300 ± 0.0100"
    assert "Its test r2 is looked up afterwards" in " ".join(found.text.split())


def test_what_no_agent_has_has_no_column():
    bare = standing(test_score=None, regret=None, success=None, mean_rank=None)
    heads, rows = standings_table(summary(bare))
    assert heads == ["agent", "seeds", "validation accuracy (%)"]
    assert len(rows[0]) == len(heads)


@pytest.mark.parametrize(("rate", "text"), [(0.0, "> 2,000"), (0.9, "≥ 100"), (1.0, "100")])
def test_a_mean_over_censored_runs_is_a_lower_bound(rate, text):
    success = Success(IntervalEstimate(rate, 0, 1), IntervalEstimate(100, 90, 110), None, 2000)
    assert text in standings_table(summary(standing(success=success)))[1][0]


def test_pairs_say_whether_they_are_told_apart_and_how_many_seeds_it_takes(page):
    told = Pair("ppo", "a", IntervalEstimate(0.9, 0.8, 0.95), 1e-7, 2e-7, True, None, 30, 1, 0.0123, "val_score")
    unsure = Pair("ppo", "b", IntervalEstimate(0.6, 0.4, 0.7), 0.03, 0.06, False, 1234, 30, 0, 42.25)
    unsure = replace(unsure, by="evaluations_to_best")
    first, second = page(summary(pairs=[told, unsure])).table("better", "worse")
    assert (first["in"], second["in"]) == ("validation accuracy (%)", "evaluations to the best")
    assert second["mean difference"] == "42.2"
    assert (first["p by Holm"], first["conclusion"], first["seeds needed"]) == ("< 0.0001", "better", "-")
    assert (first["mean difference"], first["seeds (equal)"]) == ("1.23", "30 (1)")
    assert first["probability of improvement [95 %]"] == "0.90 [0.80, 0.95]"
    assert (second["p"], second["conclusion"], second["seeds needed"]) == ("0.0300", "not told apart", "1,234")


def test_faults_are_named_with_seed_and_reason(page):
    found = page(summary(standing(faults={7: "agent PPO raised ValueError: <nan>"})))
    assert found.table("what was wrong") == [
        {"agent": "ppo", "seed": "7", "what was wrong": "agent PPO raised ValueError: <nan>"}
    ]


def test_an_agent_without_a_sound_run_is_still_listed(page):
    nothing = {name: None for name in ("reward", "val_score", "test_score", "regret", "success", "area", "mean_rank")}
    nan = {name: np.nan for name in ("evaluations", "proposals", "charged_seconds", "evaluations_per_second")}
    lost = standing("dqn", seeds=0, faults={0: "boom"}, best_so_far={}, **nothing, **nan)
    rows = page(summary(standing(), lost)).table("agent", "mean rank")
    assert rows[1]["agent"] == "dqn"
    assert rows[1]["seeds"] == "0 of 1"
    assert set(list(rows[1].values())[2:]) == {"-"}
    page(summary(lost))


def test_published_numbers_stand_beside_ours(page):
    values = {"ppo": (0.9239, 0.003), "bohb": (0.9, 0.005)}
    found = page(summary(), published={"cells": PublishedResults("Dong & Yang 2020", test_score=values)})
    ours, theirs_alone = found.table("agent", "ours minus published")
    assert (ours["published, mean ± std"], ours["ours, mean ± std"]) == ("92.39 ± 0.30", "92.00 ± 1.00")
    assert ours["ours minus published"] == "-0.39"
    assert theirs_alone["ours, mean ± std"] == "-"
    assert "Dong & Yang 2020" in found.text


def test_problems_are_set_side_by_side(page):
    found = page(summary(), summary(standing("ppo", 0.7), standing("tpe", 0.6), problem="nets"))
    glance = found.table("agent", "cells, validation accuracy (%)", "nets, validation accuracy (%)")
    assert [row["nets, validation accuracy (%)"] for row in glance] == ["70.00 ± 1.00", "60.00 ± 1.00"]
    assert glance[1]["cells, validation accuracy (%)"] == "-"
    assert {target for target in found.targets if target != "#words"} <= {f"#{name}" for name in found.ids}


def test_the_file_needs_nothing_else_and_says_how_it_was_made(page):
    kinds = {"anytime": SVG, "final": SVG}
    found = page(summary(), summary(problem="nets"), figures={"cells": kinds, "nets": kinds})
    assert not {"script", "link", "iframe", "img", "object"} & set(found.tags)
    assert all(target.startswith("#") for target in found.targets)
    assert found.tags.count("svg") == 4
    assert len(set(found.ids)) == len(found.ids)
    assert {target[1:] for target in found.targets} <= set(found.ids)
    for text in ("nasenv compare --config c.yaml", "ppo: PPO", "2 cores", "https://arxiv.org/abs/2108.13264"):
        assert text in found.text
    assert found.table("software") == [{"software": "torch", "version": "2.9.1"}]


def test_nothing_that_a_user_wrote_becomes_html(page):
    bad = "<script>alert('x')</script> & \"q\""
    pair = Pair(bad, bad, IntervalEstimate(0.5, 0.4, 0.6), 1.0, 1.0, False, None)
    hostile = summary(standing(bad, faults={0: bad}), problem=bad, pairs=[pair], conclusions=[bad])
    published = {bad: PublishedResults(bad, {bad: (0.1, 0.1)})}
    description = Description(bad, bad, bad, {bad: bad})
    found = page(
        hostile, replace(hostile, problem="b"), figures={bad: {bad: SVG}}, description=description,
        published=published, title=bad,
    )  # fmt: skip
    assert "script" not in found.tags
    assert found.text.count(bad) >= 8
    assert sum(cell.count(bad) for rows in found.tables for row in rows for cell in row) >= 8


def test_equal_arguments_give_equal_bytes(tmp_path):
    for name in "ab":
        write_report(tmp_path / name, "t", [summary()], {"cells": {"final": SVG}}, DESCRIPTION)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


# Tables as files


def test_tables_are_written_as_csv_and_latex(tmp_path):
    tables = {"speed": TextTable(["agent", "met (%)", "note"], [["my_ppo & co", "-", "better"], ["[x]", "≥ 3", "-"]])}
    for folder in "ab":
        write_tables(tmp_path / folder, "a/b c", tables)
    names = ["a%2Fb c-speed.csv", "a%2Fb c-speed.tex"]
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == names
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in names)
    with (tmp_path / "a" / names[0]).open(encoding="utf-8", newline="") as file:
        assert [*csv.reader(file)] == [tables["speed"].heads, *tables["speed"].rows]
    assert (tmp_path / "a" / names[1]).read_text(encoding="utf-8").splitlines() == [
        *(r"% \usepackage{booktabs}", r"\begin{tabular}{lrl}", r"\toprule", r"agent & met (\%) & note \\", r"\midrule"),
        *(r"my\_ppo \& co & -- & better \\", r"{[}x{]} & $\geq$ 3 & -- \\", r"\bottomrule", r"\end{tabular}"),
    ]


@given(st.text(st.characters(categories=["L", "N", "P", "S", "Zs"]), min_size=1).filter(lambda text: text.strip()))
def test_no_character_of_a_name_has_a_meaning_in_latex(name):
    (row,) = [
        line for line in to_latex(TextTable(["agent", "n"], [[name, "1"]])).splitlines() if line.endswith(r" & 1 \\")
    ]
    cell = row.removesuffix(r" & 1 \\")
    for macro in re.findall(r"\\text[a-z]+\{\}|\\[&%$#_{}]|\$\\(?:pm|geq)\$|\{\[\}|\{\]\}", cell):
        cell = cell.replace(macro, "", 1)
    assert not set(cell) & set("\\{}$&#^_%~[]<>|")


def test_every_table_of_a_problem_that_has_rows_is_among_those_that_are_written():
    pair = Pair("ppo", "b", IntervalEstimate(0.6, 0.4, 0.7), 0.03, 0.06, False, 1234)
    published = PublishedResults("they", test_score={"ppo": (0.9, 0.01)})
    every = problem_tables(summary(standing(faults={3: "boom"}), pairs=[pair]), published)
    assert list(every) == ["speed", "best_so_far", "final", "cost", "pairs", "published", "faults"]
    assert list(problem_tables(summary(standing(best_so_far={})), None)) == ["speed", "final", "cost"]
