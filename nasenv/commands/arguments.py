"""A command line becomes the arguments of a command's function.

A command is a typed function: a parameter with a default becomes an option, one without a positional argument. A
parameter for a space, an evaluator, an agent or an objective becomes an option that names a class, whose own arguments
become options too.
"""

from __future__ import annotations

import inspect
import json
import pkgutil
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from typing import Any, TypeVar, get_args, get_origin

from jsonargparse import Namespace

import nasenv.agents
import nasenv.cluster
import nasenv.evaluators
import nasenv.objectives
import nasenv.spaces
from nasenv.commands.parser import Parser
from nasenv.configuration import DERIVED, Configurable, import_path
from nasenv.data.dataset import Data, Dataset
from nasenv.errors import InputError
from nasenv.evaluators.evaluator import Evaluator
from nasenv.spaces.define_by_run import FunctionSpace
from nasenv.spaces.space import SearchSpace

_Made = TypeVar("_Made")

DEFAULTS = {
    "space": "nasenv.spaces.chain_cnn.ChainCNN",
    "evaluator": "nasenv.evaluators.training.TrainingEvaluator",
    "agent": "nasenv.agents.sb3.MaskablePPO",
    "objective": "nasenv.objectives.Score",
}


def call(function: Callable[..., _Made], prog: str, argv: Sequence[str]) -> _Made:
    """Call a command's function with the arguments of a command line, and return its result.

    Args:
        function: the command; its docstring is the help.
        prog: the command as the user types it, such as ``nasenv train``.
        argv: the words of the command line after it.

    Raises:
        InputError: a class cannot be made from its arguments.
        SystemExit: code 2, after one line on stderr, for a wrong command line; code 0 after ``--help``.
    """
    parser = _parser(function, prog)
    defaults = [word for part, kind in _defaults(function).items() for word in (f"--{part}", kind)]
    return _called(function, parser, parser.parse_args([*defaults, *argv]))


def make(kind: Callable[..., _Made], prog: str, values: Mapping[str, Any]) -> _Made:
    """Call a class or function with the options of a configuration file, and return its result; raise as `call` does.

    Args:
        kind: the class or function.
        prog: text at the start of an error's line.
        values: the options, a nested mapping of name -> value.
    """
    parser = _parser(kind, prog)
    return _called(kind, parser, parser.parse_object({**_defaults(kind), **values}))


def _called(function: Callable[..., _Made], parser: Parser, config: Namespace) -> _Made:
    arguments = instantiate(parser, config)
    return function(**{name: arguments[name] for name in inspect.signature(function).parameters})


def _defaults(function: Callable[..., Any]) -> dict[str, str]:
    """Return the default classes of the parts of a search that the function requires, by parameter.

    They stand before the user's options, and are not the parser's defaults: it would pass a default's arguments on to
    another class that has arguments of the same names.
    """
    parameters = inspect.signature(function).parameters
    needed = [name for name, parameter in parameters.items() if parameter.default is inspect.Parameter.empty]
    return {part: kind for part, kind in DEFAULTS.items() if part in needed}


def import_parts() -> None:
    """Import all spaces, evaluators, agents and objectives, so that the parser knows their short names."""
    for package in (nasenv.spaces, nasenv.evaluators, nasenv.cluster, nasenv.agents):
        for module in pkgutil.iter_modules(package.__path__):
            if module.name != "testing":  # it holds tests, not an agent
                import_module(f"{package.__name__}.{module.name}")
    import_module("nasenv.inspection.narrowed")


def _parser(function: Callable[..., Any], prog: str) -> Parser:
    """Return the parser of a function's arguments."""
    import_parts()
    parts = _defaults(function)
    parser = Parser(prog=prog, description=(inspect.getdoc(function) or "").partition("\n")[0])
    parser.add_argument("--config", action="config", help="YAML file of options; the command line overrides it.")
    parser.add_function_arguments(function, skip=DERIVED, sub_configs=False, as_positional=not parts)
    action: Any
    for action in parser._actions:
        if action.dest in parts:
            action.required = False
        elif (kind := _without_null(action)) is not None:
            action._typehint = kind
        if getattr(action, "_typehint", None) is SearchSpace:
            parser.function_options[action.dest] = _space_of_function
        if type[SearchSpace] in get_args(getattr(action, "_typehint", None)):
            parser.function_options[action.dest] = partial(_take_function, action)
            action._typehint = type[SearchSpace]  # its errors say more than those of a union
    return parser


def _space_of_function(path: str) -> dict[str, Any] | None:
    """Return the space of a user's function, by import path; None for another path, where the parser says why."""
    if _function(path) is None:
        return None
    return {"class_path": import_path(FunctionSpace), "init_args": {"network": path}}


def _take_function(action: Any, path: str) -> None:
    """Have an option that names a class take a user's function, where that is what the path names."""
    if _function(path) is not None:
        action._typehint = Callable[..., Any]


def _function(path: str) -> Callable[..., Any] | None:
    """Return the user's function of an import path; None if there is none."""
    module, _, name = path.rpartition(".")
    if not re.fullmatch(r"\w+(\.\w+)*", module):
        return None
    try:
        found = getattr(import_module(module), name, None)
    except Exception:  # the parser imports it again, and says what is wrong
        return None
    return found if inspect.isfunction(found) else None


def _without_null(action: Any) -> Any:
    """Return the type, without null, of an optional part of a search, class or mapping; None for other options.

    In an error about a union with null, jsonargparse says only that none of its types fits. Mappings of mappings stay
    as they are in the file: jsonargparse would make objects of values of type ``Any``, without their space or data.
    """
    kind, *others = get_args(getattr(action, "_typehint", None)) or (None,)
    if others != [type(None)]:
        return None
    if get_origin(kind) is dict:
        return dict if get_origin(get_args(kind)[1]) is dict else kind
    is_part = get_origin(kind) is type or (inspect.isclass(kind) and issubclass(kind, Configurable))
    return kind if is_part else None


def instantiate(parser: Parser, config: Namespace) -> Namespace:
    """Return the configuration with objects in place of classes and their arguments.

    If the evaluator, or the one inside it, takes data, they are loaded, and the space gets their task; if not,
    it has its own. The evaluator gets the space as its first argument.
    """
    if "budget" in config and not isinstance(config["budget"], Namespace):
        came = json.dumps(config["budget"], default=str)
        raise InputError(f"budget: expected limits by name, as {{evaluations: 200}}, got {came}")
    dataset = _dataset(config)
    spaces: list[SearchSpace] = []

    def make_space(space: type[SearchSpace], **options: Any) -> SearchSpace:
        spaces.append(space(**options, **_task(space, dataset)))
        return spaces[-1]

    def make_evaluator(evaluator: Callable[..., Evaluator], *args: Any, **options: Any) -> Evaluator:
        if dataset is not None and _takes(evaluator, "data"):
            options["data"] = dataset
        return evaluator(*(args or [space.whole for space in spaces[-1:]]), **options)

    made = [(make_space, SearchSpace, True), (make_evaluator, Evaluator, True)]
    objects: Namespace = parser.instantiate(config, instantiators=made)
    return objects


def _dataset(config: Namespace) -> Dataset | None:
    """Load the data for the evaluator, or for the one inside it; return None if neither takes data."""
    evaluator, given = config.get("evaluator"), config.get("data")
    data = Data(**vars(given)) if isinstance(given, Namespace) else given or Data()
    name = (
        evaluator["class_path"].rpartition(".")[2]
        if isinstance(evaluator, Namespace)
        else "a command without --evaluator"
    )
    while isinstance(evaluator, Namespace):
        if _takes(_class(evaluator["class_path"]), "data"):
            return data.load()
        evaluator = (evaluator.get("init_args") or {}).get("inner")
    if data != Data():
        raise InputError(f"{name} reads no data; leave out --data, or give an evaluator that trains")
    return None


def _task(space: type[SearchSpace], dataset: Dataset | None) -> dict[str, Any]:
    """Return the data's task as an argument if the space takes one; raise InputError if it gets no task."""
    if not _takes(space, "task"):
        return {}
    if dataset is not None:
        return {"task": dataset.task}
    task = inspect.signature(space).parameters.get("task")
    if task is not None and task.default is task.empty:
        raise InputError(
            f"{space.__name__} has no task of its own and the evaluator reads no data; give --evaluator "
            "TrainingEvaluator with --data, or a default to its argument task"
        )
    return {}


def _takes(kind: Callable[..., Any], name: str) -> bool:
    """Return whether a class takes an argument of this name, or arguments of any name."""
    parameters = inspect.signature(kind).parameters
    return name in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def _class(path: str) -> type:
    module, _, name = path.rpartition(".")
    found: type = getattr(import_module(module), name)
    return found
