"""Networks are trained as fast as the machine allows: recipe, batches, training step, reproducibility."""

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
