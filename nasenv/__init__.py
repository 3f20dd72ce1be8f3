"""nasenv searches for neural architectures, as a Gymnasium environment, with Stable-Baselines3 and other agents."""

from typing import TYPE_CHECKING

from nasenv.commands.ctrl_c import exit_at_ctrl_c, is_command

if is_command():
    exit_at_ctrl_c()

import gymnasium

from nasenv import agents
from nasenv.lazy import lazy_names
from nasenv.provenance import __version__ as __version__

_MODULES = {  # public name: its module, which is imported when the name is first used
    "AgentError": "nasenv.errors",
    "Architecture": "nasenv.trial",
    "ArchitectureEnv": "nasenv.envs.env",
    "ArchitectureVectorEnv": "nasenv.envs.vector_env",
    "Budget": "nasenv.search.budget",
    "BudgetExhausted": "nasenv.errors",
    "Cache": "nasenv.cache.cache",
    "ChainCNN": "nasenv.spaces.chain_cnn",
    "ChoiceSpace": "nasenv.spaces.choice_space",
    "Constraint": "nasenv.search.constraints",
    "Contender": "nasenv.results.result",
    "DARTSCell": "nasenv.spaces.darts_cell",
    "Data": "nasenv.data.dataset",
    "Dataset": "nasenv.data.dataset",
    "Decision": "nasenv.spaces.space",
    "Encoder": "nasenv.spaces.encoder",
    "EstimateEvaluator": "nasenv.evaluators.estimate",
    "Evaluator": "nasenv.evaluators.evaluator",
    "FunctionSpace": "nasenv.spaces.define_by_run",
    "Grammar": "nasenv.spaces.grammar",
    "LoadedModel": "nasenv.deployment.export",
    "History": "nasenv.search.history",
    "Images": "nasenv.task",
    "InputError": "nasenv.errors",
    "Measurement": "nasenv.trial",
    "MobileNet": "nasenv.spaces.mobile_net",
    "NASBench201": "nasenv.spaces.nas_bench_201",
    "NASBenchGraph": "nasenv.spaces.nas_bench_graph",
    "NASBenchMacro": "nasenv.spaces.nas_bench_macro",
    "Narrowed": "nasenv.inspection.narrowed",
    "Objective": "nasenv.objectives",
    "Outcome": "nasenv.trial",
    "RayEvaluator": "nasenv.cluster.ray_evaluator",
    "ResNet": "nasenv.spaces.res_net",
    "Result": "nasenv.results.result",
    "Score": "nasenv.objectives",
    "ScoreWithinCost": "nasenv.objectives",
    "Search": "nasenv.search.search",
    "SearchSpace": "nasenv.spaces.space",
    "Split": "nasenv.data.split",
    "SyntheticEvaluator": "nasenv.evaluators.synthetic",
    "SyntheticSpace": "nasenv.spaces.synthetic",
    "Table": "nasenv.task",
    "TableEvaluator": "nasenv.evaluators.table",
    "Task": "nasenv.task",
    "TrainingEvaluator": "nasenv.evaluators.training",
    "Trial": "nasenv.trial",
    "conclude": "nasenv.results.conclude",
    "load_dataset": "nasenv.data.dataset",
    "load_model": "nasenv.deployment.export",
    "predict": "nasenv.deployment.export",
}
__all__ = ["agents", *_MODULES]

if TYPE_CHECKING:
    from nasenv.cache.cache import Cache as Cache
    from nasenv.cluster.ray_evaluator import RayEvaluator as RayEvaluator
    from nasenv.data.dataset import Data as Data
    from nasenv.data.dataset import Dataset as Dataset
    from nasenv.data.dataset import load_dataset as load_dataset
    from nasenv.data.split import Split as Split
    from nasenv.deployment.export import LoadedModel as LoadedModel
    from nasenv.deployment.export import load_model as load_model
    from nasenv.deployment.export import predict as predict
    from nasenv.envs.env import ArchitectureEnv as ArchitectureEnv
    from nasenv.envs.vector_env import ArchitectureVectorEnv as ArchitectureVectorEnv
    from nasenv.errors import AgentError as AgentError
    from nasenv.errors import BudgetExhausted as BudgetExhausted
    from nasenv.errors import InputError as InputError
    from nasenv.evaluators.estimate import EstimateEvaluator as EstimateEvaluator
    from nasenv.evaluators.evaluator import Evaluator as Evaluator
    from nasenv.evaluators.synthetic import SyntheticEvaluator as SyntheticEvaluator
    from nasenv.evaluators.table import TableEvaluator as TableEvaluator
    from nasenv.evaluators.training import TrainingEvaluator as TrainingEvaluator
    from nasenv.inspection.narrowed import Narrowed as Narrowed
    from nasenv.objectives import Objective as Objective
    from nasenv.objectives import Score as Score
    from nasenv.objectives import ScoreWithinCost as ScoreWithinCost
    from nasenv.results.conclude import conclude as conclude
    from nasenv.results.result import Contender as Contender
    from nasenv.results.result import Result as Result
    from nasenv.search.budget import Budget as Budget
    from nasenv.search.constraints import Constraint as Constraint
    from nasenv.search.history import History as History
    from nasenv.search.search import Search as Search
    from nasenv.spaces.chain_cnn import ChainCNN as ChainCNN
    from nasenv.spaces.choice_space import ChoiceSpace as ChoiceSpace
    from nasenv.spaces.darts_cell import DARTSCell as DARTSCell
    from nasenv.spaces.define_by_run import FunctionSpace as FunctionSpace
    from nasenv.spaces.encoder import Encoder as Encoder
    from nasenv.spaces.grammar import Grammar as Grammar
    from nasenv.spaces.mobile_net import MobileNet as MobileNet
    from nasenv.spaces.nas_bench_201 import NASBench201 as NASBench201
    from nasenv.spaces.nas_bench_graph import NASBenchGraph as NASBenchGraph
    from nasenv.spaces.nas_bench_macro import NASBenchMacro as NASBenchMacro
    from nasenv.spaces.res_net import ResNet as ResNet
    from nasenv.spaces.space import Decision as Decision
    from nasenv.spaces.space import SearchSpace as SearchSpace
    from nasenv.spaces.synthetic import SyntheticSpace as SyntheticSpace
    from nasenv.task import Images as Images
    from nasenv.task import Table as Table
    from nasenv.task import Task as Task
    from nasenv.trial import Architecture as Architecture
    from nasenv.trial import Measurement as Measurement
    from nasenv.trial import Outcome as Outcome
    from nasenv.trial import Trial as Trial
else:
    __getattr__, __dir__ = lazy_names(__name__, _MODULES)

for _name, _module in {
    "ChainCNN": "chain_cnn",
    "NASBench201": "nas_bench_201",
    "NASBenchMacro": "nas_bench_macro",
}.items():
    gymnasium.register(
        f"nasenv/{_name}-v0",
        entry_point="nasenv.envs.env:make_env",
        vector_entry_point="nasenv.envs.vector_env:make_vec_env",
        kwargs={"space": f"{_MODULES[_name]}.{_name}"},
    )
