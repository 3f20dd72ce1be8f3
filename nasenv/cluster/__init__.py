"""Evaluations and whole searches run on the machines of a Ray cluster."""
