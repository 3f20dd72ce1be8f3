"""Neural architecture search as a Gymnasium environment, with Stable-Baselines3 controllers."""

from importlib.metadata import version

import gymnasium

from nasenv.cache.cache import Cache
from nasenv.cluster.ray_evaluator import RayEvaluator
from nasenv.data.dataset import Data, Dataset, load_dataset
from nasenv.data.split import Split
from nasenv.deployment.export import Exported, load_model, predict
from nasenv.envs.env import ArchitectureEnv
from nasenv.envs.vector_env import ArchitectureVectorEnv
from nasenv.errors import AgentError, BudgetExhausted, InputError
from nasenv.evaluators.estimate import Estimate
from nasenv.evaluators.evaluator import Evaluator
from nasenv.evaluators.synthetic import SyntheticEvaluator
from nasenv.evaluators.table import TableEvaluator
from nasenv.evaluators.training import TrainingEvaluator
from nasenv.objectives import Objective, Score, ScoreWithinCost
from nasenv.results.conclude import conclude
from nasenv.results.result import Contender, Result
from nasenv.search.budget import Budget
from nasenv.search.history import History
from nasenv.search.search import Search
from nasenv.spaces.chain_cnn import ChainCNN
from nasenv.spaces.choice_space import ChoiceSpace
from nasenv.spaces.nas_bench_201 import NASBench201
from nasenv.spaces.nas_bench_graph import NASBenchGraph
from nasenv.spaces.nas_bench_macro import NASBenchMacro
from nasenv.spaces.space import Decision, SearchSpace
from nasenv.spaces.synthetic import SyntheticSpace
from nasenv.task import Images, Table, Task
from nasenv.trial import Architecture, Measurement, Outcome, Trial

__version__ = version("nasenv")

__all__ = [
    "AgentError",
    "Architecture",
    "ArchitectureEnv",
    "ArchitectureVectorEnv",
    "Budget",
    "BudgetExhausted",
    "Cache",
    "ChainCNN",
    "ChoiceSpace",
    "Contender",
    "Data",
    "Dataset",
    "Decision",
    "Estimate",
    "Evaluator",
    "Exported",
    "History",
    "Images",
    "InputError",
    "Measurement",
    "NASBench201",
    "NASBenchGraph",
    "NASBenchMacro",
    "Objective",
    "Outcome",
    "RayEvaluator",
    "Result",
    "Score",
    "ScoreWithinCost",
    "Search",
    "SearchSpace",
    "Split",
    "SyntheticEvaluator",
    "SyntheticSpace",
    "Table",
    "TableEvaluator",
    "Task",
    "TrainingEvaluator",
    "Trial",
    "conclude",
    "load_dataset",
    "load_model",
    "predict",
]

for _space in (ChainCNN, NASBench201, NASBenchMacro):
    gymnasium.register(
        f"nasenv/{_space.__name__}-v0",
        entry_point="nasenv.envs.env:make_env",
        vector_entry_point="nasenv.envs.vector_env:make_vec_env",
        kwargs={"space": _space},
    )
