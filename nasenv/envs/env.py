"""A Gymnasium environment for neural architecture search: a decision a step, and the reward at the end."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from pkgutil import resolve_name
from typing import Any, TypeVar, cast

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from nasenv.cache.cache import Cache
from nasenv.data.dataset import Data, Dataset, as_dataset
from nasenv.envs.spec import SpecificationOf
from nasenv.errors import BudgetExhausted, InputError, counted
from nasenv.evaluators.evaluator import Evaluator
from nasenv.evaluators.training import TrainingEvaluator
from nasenv.objectives import Objective
from nasenv.search.budget import Budget
from nasenv.search.history import Answers
from nasenv.search.index import Architectures
from nasenv.search.search import Search
from nasenv.spaces.actions import redirected
from nasenv.spaces.space import SearchSpace, to_architectures

_SUBPROCESS = "stable_baselines3.common.vec_env.subproc_vec_env"
_FRAME_INCHES = (6.0, 6.0)  # of every picture, so that the frames of an episode make a film


_Made = TypeVar("_Made")


class Episodes:
    """Tracks n architectures in the making, all at the same decision, for both environments.

    Args:
        space: the space whose decisions are taken.
        n: number of architectures.

    Attributes:
        choices: (n, T) int64, the choices taken; 0 where still open.
        step: number of decisions taken.
        mask: (n, C) bool, what is valid next; all of it after the last decision. Not to be written to.
        observations: (n, `observation_size`) float32: one-hot of each decision taken, in order (zeros where open),
            then one-hot of the decision to be taken next (zeros after the last). Written to in place.
    """

    def __init__(self, space: SearchSpace, n: int) -> None:
        self.space, self.n = space, n
        self._ends = np.cumsum(space.num_choices).tolist()  # in an observation, of each decision's choices
        self._size = observation_size(space)
        starts = np.arange(n) * self._size  # of each architecture, in all observations one after the other
        self._places = [starts + end - k for end, k in zip(self._ends, space.num_choices.tolist(), strict=True)]
        self._all_valid = np.ones((n, space.max_choices), dtype=np.bool_)
        self._masks = _fixed_masks(space, n) if space.is_product else None
        self.restart()

    def restart(self) -> None:
        """Start n new architectures."""
        self.step = 0
        self.choices = np.zeros((self.space.num_decisions, self.n), dtype=np.int64).T  # so a decision is contiguous
        self.observations = np.zeros((self.n, self._size), dtype=np.float32)
        self.observations[:, self._ends[-1]] = 1.0
        self.mask = self._next_mask()

    def take(self, actions: ArrayLike) -> bool:
        """Take one decision for each architecture, (n,), invalid ones redirected; return whether it was the last.

        Raises:
            gymnasium.error.ResetNeeded: the last decision has been taken.
            InputError: not one whole number for each architecture.
        """
        t = self.step
        if t == self.space.num_decisions:
            raise gymnasium.error.ResetNeeded("the architecture is complete; call reset() for the next")
        checked, k = self._checked(actions), len(self.space.decisions[t].choices)
        chosen = checked % k if self.space.is_product else redirected(self.mask, checked)
        self.choices[:, t] = chosen
        self.observations.ravel()[self._places[t] + chosen] = 1.0
        self.observations[:, self._ends[-1] + t] = 0.0
        self.step = t + 1
        done = self.step == self.space.num_decisions
        if not done:
            self.observations[:, self._ends[-1] + t + 1] = 1.0
        self.mask = self._all_valid if done else self._next_mask()
        return done

    def prefix(self, i: int) -> tuple[int, ...]:
        """Return the choices taken so far for architecture i."""
        return tuple(self.choices[i, : self.step].tolist())

    def _next_mask(self) -> NDArray[np.bool_]:
        return self.space.mask(self.choices[:, : self.step]) if self._masks is None else self._masks[self.step]

    def _checked(self, actions: ArrayLike) -> NDArray[np.int64]:
        given = np.asarray(actions)
        if given.shape != (self.n,) or given.dtype.kind not in "iu":
            raise InputError(
                f"expected whole numbers, one for each of {counted(self.n, 'architecture')}, "
                f"got an array of shape {given.shape} and type {given.dtype}"
            )
        return given.astype(np.int64)


def _fixed_masks(space: SearchSpace, n: int) -> list[NDArray[np.bool_]]:
    """Return the masks (n, C) of the decisions of a space in which every choice is always valid."""
    rows = [np.arange(space.max_choices) < k for k in space.num_choices]
    return [np.broadcast_to(row, (n, space.max_choices)) for row in rows]


def observation_size(space: SearchSpace) -> int:
    """Return the length of an observation: one entry for each choice of each decision, and one for each decision."""
    return int(space.num_choices.sum()) + space.num_decisions


def choice_numbers(space: SearchSpace) -> NDArray[np.float32]:
    """Return the matrix (D, T) that extracts the choices taken from observations: (n, D) @ (D, T) is (n, T).

    They are numbered through all decisions, from 1; 0 is a decision that is open.
    """
    choices = int(space.num_choices.sum())
    numbers = np.zeros((observation_size(space), space.num_decisions), dtype=np.float32)
    numbers[np.arange(choices), np.repeat(np.arange(space.num_decisions), space.num_choices)] = np.arange(
        1, choices + 1
    )
    return numbers


def single_spaces(space: SearchSpace) -> tuple[spaces.Space[NDArray[np.float32]], spaces.Discrete]:
    """Return the observation space and the action space of one environment."""
    box = spaces.Box(0.0, 1.0, (observation_size(space),), np.float32)
    return cast(spaces.Space[NDArray[np.float32]], box), spaces.Discrete(space.max_choices)


def check_render_mode(render_mode: str | None, metadata: Mapping[str, Any]) -> str | None:
    """Return the render mode; raise InputError if the environment does not have it."""
    known = metadata["render_modes"]
    if render_mode is not None and render_mode not in known:
        raise InputError(f"render_mode must be {' or '.join(known)}, or None, got {render_mode!r}")
    return render_mode


def evaluated(search: Search, architectures: Architectures) -> Answers:
    """Return the answers of a search; an error reaches the program that made the environment.

    Stable-Baselines3's `SubprocVecEnv` knows no errors: its process would end, and the program be told of the end of a
    file. So what that process sends becomes the error where it is received.
    """
    try:
        return search.evaluate(architectures)
    except (BudgetExhausted, InputError) as error:
        frame = inspect.currentframe()
        while frame is not None and frame.f_globals.get("__name__") != _SUBPROCESS:
            frame = frame.f_back
        if frame is None or "remote" not in frame.f_locals:
            raise
        frame.f_locals["remote"].send(_Raised(error))
        raise SystemExit(1) from error


class _Raised:
    """Becomes an error where it is unpickled."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __reduce__(self) -> tuple[Callable[[Exception], None], tuple[Exception]]:
        return _raise, (self._error,)


def _raise(error: Exception) -> None:
    raise error


def describe(answers: Answers) -> dict[str, NDArray[Any]]:
    """Return the info entries of n finished architectures by key, (n,) each.

    A score is nan where the evaluation failed.
    """
    return {
        "architecture": np.fromiter(answers.architectures, dtype=object, count=len(answers)),
        "score": answers.scores,
        "error": answers.errors,
        "evaluation": answers.evaluations,
        "repeat": answers.repeats,
    }


def decisions_as_text(space: SearchSpace, prefix: Sequence[int]) -> str:
    """Return one line for each decision taken: its name and the choice."""
    return "".join(f"{d.name}: {d.choices[c]}\n" for d, c in zip(space.decisions, prefix, strict=False))


def picture(space: SearchSpace, prefix: Sequence[int]) -> NDArray[np.uint8]:
    """Return a picture, (h, w, 3) uint8, of the architecture so far."""
    from nasenv.plots import draw_diagram, to_rgb  # matplotlib takes half a second to import

    return to_rgb(draw_diagram(space.diagram(prefix), inches=_FRAME_INCHES))


class ArchitectureEnv(gymnasium.Env[NDArray[np.float32], np.int64]):
    """Builds one network an episode, a decision a step; the last step returns the network's reward.

    | | |
    |---|---|
    | Action | ``Discrete(C)``: the choice at the current decision; invalid actions are redirected to valid ones |
    | Observation | ``Box(0, 1, (choices of all decisions + T,), float32)``: see below |
    | Reward | 0 until the last step, then the objective's: validation accuracy in [0, 1] by default |
    | Episode | always T steps, then terminated; never truncated |
    | Info | ``action_mask`` (C,) int8, what is valid next; at the end also what `describe` says of the architecture |

    An observation is the one-hot of each decision taken (zeros where it is open), then the one-hot of the decision to
    be taken next (zeros at the end).

    ``action_masks()`` gives the mask as bool, as sb3-contrib's MaskablePPO asks for it.

    Args:
        search: evaluates the architectures; its budget, where it sets a limit, ends a step with `BudgetExhausted`.
        render_mode: ansi returns the decisions taken as text; rgb_array the network as a picture, (h, w, 3) uint8;
            with `gymnasium.make` also rgb_array_list, the pictures of an episode, and ansi_list.

    >>> import gymnasium
    >>> env = gymnasium.make("nasenv:nasenv/ChainCNN-v0")
    >>> observation, info = env.reset(seed=0)
    >>> info["action_mask"]
    array([1, 1, 1, 1, 1, 1], dtype=int8)
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi", "rgb_array"], "render_fps": 4}  # noqa: RUF012, as Gymnasium declares it
    spec: Any = SpecificationOf()

    def __init__(self, search: Search, render_mode: str | None = None) -> None:
        self.search = search
        self.render_mode = check_render_mode(render_mode, self.metadata)
        self.observation_space, self.action_space = single_spaces(search.space)
        self._episode = Episodes(search.space, 1)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start an architecture; a seed has no effect, since nothing is random."""
        super().reset(seed=seed)
        self._episode.restart()
        return self._episode.observations[0].copy(), self._info()

    def step(self, action: np.int64 | int) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Take one decision; the last one evaluates the architecture."""
        done = self._episode.take(np.asarray([action]))
        reward, info = 0.0, self._info()
        if done:
            answers = evaluated(self.search, to_architectures(self._episode.choices))
            reward = float(answers.rewards[0])
            info |= {key: value.tolist()[0] for key, value in describe(answers).items()}
        return self._episode.observations[0].copy(), reward, done, False, info

    def action_masks(self) -> NDArray[np.bool_]:
        """Return which actions are valid now, (C,)."""
        mask: NDArray[np.bool_] = self._episode.mask[0].copy()
        return mask

    def render(self) -> Any:
        """Return the architecture so far as text (ansi) or as a picture (rgb_array)."""
        prefix = self._episode.prefix(0)
        if self.render_mode == "ansi":
            return decisions_as_text(self.search.space, prefix)
        if self.render_mode == "rgb_array":
            return picture(self.search.space, prefix)
        return None

    def close(self) -> None:
        """Close the search."""
        self.search.close()

    def _info(self) -> dict[str, Any]:
        return {"action_mask": self._episode.mask[0].astype(np.int8)}


def make_search(
    space: type[SearchSpace] | SearchSpace | str,
    data: str | Data | Dataset | tuple[Any, Any] | Mapping[str, Any] | None = None,
    evaluator: Evaluator | None = None,
    objective: Objective | None = None,
    budget: Budget | Mapping[str, Any] | None = None,
    cache: Cache | str | None = None,
    **space_options: Any,
) -> Search:
    """Return the search behind a registered environment, without files or budget; each part can be replaced.

    Without a budget it is never over: an architecture that it knows already costs nothing, as often as it is proposed.

    Args:
        space: a space, or the class of one, or its import path, made for the data's task with ``space_options``.
        data: data that the default evaluator trains on; digits by default. A mapping holds the arguments of `Data`.
        evaluator: instead of training on ``data``; it brings the space that it was made for.
        objective: measurement -> reward; the score by default.
        budget: ends a step with `BudgetExhausted`; unlimited by default. A mapping holds the arguments of `Budget`.
        cache: measurements shared with other searches, or its path; this search's own alone by default.
        space_options: such as ``max_layers=4``.

    Raises:
        InputError: a part of the wrong type, an unknown option, or an argument that another one makes void.
    """
    made: type[SearchSpace] | SearchSpace = resolve_name(space) if isinstance(space, str) else space
    cache = Cache(cache) if isinstance(cache, str) else cache
    budget, data = _of_mapping("budget", Budget, budget), _of_mapping("data", Data, data)
    for kind, part in {Evaluator: evaluator, Objective: objective, Budget: budget, Cache: cache}.items():
        if part is not None and not isinstance(part, kind):
            raise InputError(f"{kind.__name__.lower()} must be a nasenv.{kind.__name__}, got {part!r}")
    if evaluator is None:
        evaluator = _training_evaluator(made, "digits" if data is None else data, space_options)
        made = evaluator.space
    else:
        void = (["data"] if data is not None else []) + list(space_options)
        if void:
            raise InputError(f"the evaluator brings its data and its space; leave out {', '.join(void)}")
        if isinstance(made, type):
            made = _space_of(evaluator, made)
    return Search(made, evaluator, None, budget or Budget(evaluations=None), objective, cache)


def _of_mapping(name: str, kind: Callable[..., _Made], values: Any) -> _Made | Any:
    """Return the object with these arguments, if it is a mapping, as from a specification that was written as JSON."""
    if not isinstance(values, Mapping):
        return values
    try:
        return kind(**values)
    except TypeError as error:
        raise InputError(f"{name}: {error}") from None


def make_env(
    space: type[SearchSpace] | SearchSpace | str, render_mode: str | None = None, **parts: Any
) -> ArchitectureEnv:
    """Return the environment of a registered id; ``parts`` are the arguments of `make_search`."""
    return ArchitectureEnv(make_search(space, **parts), render_mode)


make_env.__dict__["metadata"] = ArchitectureEnv.metadata  # where Gymnasium looks, to offer lists of pictures, too


def _training_evaluator(
    space: type[SearchSpace] | SearchSpace, data: str | Data | Dataset | tuple[Any, Any], options: Mapping[str, Any]
) -> TrainingEvaluator:
    dataset = as_dataset(data)
    if isinstance(space, type):
        _check_options(space, options)
        space = space(task=dataset.task, **options)
    elif options:
        raise InputError(f"the space is made already; leave out {', '.join(options)}")
    return TrainingEvaluator(space, dataset)


def _check_options(space: type[SearchSpace], options: Mapping[str, Any]) -> None:
    known = [n for f in (space, make_env, make_search) for n in inspect.signature(f).parameters]
    known = [n for n in known if n not in ("task", "parts", "space_options")]
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known) or dict.fromkeys(known)
            raise InputError(f"{space.__name__} has no option {name!r}; the nearest: {', '.join(near)}")


def _space_of(evaluator: Evaluator, space: type[SearchSpace]) -> SearchSpace:
    if not isinstance(evaluator.space, space):
        raise InputError(f"the evaluator was made for {type(evaluator.space).__name__}, not for {space.__name__}")
    return evaluator.space
