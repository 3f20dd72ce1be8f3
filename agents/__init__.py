"""Agents: the controllers of a search, one idea a file."""

from nasenv.agents.agent import Agent
from nasenv.agents.gaussian_process import GaussianProcess
from nasenv.agents.local_search import LocalSearch
from nasenv.agents.lstm_reinforce import LSTMReinforce
from nasenv.agents.model_assisted_ppo import ModelAssistedPPO
from nasenv.agents.q_learning import QLearning
from nasenv.agents.random_search import RandomSearch
from nasenv.agents.regularized_evolution import RegularizedEvolution
from nasenv.agents.reinforce import Reinforce
from nasenv.agents.sb3 import A2C, DQN, PPO, MaskablePPO, RecurrentPPO, StableBaselines
from nasenv.agents.tpe import TPE

__all__ = [
    "A2C",
    "DQN",
    "PPO",
    "TPE",
    "Agent",
    "GaussianProcess",
    "LSTMReinforce",
    "LocalSearch",
    "MaskablePPO",
    "ModelAssistedPPO",
    "QLearning",
    "RandomSearch",
    "RecurrentPPO",
    "RegularizedEvolution",
    "Reinforce",
    "StableBaselines",
]
