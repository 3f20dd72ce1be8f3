"""Training one network as fast as the machine can: the recipe, the batches, the step, and what it runs under."""

from nasenv.training.fit import TIMEOUT, Diverged, FitResult, fit, mixed, score
from nasenv.training.recipe import Recipe, one_cycle
from nasenv.training.reproducibility import deterministic_algorithms, one_thread, seeded

__all__ = [
    "TIMEOUT",
    "Diverged",
    "FitResult",
    "Recipe",
    "deterministic_algorithms",
    "fit",
    "mixed",
    "one_cycle",
    "one_thread",
    "score",
    "seeded",
]
