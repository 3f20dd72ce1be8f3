"""What the words of a report mean, and where they come from."""

from nasenv.comparison.findings import LEVEL
from nasenv.comparison.statistics import RESAMPLES

DEFINITIONS = {
    "seeds": "Runs of an agent that came to their end; each starts from a seed of its own, the same for all agents.",
    "best design, incumbent": "The design with the highest reward so far in a run, the earliest among equals. Its test "
    "accuracy is looked up afterwards and no agent sees it.",
    "mean ± std": "Mean and standard deviation (n - 1) over the seeds.",
    "IQM [95 %]": "Interquartile mean: the mean of the middle half of the seeds, with a percentile bootstrap interval "
    f"of {RESAMPLES:,} resamples. Agarwal et al. 2021, https://arxiv.org/abs/2108.13264",
    "regret": "The best reward of the space minus the reward of the best design of a run: simple regret.",
    "met the best": "Share of the runs that met the best reward of the space, with Wilson's interval. "
    "Wilson 1927, https://doi.org/10.1080/01621459.1927.10502953",
    "evaluations to the best": "Distinct evaluations until then. Runs that did not meet it are censored at their end, "
    "never dropped: the mean is the area under the Kaplan-Meier curve, a lower bound (≥) where there are such runs; "
    "the median is the curve's. Kaplan and Meier 1958, https://doi.org/10.1080/01621459.1958.10501452",
    "mean rank": "Of the agents on each seed that all of them have, averaged; 1 is best, ties share.",
    "evaluations, proposals": "Distinct designs evaluated and designs proposed, repeats too, a run.",
    "charged seconds": "Training time that a run was charged with, looked up where the benchmark is a table.",
    "evaluations a second": "Distinct evaluations by wall time on the machine named above.",
    "probability of improvement": "That a run of one agent ends above a run of the other, over all pairs of runs, "
    "ties counting half; bootstrap interval. Agarwal et al. 2021, https://arxiv.org/abs/2108.13264",
    "p": "Two-sided signed-rank test of the differences on the same seeds. Wilcoxon 1945, "
    "https://doi.org/10.2307/3001968",
    "p by Holm": "The same, corrected for all pairs of the problem; two agents are told apart where it is below "
    f"{LEVEL:g} and their means agree. Holm 1979, https://www.jstor.org/stable/4615733",
    "seeds needed": "With about so many the test would tell the two apart, with a power of 80 %, if the difference "
    "seen is the true one. Noether 1987, https://doi.org/10.1080/01621459.1987.10478478",
}
