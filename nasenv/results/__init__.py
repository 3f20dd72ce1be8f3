"""The winner of a search is chosen, tested, and written as the result."""
