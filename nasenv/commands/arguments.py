"""From the command line to the arguments of a command.

A command is a typed function: a parameter with a default is an option, one without is a positional. A parameter that
is a space, an evaluator, an agent or an objective is an option that names a class, whose own arguments are options too.
"""

from __future__ import annotations

import inspect
import json
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, TypeVar, get_args, get_origin

from jsonargparse import Namespace

import nasenv.agents
import nasenv.cluster
import nasenv.evaluators
import nasenv.objectives
import nasenv.spaces
from nasenv.commands.parser import Parser
from nasenv.configuration import DERIVED, Configurable
from nasenv.data.dataset import Data, Dataset
from nasenv.errors import InputError
from nasenv.evaluators.evaluator import Evaluator
from nasenv.spaces.space import SearchSpace

_Made = TypeVar("_Made")

DEFAULTS = {
    "space": "nasenv.spaces.chain_cnn.ChainCNN",
    "evaluator": "nasenv.evaluators.training.TrainingEvaluator",
    "agent": "nasenv.agents.sb3.MaskablePPO",
    "objective": "nasenv.objectives.Score",
}


def call(function: Callable[..., _Made], prog: str, argv: Sequence[str]) -> _Made:
    """Call a command's function with the arguments that a command line gives, and return what it does.

    Args:
        function: the command; its docstring is the help.
        prog: what the user typed to get here, such as ``nasenv train``.
        argv: the command line after that.

    Raises:
        InputError: a class that cannot be made from its arguments.
        SystemExit: code 2 after one line on stderr where the command line is wrong, 0 after ``--help``.
    """
    parser = _parser(function, prog)
    defaults = [word for part, kind in _defaults(function).items() for word in (f"--{part}", kind)]
    return _called(function, parser, parser.parse_args([*defaults, *argv]))


def make(kind: Callable[..., _Made], prog: str, values: Mapping[str, Any]) -> _Made:
    """Return what a class or function makes of the options that a configuration file gives; it fails as ``call`` does.

    Args:
        kind: what is called.
        prog: stands before an error's line.
        values: option -> value, nested.
    """
    parser = _parser(kind, prog)
    return _called(kind, parser, parser.parse_object({**_defaults(kind), **values}))


def _called(function: Callable[..., _Made], parser: Parser, config: Namespace) -> _Made:
    arguments = instantiate(parser, config)
    return function(**{name: arguments[name] for name in inspect.signature(function).parameters})


def _defaults(function: Callable[..., Any]) -> dict[str, str]:
    """Return the class of each part of a search that the function needs, where nothing else is said.

    They are given before what the user says, and not as the parser's defaults: those would pass their own arguments on
    to another class that has arguments of the same names.
    """
    parameters = inspect.signature(function).parameters
    needed = [name for name, parameter in parameters.items() if parameter.default is inspect.Parameter.empty]
    return {part: kind for part, kind in DEFAULTS.items() if part in needed}


def import_parts() -> None:
    """Import all spaces, evaluators, agents and objectives: a class is known by its short name once it is imported."""
    for package in (nasenv.spaces, nasenv.evaluators, nasenv.cluster, nasenv.agents):
        for module in pkgutil.iter_modules(package.__path__):
            if module.name != "testing":  # what it holds is no choice
                import_module(f"{package.__name__}.{module.name}")


def _parser(function: Callable[..., Any], prog: str) -> Parser:
    """Return the parser of a function's arguments."""
    import_parts()
    parts = _defaults(function)
    parser = Parser(prog=prog, description=(inspect.getdoc(function) or "").partition("\n")[0])
    parser.add_argument("--config", action="config", help="YAML file of options; those on the command line win.")
    parser.add_function_arguments(function, skip=DERIVED, sub_configs=False, as_positional=not parts)
    action: Any
    for action in parser._actions:
        if action.dest in parts:
            action.required = False
        elif (kind := _without_null(action)) is not None:
            action._typehint = kind
    return parser


def _without_null(action: Any) -> Any:
    """Return the type of an option that is a part of a search, a class or a mapping, and may be left out; else None.

    Of a union with null, jsonargparse would say no more than that none of its types fits. Mappings of mappings are
    left as they are in the file: it would make objects of those that it finds in ``Any``, without their space or data.
    """
    kind, *others = get_args(getattr(action, "_typehint", None)) or (None,)
    if others != [type(None)]:
        return None
    if get_origin(kind) is dict:
        return dict if get_origin(get_args(kind)[1]) is dict else kind
    is_part = get_origin(kind) is type or (inspect.isclass(kind) and issubclass(kind, Configurable))
    return kind if is_part else None


def instantiate(parser: Parser, config: Namespace) -> Namespace:
    """Return the configuration with objects in the place of classes and their arguments.

    Where the evaluator, or one that it wraps, takes data, they are loaded: their task is the space's. The space is the
    first argument of the evaluator. Where the evaluator takes none, the task is the space's own.
    """
    if "budget" in config and not isinstance(config["budget"], Namespace):
        came = json.dumps(config["budget"], default=str)
        raise InputError(f"budget: expected limits by name, as {{evaluations: 200}}, got {came}")
    dataset = _dataset(config)
    spaces: list[SearchSpace] = []

    def make_space(space: type[SearchSpace], **options: Any) -> SearchSpace:
        spaces.append(space(**options, **_task(space, dataset)))
        return spaces[0]

    def make_evaluator(evaluator: Callable[..., Evaluator], *args: Any, **options: Any) -> Evaluator:
        if dataset is not None and _takes(evaluator, "data"):
            options["data"] = dataset
        return evaluator(*(args or spaces), **options)

    made = [(make_space, SearchSpace, True), (make_evaluator, Evaluator, True)]
    objects: Namespace = parser.instantiate(config, instantiators=made)
    return objects


def _dataset(config: Namespace) -> Dataset | None:
    """Return the data that the evaluator, or one that it wraps, takes; None where none does."""
    evaluator, given = config.get("evaluator"), config.get("data")
    data = Data(**vars(given)) if isinstance(given, Namespace) else given or Data()
    name = evaluator["class_path"].rpartition(".")[2] if isinstance(evaluator, Namespace) else "what is shipped"
    while isinstance(evaluator, Namespace):
        if _takes(_class(evaluator["class_path"]), "data"):
            return data.load()
        evaluator = (evaluator.get("init_args") or {}).get("inner")
    if data != Data():
        raise InputError(f"{name} reads no data; leave out --data, or give an evaluator that trains")
    return None


def _task(space: type[SearchSpace], dataset: Dataset | None) -> dict[str, Any]:
    """Return the task of the data where the space takes one; raise InputError where it has none of its own."""
    if not _takes(space, "task"):
        return {}
    if dataset is not None:
        return {"task": dataset.task}
    task = inspect.signature(space).parameters.get("task")
    if task is not None and task.default is task.empty:
        raise InputError(
            f"{space.__name__} has no task of its own and the evaluator reads no data; give --evaluator "
            "TrainingEvaluator with --data, or let its task have a default"
        )
    return {}


def _takes(kind: Callable[..., Any], name: str) -> bool:
    """Return whether a class is made with an argument of this name, or passes on what it does not know."""
    parameters = inspect.signature(kind).parameters
    return name in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def _class(path: str) -> type:
    module, _, name = path.rpartition(".")
    found: type = getattr(import_module(module), name)
    return found
