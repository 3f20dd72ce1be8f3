"""Each file finds out something about a search space, before or after a search."""
