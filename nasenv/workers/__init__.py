"""Processes that do one job each and may die."""
