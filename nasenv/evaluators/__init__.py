"""Evaluators measure architectures, one way a file."""
