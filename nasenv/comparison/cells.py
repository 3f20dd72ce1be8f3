"""Figures of a comparison as text: in the units of the tables, with as many digits as they can bear."""

from __future__ import annotations

import math
from typing import Literal

from nasenv.comparison.findings import Estimate, Metric, Spread, Standing, Success

NONE = "-"
"""What stands where there is nothing."""

WORDS: dict[Metric, str] = {"reward": "reward", "val_accuracy": "validation %", "test_accuracy": "test %"}
"""What each metric is called."""

UNITS = {"reward": 1.0, "val_accuracy": 100.0, "test_accuracy": 100.0, "regret": 1.0}
"""Factor from each metric to the unit that it is shown in."""

DIGITS = {"reward": ".4f", "val_accuracy": ".2f", "test_accuracy": ".2f", "regret": ".4f"}
"""Format of each metric in that unit."""


def seeds_text(standing: Standing) -> str:
    """Return the number of runs that count, of how many where some do not."""
    faults = f" of {standing.seeds + len(standing.faults)}" if standing.faults else ""
    return f"{standing.seeds}{faults}"


def mean_text(standing: Standing, name: Metric | Literal["regret"]) -> str:
    """Return mean ± standard deviation of an agent's runs."""
    return spread_text(getattr(standing, name), name)


def spread_text(spread: Spread | None, name: Metric | Literal["regret"]) -> str:
    """Return mean ± standard deviation, or that they are not known."""
    return NONE if spread is None else plus_minus(spread.mean, spread.std, name)


def plus_minus(mean: float, std: float, name: Metric | Literal["regret"]) -> str:
    """Return mean ± standard deviation, in the metric's unit; without the latter where it is not finite."""
    factor, digits = UNITS[name], DIGITS[name]
    deviation = f" ± {factor * std:{digits}}" if math.isfinite(std) else ""  # a single run has none
    return f"{factor * mean:{digits}}{deviation}"


def median_text(standing: Standing, metric: Metric) -> str:
    """Return the median of an agent's runs."""
    spread: Spread | None = getattr(standing, metric)
    return NONE if spread is None else f"{UNITS[metric] * spread.median:{DIGITS[metric]}}"


def iqm_text(standing: Standing, metric: Metric) -> str:
    """Return the interquartile mean of an agent's runs, with its interval."""
    spread: Spread | None = getattr(standing, metric)
    return NONE if spread is None else estimate_text(spread.iqm, DIGITS[metric], UNITS[metric])


def estimate_text(estimate: Estimate, digits: str, factor: float = 1.0) -> str:
    """Return an estimate with its interval, times a factor, in digits of this format."""
    value, low, high = (f"{factor * v:{digits}}" for v in (estimate.value, estimate.low, estimate.high))
    return f"{value} [{low}, {high}]"


def rate_text(success: Success | None) -> str:
    """Return the share of runs that met the best, in percent, with its interval."""
    return NONE if success is None else estimate_text(success.rate, ".0f", 100)


def evaluations_text(success: Success | None) -> str:
    """Return the mean number of evaluations to the best, marked as a lower bound where runs did not meet it."""
    if success is None or success.rate.value == 0.0:
        return NONE if success is None else f"> {success.limit:,}"
    return "≥ " * (success.rate.value < 1.0) + estimate_text(success.mean_evaluations, ",.0f")


def median_evaluations_text(success: Success | None) -> str:
    """Return the median number of evaluations to the best."""
    return NONE if success is None else number_text(success.median_evaluations, ",.0f")


def amount_text(difference: float, metric: Metric) -> str:
    """Return a difference in the metric's unit."""
    return f"{UNITS[metric] * difference:{DIGITS[metric]}}"


def number_text(value: float | None, digits: str) -> str:
    """Return a number in this format, or that there is none."""
    return NONE if value is None or not math.isfinite(value) else f"{value:{digits}}"


def p_text(value: float) -> str:
    """Return a p-value, to four digits."""
    return "< 0.0001" if value < 0.0001 else f"{value:.4f}"
