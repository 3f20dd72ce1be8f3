"""Agents propose the architectures of a search; each file holds one algorithm or one part of it."""

from typing import TYPE_CHECKING

from nasenv.lazy import lazy_names

_MODULES = {  # public name: its module, which is imported when the name is first used
    "A2C": "nasenv.agents.sb3",
    "Agent": "nasenv.agents.agent",
    "DQN": "nasenv.agents.sb3",
    "GaussianProcess": "nasenv.agents.gaussian_process",
    "LSTMReinforce": "nasenv.agents.lstm_reinforce",
    "LocalSearch": "nasenv.agents.local_search",
    "MaskablePPO": "nasenv.agents.sb3",
    "ModelAssistedPPO": "nasenv.agents.model_assisted_ppo",
    "PPO": "nasenv.agents.sb3",
    "QLearning": "nasenv.agents.q_learning",
    "RandomSearch": "nasenv.agents.random_search",
    "RecurrentPPO": "nasenv.agents.sb3",
    "RegularizedEvolution": "nasenv.agents.regularized_evolution",
    "Reinforce": "nasenv.agents.reinforce",
    "StableBaselines": "nasenv.agents.sb3",
    "TPE": "nasenv.agents.tpe",
}
__all__ = list(_MODULES)

if TYPE_CHECKING:
    from nasenv.agents.agent import Agent as Agent
    from nasenv.agents.gaussian_process import GaussianProcess as GaussianProcess
    from nasenv.agents.local_search import LocalSearch as LocalSearch
    from nasenv.agents.lstm_reinforce import LSTMReinforce as LSTMReinforce
    from nasenv.agents.model_assisted_ppo import ModelAssistedPPO as ModelAssistedPPO
    from nasenv.agents.q_learning import QLearning as QLearning
    from nasenv.agents.random_search import RandomSearch as RandomSearch
    from nasenv.agents.regularized_evolution import RegularizedEvolution as RegularizedEvolution
    from nasenv.agents.reinforce import Reinforce as Reinforce
    from nasenv.agents.sb3 import A2C as A2C
    from nasenv.agents.sb3 import DQN as DQN
    from nasenv.agents.sb3 import PPO as PPO
    from nasenv.agents.sb3 import MaskablePPO as MaskablePPO
    from nasenv.agents.sb3 import RecurrentPPO as RecurrentPPO
    from nasenv.agents.sb3 import StableBaselines as StableBaselines
    from nasenv.agents.tpe import TPE as TPE
else:
    __getattr__, __dir__ = lazy_names(__name__, _MODULES)
