"""Evaluators, one way of measuring a file."""
