"""Evaluations and whole searches on the machines of a Ray cluster."""
