"""Writes the winner of a search as files: description (JSON), weights (safetensors), program (torch.export)."""

from __future__ import annotations

import copy
import inspect
import io
import json
import logging
import math
import pkgutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

import nasenv.spaces
from nasenv.configuration import import_path
from nasenv.data.dataset import Dataset, load_images
from nasenv.data.pictures import Preprocessing, Resize
from nasenv.errors import InputError, counted
from nasenv.files import in_megabytes, parse_json, read_whole, spare_memory, write_whole
from nasenv.provenance import __version__
from nasenv.spaces.define_by_run import FunctionSpace
from nasenv.spaces.space import SearchSpace
from nasenv.task import Encoding, Images, Task
from nasenv.training.reproducibility import default_settings
from nasenv.trial import Architecture

DESCRIPTION, WEIGHTS, PROGRAM = "architecture.json", "weights.safetensors", "program.pt2"
FORMAT = 3  # 1 knew images alone, 2 no resizing
_BATCH = 256
_LARGEST_DESCRIPTION = 16_000_000  # bytes
_LARGEST_ARGUMENT = 1024  # a number, or the length of a list or text, among the arguments that a file gives a space
_LARGEST_OF = {"task": 65_536}  # of these, a larger one
_GIVE_SPACE = "of a space that is made of functions, give the space itself: load_model(directory, space=...)"
_ENCODING_NOTE = "network and program take (x - mean) / std, float32, by the first axis of an input: channels, columns"


@dataclass(frozen=True)
class LoadedModel:
    """Holds a trained network that was loaded, on the CPU in evaluation mode, with what its use requires.

    Args:
        model: (n, *shape) encoded inputs -> (n, outputs).
        space: the space that built it; its task says what it reads and answers.
        architecture: the architecture of the network.
        encoding: conversion between the user's units and the model's.
        resize: how the pictures that it was trained on came to their size, see `nasenv.Data`; None if they had it.
        values: the least and the largest number among them, in the user's units; None if that was not saved.
        source: the source of the data that it was trained on, see `nasenv.Data`; None if it was none, or not saved.
        test_samples: number of the test samples in it.

    Raises:
        InputError: an encoding of another task.
    """

    model: nn.Module
    space: SearchSpace
    architecture: Architecture
    encoding: Encoding
    resize: Resize | None = None
    values: tuple[float, float] | None = None
    source: str | None = None
    test_samples: int = 0

    def __post_init__(self) -> None:
        self.encoding.check_fits(self.task)

    @property
    def task(self) -> Task:
        """Return the task that the network was trained for."""
        return self.space.task

    @property
    def class_names(self) -> tuple[str, ...]:
        """Return the names of the classes in the order of the outputs; an empty tuple for a regression."""
        return self.encoding.class_names

    @property
    def preprocessing(self) -> Preprocessing:
        """Return how picture files become its inputs: as those became that it was trained on."""
        if not isinstance(self.task.inputs, Images):
            return Preprocessing()
        channels, height, width = self.task.shape
        return Preprocessing((height, width), self.resize, channels, prefix="--")


@default_settings()
def save_model(
    directory: Path, space: SearchSpace, architecture: Architecture, model: nn.Module, dataset: Dataset
) -> None:
    """Write ``architecture.json``, ``weights.safetensors`` and ``program.pt2`` into a directory.

    The program takes encoded inputs, any number at once: (x - mean) / std with mean and std of the JSON. It is
    for those who deploy, and never read by nasenv: ``torch.export.load`` unpickles, so load only programs you trust.
    Where a network cannot be exported, a warning says why, and the other two files are complete without it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    space = space.whole
    model = copy.deepcopy(model).cpu().to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
    write_whole(directory / WEIGHTS, save({n: tensor.detach().clone() for n, tensor in model.state_dict().items()}))
    description = {
        "format": FORMAT,
        "nasenv": __version__,
        "space": space.config(),
        "space_fingerprint": space.fingerprint(),
        "architecture": list(architecture),
        "text": space.to_text(architecture),
        "task": space.task.to_json(),
        "encoding": {**dataset.encoding.to_json(), "note": _ENCODING_NOTE},
        "dataset": {
            "name": dataset.name,
            "fingerprint": dataset.fingerprint,
            "values": dataset.values,
            "source": dataset.source and dataset.source.source,
            "test_samples": len(dataset.test),
        },
        "resize": dataset.source.resize if dataset.source is not None and dataset.source.size is not None else None,
        "probe": _probe(model, space.task.shape).tolist(),
    }
    write_whole(directory / DESCRIPTION, json.dumps(description, indent=1) + "\n")
    _save_program(directory / PROGRAM, model, space.task.shape)


@default_settings()
def load_model(
    directory: Path, space: SearchSpace | type[SearchSpace] | Callable[..., Any] | None = None
) -> LoadedModel:
    """Return the model that ``save_model`` wrote: it is rebuilt and given its weights; the program is not read.

    The files need not be trusted: they choose no code that runs. A space that comes with nasenv is made again from its
    name and plain arguments; one of yours has to be given, since making it runs code.

    Args:
        directory: directory of the saved model.
        space: the space it is from, or its class, which is then given the arguments that were saved, or the function
            of a `FunctionSpace`.

    Raises:
        InputError: files that are missing or damaged, a space that cannot be made again or that builds another network.
    """
    path, weights = Path(directory) / DESCRIPTION, Path(directory) / WEIGHTS
    description = _read_description(path)
    made = space if isinstance(space, SearchSpace) else _rebuilt(description["space"], space)
    try:
        architecture = made.check(description["architecture"])
        if made.to_text(architecture) != description["text"]:
            raise InputError(f"the model is {description['text']}, the space reads it as {made.to_text(architecture)}")
        saved, task = Task.from_json(description["task"]), made.task
        if (saved.inputs, saved.outputs, saved.kind) != (task.inputs, task.outputs, task.kind):
            raise InputError(f"the model was saved for {saved}, the space is for {task}")
        if made.own_code is None:
            _check_size(made, architecture, weights)  # before memory is taken
        encoding = Encoding.from_json(description["encoding"])
        lowest, highest = map(float, description["dataset"]["values"])
        resize = description["resize"]
        if resize not in (None, *get_args(Resize)):
            raise InputError(f"resize is {resize!r}, expected null, {', '.join(get_args(Resize))}")
        network = _built(made, architecture)
        source, tested = description["dataset"].get("source"), int(description["dataset"].get("test_samples", 0))
        exported = LoadedModel(network, made, architecture, encoding, resize, (lowest, highest), source, tested)
        expected = torch.tensor(description["probe"])
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except (KeyError, TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise InputError(f"{path} is damaged: {type(error).__name__} {error}") from error
    _check_same(weights, exported.model)
    exported.model.load_state_dict(load_file(weights))
    try:
        with _small_layers(exported.model):
            found = _probe(exported.model, exported.task.shape)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    if found.shape != expected.shape or not torch.allclose(found, expected, rtol=1e-3, atol=1e-4, equal_nan=True):
        raise InputError(
            f"{path}: {type(made).__name__} now builds a network that answers otherwise than the one that was saved; "
            "go back to the code of that time"
        )
    return exported


@default_settings()
def predict(exported: LoadedModel, raw: ArrayLike | Tensor | str) -> NDArray[np.float32]:
    """Return a loaded model's predictions for inputs in the user's units.

    Args:
        exported: the model.
        raw: (n, *shape), such as images (n, channels, height, width), grey or as the model takes them; or a source,
            such as ``folder:new_photos``, whose pictures get the size and the colours of those in training.

    Returns:
        The probability of each class, (n, classes), or of a regression the values, (n, targets), in the user's units.

    Raises:
        InputError: inputs of another shape than those that the model was trained on, or numbers that are not finite.
    """
    raw = load_images(raw, exported.preprocessing).images if isinstance(raw, str) else raw
    inputs = raw if isinstance(raw, Tensor) else torch.from_numpy(np.array(raw, dtype=np.float32))
    inputs = _coloured(inputs, exported.task)
    shape, kind = exported.task.shape, exported.task.inputs.name() if exported.task.inputs else "inputs"
    if inputs.ndim != len(shape) + 1 or tuple(inputs.shape[1:]) != shape:
        raise InputError(f"the model takes {kind} of (n, {', '.join(map(str, shape))}), got {tuple(inputs.shape)}")
    if not torch.isfinite(inputs).all():
        raise InputError(f"the model takes {kind} of finite numbers, got nan or infinite ones")
    with torch.inference_mode():
        batches = [exported.encoding.inputs(batch) for batch in inputs.split(_BATCH)]  # type: ignore[no-untyped-call]
        return exported.encoding.predictions(torch.cat([exported.model(batch) for batch in batches]))


def _coloured(inputs: Tensor, task: Task) -> Tensor:
    """Return grey images, (n, 1, h, w), with three equal channels if the model takes colour, as in training."""
    is_grey = isinstance(task.inputs, Images) and task.shape[0] == 3 and inputs.ndim == 4 and inputs.shape[1] == 1
    return inputs.expand(-1, 3, -1, -1) if is_grey else inputs


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress what torch.export prints, logs and warns about."""
    level = logging.root.manager.disable
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable()
        try:
            yield
        finally:
            logging.disable(level)


def _save_program(path: Path, model: nn.Module, shape: tuple[int, ...]) -> None:
    sample = torch.zeros(2, *shape)  # of a batch of 1, the export would make a constant
    path.unlink(missing_ok=True)
    with _quiet():
        try:
            program = torch.export.export(model, (sample,), dynamic_shapes=({0: torch.export.Dim("batch")},))
        except Exception as error:  # a user's network can hold anything, and its weights must not be lost for it
            reason = _reason(error)
        else:
            content = io.BytesIO()  # where a file cannot be written, torch ends the process
            torch.export.save(program, content)
            write_whole(path, content.getvalue())
            return
    warnings.warn(f"no {PROGRAM} was written, torch.export cannot export this network: {reason}", stacklevel=3)


def _probe(model: nn.Module, shape: tuple[int, ...]) -> Tensor:
    """Return the outputs, (2, outputs), for two fixed inputs, by which a loaded network is verified."""
    inputs = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return model(inputs).float()  # type: ignore[no-any-return]


def _read_description(path: Path) -> dict[str, Any]:
    try:
        description = parse_json(read_whole(path, _LARGEST_DESCRIPTION))
    except InputError as error:
        raise InputError(f"{error}; expected the folder that a search saved") from None
    except ValueError as error:
        raise InputError(f"{path} is damaged: {error}") from None
    if not isinstance(description, dict) or description.get("format") != FORMAT or "space" not in description:
        raise InputError(f"{path} is no description of a model in format {FORMAT}, the one that this nasenv reads")
    return description


@default_settings()
def build_trained(space: SearchSpace, architecture: Architecture, weights: Mapping[str, Tensor]) -> nn.Module:
    """Return the network of an architecture with these weights, on the CPU in evaluation mode."""
    network = _built(space, architecture)
    network.load_state_dict(weights)
    return network


def _built(space: SearchSpace, architecture: Architecture) -> nn.Module:
    try:
        with torch.random.fork_rng(devices=[]):  # the weights it starts with are replaced
            return space.build(architecture).eval()
    except Exception as error:  # a user's class can raise anything
        raise InputError(f"{type(space).__name__} cannot build the network: {_reason(error)}; {_GIVE_SPACE}") from error


def _rebuilt(config: Any, given: type[SearchSpace] | Callable[..., Any] | None) -> SearchSpace:
    """Return the space rebuilt from its ``config()``, of nasenv's own class, of the given one, or a function's."""
    if not isinstance(config, dict) or not {"class_path", "init_args"} <= config.keys():
        raise InputError(f"cannot make the space {config} again: expected its class_path and init_args; {_GIVE_SPACE}")
    name, arguments = config["class_path"], config["init_args"]
    is_of_function = name == import_path(FunctionSpace) and isinstance(arguments, dict)
    code = arguments.get("network") if is_of_function else name
    if given is not None and not (inspect.isclass(given) or inspect.isroutine(given)):
        raise InputError(f"the model is of the space {code}, not of {given!r}")
    if given is not None and import_path(given) != code:
        raise InputError(f"the model is of the space {code}, not of {import_path(given)}")
    if given is None and is_of_function:
        raise InputError(f"the model's space, {code}, does not come with nasenv; {_say_so(code)}")
    make: Callable[..., Any] = FunctionSpace if is_of_function else given or _own(name)
    try:
        if given is None:
            for key, value in arguments.items():
                _check_plain(value, _LARGEST_OF.get(key, _LARGEST_ARGUMENT))
        changed: dict[str, Any] = {"task": Task.from_json(arguments["task"])} if "task" in arguments else {}
        changed |= {"network": given} if is_of_function else {}
        space: SearchSpace = make(**{**arguments, **changed})
        return space
    except Exception as error:  # a user's class can raise anything
        raise InputError(f"cannot make the space {name} again: {_reason(error)}; {_GIVE_SPACE}") from error


def _own(name: object) -> type[SearchSpace]:
    """Return a space class that comes with nasenv, by import path; no other module is ever imported."""
    modules = [f"{nasenv.spaces.__name__}.{module.name}" for module in pkgutil.iter_modules(nasenv.spaces.__path__)]
    module, _, attribute = str(name).rpartition(".")
    found = getattr(import_module(module), attribute, None) if module in modules else None
    if not (isinstance(found, type) and issubclass(found, SearchSpace)):
        raise InputError(f"the model's space, {name}, does not come with nasenv; {_say_so(name)}")
    return found


def _say_so(name: object) -> str:
    return (
        f"where it is yours, say so, since its code is run: nasenv predict --space {name}, or load_model(directory, "
        "space=...) with the class or function, or a space of it"
    )


def _check_plain(value: Any, most: int) -> None:
    """Raise ValueError for an argument of a space that would take too much time or memory."""
    size = value if isinstance(value, int | float) else len(value) if value is not None else 0
    if not -most <= size <= most:
        raise ValueError(f"{str(value)[:40]} is more than {most}, the most that a file can ask for")
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            _check_plain(item, most)


def _check_size(space: SearchSpace, architecture: Architecture, weights: Path) -> None:
    """Raise InputError unless the network fits the weights, and its inputs the memory, before that is allocated."""
    _check_memory(2 * math.prod(space.task.shape))
    with torch.device("meta"):
        _check_same(weights, _built(space, architecture))


@contextmanager
def _small_layers(model: nn.Module) -> Iterator[None]:
    """Raise InputError in the context before a layer takes too much memory; strides, which make it less, do not count.

    To run the network on the meta device would say it sooner, and import torch's compiler, which takes seconds.
    """

    def check(layer: nn.Conv2d | nn.Linear, inputs: tuple[Tensor, ...]) -> None:
        wider = layer.weight.shape[0] / (layer.weight.shape[1] * getattr(layer, "groups", 1))
        _check_memory(int(sum(x.numel() for x in inputs) * wider))

    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_pre_hook(check) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _check_memory(numbers: int) -> None:
    if (needed := 4 * numbers) > spare_memory() // 4:
        raise InputError(f"the network takes layers of {in_megabytes(needed)} for two inputs, a quarter of free memory")


def _reason(error: Exception) -> str:
    """Return an error's type and the first line of its message."""
    return " ".join([f"{type(error).__name__}:", *str(error).strip().splitlines()[:1]])


def _check_same(path: Path, model: nn.Module) -> None:
    """Raise InputError if the tensors' shapes in a file's header differ from the network's."""
    try:
        with safe_open(path, framework="pt") as file:
            found = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118, it is no mapping
    except (OSError, SafetensorError) as error:
        raise InputError(f"cannot read {path}: {error}") from None
    expected = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    different = sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))
    if different:
        name = different[0]
        raise InputError(
            f"{path} does not fit the network in {counted(len(different), 'tensor')}, {name} first: "
            f"expected {expected.get(name)}, got {found.get(name)}"
        )
