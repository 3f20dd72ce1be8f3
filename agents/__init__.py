"""Agents: the controllers of a search, one idea a file."""

from nasenv.agents.agent import Agent
from nasenv.agents.random_search import RandomSearch
from nasenv.agents.sb3 import PPO, MaskablePPO, StableBaselines

__all__ = ["PPO", "Agent", "MaskablePPO", "RandomSearch", "StableBaselines"]
