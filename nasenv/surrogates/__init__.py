"""Models of what architectures are worth."""
