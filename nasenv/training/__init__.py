"""Training one network as fast as the machine can: the recipe, the batches, the step, and what it runs under."""

from nasenv.training.fit import TIMEOUT, Diverged, FitResult, fit, mixed, score
from nasenv.training.recipe import Recipe, one_cycle
from nasenv.training.setting import one_thread, same_each_time, seeded

__all__ = [
    "TIMEOUT",
    "Diverged",
    "FitResult",
    "Recipe",
    "fit",
    "mixed",
    "one_cycle",
    "one_thread",
    "same_each_time",
    "score",
    "seeded",
]
