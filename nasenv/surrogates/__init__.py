"""Models that predict what architectures are worth."""
