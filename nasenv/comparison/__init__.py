"""Comparisons of agents: many seeds of each on each problem, statistics over them, figures and a report."""
