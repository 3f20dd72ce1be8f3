"""Agents: the controllers of a search, one idea a file."""
