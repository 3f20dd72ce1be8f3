"""Golden trajectories: what searches propose and are paid, written down once and compared ever after.

    python tests/golden/golden.py                 compare the short form, as the tests do
    python tests/golden/golden.py --all           compare every case
    python tests/golden/golden.py --all -j 2      the same in two processes
    python tests/golden/golden.py --write -j 2    write the record, of all cases
    python tests/golden/golden.py --layered       compare with a layer between agent and search
    python tests/golden/golden.py --list          the names of the cases; give some of them to compare these alone

A case runs a search, or several, and writes a line for every answer in order: the architecture, the reward, and whether
the answer was a repeat (r), was known without a training (k), or is of an evaluation that failed (f). Times are left
out.

All that makes or reads objects of the library stands in the first part of this file: who changes the library's API
adapts that part alone. The cases follow, and then what compares and writes them.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import gzip
import hashlib
import io
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # run as a script, from anywhere
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import gymnasium
import numpy as np
import sb3_contrib
import torch
from torch import nn

import nasenv
from nasenv import agents
from nasenv.commands.cli import main as nasenv_command
from nasenv.comparison.comparison import Comparison
from nasenv.comparison.problem import Problem
from nasenv.search.layer import Layer

LAYERS = "NASENV_GOLDEN_LAYERS"  # the variable that says how many layers stand between an agent and its search
RECORD = Path(__file__).with_name("trajectories.json.gz")

# ---------------------------------------------------------------------------------------------------------------------
# The library, as the cases use it
# ---------------------------------------------------------------------------------------------------------------------


def build_mlp(task, layers, width, heads, activation):
    """Return the network of an architecture of the space "choices": hidden layers in groups of units."""
    size, parts = int(np.prod(task.shape)), [nn.Flatten()]
    for _ in range(layers):
        parts += [nn.Linear(size, width), nn.GroupNorm(heads, width), {"relu": nn.ReLU, "gelu": nn.GELU}[activation]()]
        size = width
    return nn.Sequential(*parts, nn.Linear(size, task.outputs))


def divides(width, heads):
    """Return whether the groups are of equal size."""
    return width % heads == 0


def affordable(layers, width):
    """Return whether the network is not too large."""
    return layers * width <= 96


DIGITS_TASK = nasenv.Task(nasenv.Images((1, 8, 8)), outputs=10)
SPACES: dict[str, Callable[[], Any]] = {
    "shipped": lambda: nasenv.ChainCNN(max_layers=3, widths=[16]),  # the space of the shipped table
    "chains": lambda: nasenv.ChainCNN(max_layers=2, widths=(4, 8)),
    "tiny": lambda: nasenv.ChainCNN(max_layers=1, widths=(8, 16, 32)),  # 20 architectures
    "synthetic": lambda: nasenv.SyntheticSpace(),
    "choices": lambda: nasenv.ChoiceSpace(
        {
            "layers": (1, 2, 3, 4),
            "width": (12, 16, 24, 32, 48),
            "heads": (1, 2, 3, 4, 6, 8),
            "activation": ("relu", "gelu"),
        },
        build=build_mlp,
        constraints=[divides, affordable],
        reference={"layers": 2, "width": 32, "heads": 4, "activation": "gelu"},
    ),
    "nas201": lambda: nasenv.NASBench201(channels=4, cells=1, task=DIGITS_TASK),
    "macro": lambda: nasenv.NASBenchMacro(channels=4, features=16, task=DIGITS_TASK),
    "graph": lambda: nasenv.NASBenchGraph(),
}


def space(name: str) -> Any:
    """Return a space."""
    return SPACES[name]()


def measurement(score: float | None, seconds: float, metrics: dict[str, float]) -> Any:
    """Return what an evaluator says of an architecture; without a score it failed."""
    error = "diverged" if score is None else None
    return nasenv.Measurement(score, error, train_seconds=seconds, metrics=metrics)


class PowerCut(BaseException):
    """The end of a process, as the code in it sees it."""


class Formula(nasenv.Evaluator):
    """Measures by a formula: shares of each choice and of the architecture as a whole, drawn by hashes.

    It says what a training cost. Several architectures may be at work; of these the next that is done is the one with
    the lowest hash, whatever was done before, so that a search that is started again meets the same order.
    """

    excluded_from_identity = ("slots", "cut_after")

    def __init__(self, space, failing=0.0, trains=False, slots=1, cut_after=None):
        super().__init__(space)
        self.failing, self.trains, self._slots, self._left = failing, trains, slots, cut_after

    @property
    def slots(self):
        """How many architectures are at work at once."""
        return self._slots

    def fingerprint(self):
        """Return what the measurements follow from."""
        return f"golden {self.failing}"

    def figure(self, architecture):
        """Return the measurement of an architecture."""
        metrics = {"params": 100.0 + 10.0 * sum(architecture)}
        seconds = 1.0 + sum(architecture) % 5
        if hashed("failure", architecture) < self.failing:
            return measurement(None, seconds, metrics)
        each = sum(hashed(t, choice) for t, choice in enumerate(architecture)) / len(architecture)
        return measurement(0.7 * each + 0.3 * hashed("whole", architecture), seconds, metrics)

    def measure(self, trials):
        """Return the measurement of each trial; that of a test has no metrics."""
        found = [(trial, self.figure(trial.architecture)) for trial in trials]
        return [measurement(m.score, m.train_seconds, {}) if t.purpose == "test" else m for t, m in found]

    def completed(self, stopped=lambda: False):
        """Yield each trial with its measurement; of those at work the one with the lowest hash is done first."""
        at_work = []
        try:
            while True:
                while self._submitted and len(at_work) < self._slots and not stopped():
                    at_work.append(self._submitted.popleft())
                if not at_work:
                    return
                if self._left == 0:
                    raise PowerCut
                self._left = None if self._left is None else self._left - 1
                trial = min(at_work, key=lambda t: hashed("order", [t.architecture, t.purpose, t.seed]))
                at_work.remove(trial)
                yield trial, self.measure([trial])[0]
        finally:
            self._submitted.clear()


def hashed(*what: Any) -> float:
    """Return a number in [0, 1) that follows from JSON values alone."""
    return int(hashlib.sha256(json.dumps(what).encode()).hexdigest()[:13], 16) / 16**13


EVALUATORS: dict[str, Callable[..., Any]] = {
    "table": lambda of, **options: nasenv.TableEvaluator(of, **options),
    "synthetic": lambda of, **options: nasenv.SyntheticEvaluator(of, **options),
    "formula": Formula,
    "digits": lambda of, **options: nasenv.TrainingEvaluator(
        of, "digits", **{"epochs": 1, "final_epochs": 2, "devices": "cpu", "precision": "float32", **options}
    ),
}


def evaluator(name: str, of: Any, **options: Any) -> Any:
    """Return an evaluator of a space."""
    return EVALUATORS[name](of, **options)


_SHORT = {"gamma": 1.0, "learning_rate": 0.003}
AGENTS: dict[str, Callable[..., Any]] = {
    "random": agents.RandomSearch,
    "evolution": lambda **o: agents.RegularizedEvolution(**{"population_size": 20, "sample_size": 5, **o}),
    "evolution_small": lambda **o: agents.RegularizedEvolution(population_size=8, sample_size=3, batch_size=4, **o),
    "local_search": agents.LocalSearch,
    "local_search_best": lambda **o: agents.LocalSearch(improvement="best", **o),
    "reinforce": agents.Reinforce,
    "lstm_reinforce": agents.LSTMReinforce,
    "q_learning": lambda **o: agents.QLearning(**{"evaluations": 100, **o}),
    "tpe": agents.TPE,
    "tpe_joint": lambda **o: agents.TPE(multivariate=True, batch_size=3, **o),
    "gaussian_process": agents.GaussianProcess,
    "ppo": agents.PPO,
    "ppo_lstm": lambda **o: agents.PPO(network="lstm", **o),
    "ppo_fast": lambda **o: agents.PPO(num_envs=16, n_epochs=4, imitation_steps=2, **o),
    "maskable_ppo": agents.MaskablePPO,
    "recurrent_ppo": agents.RecurrentPPO,
    "model_assisted_ppo": agents.ModelAssistedPPO,
    "a2c": agents.A2C,
    "dqn": agents.DQN,
    "trpo": lambda **o: agents.StableBaselines(
        sb3_contrib.TRPO, settings={**_SHORT, "n_steps": 25, "batch_size": 400}, **o
    ),
    "qrdqn": lambda **o: agents.StableBaselines(
        sb3_contrib.QRDQN,
        settings={
            **_SHORT,
            "buffer_size": 5000,
            "learning_starts": 100,
            "train_freq": 16,
            "policy_kwargs": {"n_quantiles": 10},
        },
        reward="raw",
        num_envs=1,
        **o,
    ),
}

OBJECTIVES: dict[str, Callable[..., Any]] = {
    "accuracy": lambda failure_reward=0.0: nasenv.Score(failure_reward),
    "within": nasenv.ScoreWithinCost,
}


@dataclass(frozen=True)
class Setting:
    """A search in names: what it is made of, and from which seed.

    A part with options is given as a pair (name, options).
    """

    space: str
    evaluator: Any
    agent: Any
    budget: dict[str, Any] = field(default_factory=dict)
    objective: Any = "accuracy"
    seed: int = 7
    start: int = 0  # number of architectures to start from

    @property
    def timed(self) -> bool:
        """Whether what is charged is measured time."""
        return _pair(self.evaluator)[0] == "digits"

    @property
    def asynchronous(self) -> bool:
        """Whether the agent asks for an architecture whenever there is room for one."""
        return bool(_pair(self.agent)[1].get("asynchronous"))


def search(setting: Setting, listen: Callable[..., None] | None, more: dict[str, Any], **evaluating: Any) -> Any:
    """Return the search of a setting.

    Args:
        setting: what it is made of.
        listen: called on every answer as ``listen(search, outcome)``.
        more: arguments of the search, such as its directory.
        evaluating: options of the evaluator beside those of the setting.
    """
    of = space(setting.space)
    (measures, options), (acts, settings) = _pair(setting.evaluator), _pair(setting.agent)
    pays, terms = _pair(setting.objective)
    return nasenv.Search(
        of,
        evaluator(measures, of, **{**options, **evaluating}),
        AGENTS[acts](**settings) if acts else None,
        nasenv.Budget(**setting.budget),
        objective=OBJECTIVES[pays](**terms),
        seed=setting.seed,
        callbacks=[listen] if listen is not None else [],
        start=of.sample(setting.start, np.random.default_rng(99)) if setting.start else (),
        layers=[Layer] * int(os.environ.get(LAYERS, "0")),
        **more,
    )


def _pair(part: Any) -> tuple[str, dict[str, Any]]:
    return (part, {}) if isinstance(part, str) or part is None else part


def answered(outcome: Any) -> str:
    """Return the line of an answer: architecture, reward, and r (repeat), k (known), f (failed)."""
    marks = ((outcome.repeat, "r"), (outcome.cached, "k"), (outcome.measurement.error is not None, "f"))
    return f"{written(outcome.architecture)} {outcome.reward!r} {''.join(m for is_so, m in marks if is_so)}".strip()


def written(architecture: Any) -> str:
    """Return an architecture as text, its choices."""
    return ".".join(str(int(choice)) for choice in architecture)


def ending(of: Any, timed: bool = False) -> dict[str, Any]:
    """Return what is known of a search at its end."""
    history = of.history
    best = history.best
    return {
        "ended": of.ended,
        "stopped": of.stopped,
        "evaluations": len(history),
        "proposals": history.proposals,
        "charged": None if timed else history.charged_seconds,
        "best": answered(best) if best is not None else None,
        "top": [written(o.architecture) for o in history.top(5)],
    }


def remembered(of: Any) -> list[str]:
    """Return the lines of a search's history, each with the number of the proposal."""
    return [f"{outcome.proposal} {answered(outcome)}" for outcome in of.history]


def concluded(of: Any) -> dict[str, Any]:
    """Return the end of a search: the winner and what it is held against, with their accuracies."""
    result = nasenv.conclude(of)
    contenders = {
        c.role: [written(c.architecture), c.text, list(c.validation_scores), list(c.test_scores), c.params]
        for c in (result.winner, *result.others)
    }
    return {**contenders, "tested": result.test_score, "ended": result.ended, "repeats": result.repeats}


def final_info(info: dict[str, Any], i: int | None = None) -> str:
    """Return what the info of an environment says of a finished architecture, number i of a vector environment."""
    keys = ("architecture", "score", "error", "evaluation", "repeat")
    said = {key: info[key] if i is None else info[key][i] for key in keys}
    accuracy = float(said["score"]) if said["error"] is None else None  # nan here, None there
    failed = "" if said["error"] is None else "f"
    return f"{written(said['architecture'])} {accuracy!r} {int(said['evaluation'])} {bool(said['repeat'])} {failed}"


def problem(setting: Setting) -> Any:
    """Return the problem, of a comparison, that a setting without an agent describes."""
    of = space(setting.space)
    measures, options = _pair(setting.evaluator)
    pays, terms = _pair(setting.objective)
    budget = nasenv.Budget(**setting.budget)
    return Problem(of, evaluator(measures, of, **options), OBJECTIVES[pays](**terms), budget)


def compare(folder: Path, settings: dict[str, Setting], names: list[str], seeds: int, workers: int) -> Path:
    """Compare agents on problems and return the file of results."""
    problems = {name: problem(setting) for name, setting in settings.items()}
    comparison = Comparison(problems, {name: AGENTS[name]() for name in names}, range(seeds), folder, None)
    with comparison.held():
        comparison.run(lambda _: None, workers, None)
        comparison.write_results(folder / "results.csv")
    return folder / "results.csv"


def compare_by_command(folder: Path, seeds: int) -> Path:
    """Compare two agents on the shipped table by the command, and return the file of results."""
    options = {
        "agents.random": "RandomSearch",
        "agents.ppo": "MaskablePPO",
        "agents.ppo.learning_rate": "0.005",
        "seeds": str(seeds),
        "budget.evaluations": "40",
        "workers": "0",
        "run_dir": str(folder),
    }
    given = [word for name, value in options.items() for word in (f"--{name}", value)]
    with contextlib.redirect_stdout(io.StringIO()):
        nasenv_command(["compare", *given])
    return folder / "results.csv"


def results(path: Path) -> list[str]:
    """Return the rows of a comparison, without seconds."""
    columns = ("problem", "agent", "seed", "evaluation", "proposal", "architecture", "reward")
    columns += ("val_score", "final_val_score", "test_score")
    with path.open(encoding="utf-8", newline="") as file:
        return [" ".join(row[c] for c in columns) for row in csv.DictReader(file)]


def drop_tail(folder: Path, keep: int, torn: bool) -> None:
    """Cut a journal as a kill leaves it: header, so many evaluations, and perhaps a part of another line."""
    path = folder / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    rest = lines[1 + keep : 2 + keep]
    path.write_bytes(b"".join(lines[: 1 + keep]) + (rest[0][:20] if torn and rest else b""))


# ---------------------------------------------------------------------------------------------------------------------
# What a case does; each returns lists of lines and plain values by name
# ---------------------------------------------------------------------------------------------------------------------

Found = dict[str, Any]


def play(setting: Setting, more: Found | None = None, stop_after: int | None = None, **evaluating: Any) -> Found:
    """Run a search and write down every answer; stop it after so many answers, cut its power as the evaluator says."""
    lines: list[str] = []
    found: Found = {"answers": lines}

    def listen(of: Any, outcome: Any) -> None:
        lines.append(answered(outcome))
        if len(lines) == stop_after:
            of.stop("asked for by the case")

    with contextlib.suppress(PowerCut), search(setting, listen, more or {}, **evaluating) as of:
        of.run()
        found["end"] = ending(of, setting.timed)
        if "finalists" in setting.budget and of.stopped is None:
            found["conclusion"] = concluded(of)
    return found


def plain(setting: Setting, folder: Path) -> Found:
    """Run a search that writes nothing."""
    return play(setting)


def quiet(setting: Setting, folder: Path) -> Found:
    """Run a search to which nobody listens, and write down its history."""
    with search(setting, None, {}) as of:
        of.run()
        return {"answers": remembered(of), "end": ending(of, setting.timed)}


def filed(setting: Setting, folder: Path) -> Found:
    """Run a search with a directory: as without; run it again there: all is replayed."""
    found = play(setting, {"run_dir": folder})
    alike(found, play(setting), "a search without a directory")
    alike(found, play(setting, {"run_dir": folder}), "the search made again on its directory")
    return found


def killed(setting: Setting, folder: Path, keeps: tuple[int, ...], torn: bool = True) -> Found:
    """Run a search, drop the tail of its journal and run it again, for each number of lines to keep.

    It goes the same way, but for an asynchronous one after what was kept: there what is known already is done first.
    """
    found = play(setting, {"run_dir": folder})
    for keep in keeps:
        drop_tail(folder, keep, torn)
        (folder / "result.json").unlink(missing_ok=True)
        again = play(setting, {"run_dir": folder})
        if setting.asynchronous:
            found[f"again after {keep}"] = again
        else:
            alike(found, again, f"the search whose journal was cut after {keep}")
    return found


def stopped(setting: Setting, folder: Path, after: int) -> Found:
    """Run a search, stopped after so many answers, and again to its end: as uninterrupted."""
    first = play(setting, {"run_dir": folder}, after)
    found = play(setting, {"run_dir": folder})
    if not setting.asynchronous:
        alike(found, play(setting), "the search that was not stopped")
    return {"stopped": first["answers"], "stopped end": first["end"], **found}


def cut(setting: Setting, folder: Path, after: int) -> Found:
    """Run a search whose power is cut after so many trainings, and again to its end."""
    first = play(setting, {"run_dir": folder}, cut_after=after)
    assert "conclusion" not in first, "the power was not cut"
    return {"cut": first["answers"], **play(setting, {"run_dir": folder})}


def resumed(setting: Setting, folder: Path, keep: int, resume: str) -> Found:
    """Run a search, drop the tail of its journal, and start it with another way to go on."""
    play(setting, {"run_dir": folder})
    drop_tail(folder, keep, torn=False)
    return play(setting, {"run_dir": folder, "resume": resume})


def shared(setting: Setting, folder: Path, other: Any) -> Found:
    """Run a search, another agent's on the same cache, and the first again: it is answered from the cache."""
    found: Found = {}
    for name, each in {"first": setting.agent, "other": other, "again": setting.agent}.items():
        cache = nasenv.Cache(folder / "cache.db")
        with contextlib.closing(cache):
            one = play(Setting(**{**vars(setting), "agent": each}), {"cache": cache})
        found |= {f"{name} {key}": value for key, value in one.items()}
    return found


def stepped(setting: Setting, folder: Path, episodes: int, envs: int = 0, registered: str | None = None) -> Found:
    """Take random actions in an environment, or in a vector of them, until so many architectures or the budget end."""
    rng, lines, seen = np.random.default_rng(setting.seed), [], hashlib.sha256()
    with contextlib.ExitStack() as opened:
        if registered is not None:
            of = space(setting.space)
            measures, options = _pair(setting.evaluator)
            pays, terms = _pair(setting.objective)
            parts = {"evaluator": evaluator(measures, of, **options), "objective": OBJECTIVES[pays](**terms)}
            parts |= {"budget": nasenv.Budget(**setting.budget)}
            env = gymnasium.make_vec(registered, envs, **parts) if envs else gymnasium.make(registered, **parts)
            opened.callback(env.close)
            inner = env.unwrapped
        else:
            made = opened.enter_context(search(setting, None, {}))
            env = inner = nasenv.ArchitectureVectorEnv(made, envs) if envs else nasenv.ArchitectureEnv(made)
        choices = inner.search.space.max_choices
        observation, info = env.reset(seed=1)
        for _ in range(episodes):
            done = False
            while not done:
                for array in (observation, info["action_mask"], inner.action_masks()):
                    seen.update(np.ascontiguousarray(array).tobytes())
                try:
                    action = rng.integers(choices, size=envs) if envs else int(rng.integers(choices))
                    observation, reward, ends, truncated, info = env.step(action)
                except nasenv.BudgetExhausted as error:
                    return {"answers": lines, "seen": seen.hexdigest(), "over": str(error), "end": ending(inner.search)}
                done = bool(np.all(ends))
                seen.update(np.asarray([reward, ends, truncated], dtype=np.float64).tobytes())
            said = info["final_info"] if envs else info
            for i in range(envs or 1):
                paid = float(np.ravel(reward)[i])
                lines.append(f"{final_info(said, i if envs else None)} {paid!r} {seen.hexdigest()[:8]}")
            if not envs:
                observation, info = env.reset()
        return {"answers": lines, "seen": seen.hexdigest(), "end": ending(inner.search)}


def compared(setting: Setting, folder: Path, names: list[str], workers: int = 0) -> Found:
    """Compare agents on two seeds of a problem."""
    return {"rows": results(compare(folder, {"problem": setting}, names, 2, workers))}


def commanded(setting: Setting, folder: Path) -> Found:
    """Compare two agents on two seeds by ``nasenv compare``."""
    return {"rows": results(compare_by_command(folder, 2))}


def drawn(setting: Setting, folder: Path) -> Found:
    """Write down what a space draws, mutates, takes for equal and says in words."""
    of, rng = space(setting.space), np.random.default_rng(setting.seed)
    lines = []
    for each in of.sample(40, rng):
        other = of.mutate(each, rng)
        lines.append(f"{written(each)} {written(of.canonical(each))} {written(other)} {of.to_text(other)}")
        if of.from_text(of.to_text(other)) != tuple(other):
            lines.append("another architecture is read from this text")
    reference = of.reference()
    return {"lines": lines, "size": of.size, "reference": written(reference) if reference is not None else None}


def alike(one: Found, other: Found, which: str) -> None:
    """Raise AssertionError where two searches that are to be the same differ."""
    found = difference(one, other)
    assert found is None, f"{which} differs: {found}"


# ---------------------------------------------------------------------------------------------------------------------
# The cases
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """What is done, with which setting and options, and whether the short form does it too."""

    do: Callable[..., Found]
    setting: Setting
    options: dict[str, Any] = field(default_factory=dict)
    short: bool = False


TABLE = {"space": "shipped", "evaluator": "table"}
FAILING = ("formula", {"failing": 0.2})
PAID = ("formula", {"failing": 0.1, "trains": True})
AT_ONCE = ("formula", {"failing": 0.1, "trains": True, "slots": 3})
FEW_REPEATS = {"repeats_per_evaluation": 3}  # agents that collapse take long over more
PROBLEMS: dict[str, dict[str, Any]] = {  # what every agent is run on
    "table": {**TABLE, "budget": {**FEW_REPEATS, "evaluations": 120}},
    "synthetic": {
        "space": "synthetic",
        "evaluator": ("synthetic", {"seed": 3}),
        "budget": {**FEW_REPEATS, "evaluations": 64},
    },
    "choices": {"space": "choices", "evaluator": "formula", "budget": {**FEW_REPEATS, "evaluations": 72}},
    "nas201": {"space": "nas201", "evaluator": "formula", "budget": {**FEW_REPEATS, "evaluations": 80}},
    "macro": {"space": "macro", "evaluator": "formula", "budget": {**FEW_REPEATS, "evaluations": 60}},
    "failing": {
        "space": "chains",
        "evaluator": FAILING,
        "objective": ("accuracy", {"failure_reward": -1.0}),
        "budget": {**FEW_REPEATS, "evaluations": 48},
    },
}
QUICK = ("random", "evolution", "evolution_small", "local_search", "local_search_best", "reinforce", "ppo")
SHORT = {  # agents that the short form runs on a problem
    "table": (*QUICK, "q_learning", "tpe", "a2c"),
    "choices": (*QUICK, "lstm_reinforce", "q_learning", "tpe", "maskable_ppo", "model_assisted_ppo"),
    "failing": ("evolution", "q_learning", "maskable_ppo"),
}
ASYNCHRONOUS = ("random", "evolution", "local_search", "tpe", "gaussian_process")
EACH_KIND = ("random", "evolution", "local_search", "q_learning", "maskable_ppo")  # one agent of each sort
SMALL = {"evaluations": 30, "finalists": 3, "final_seeds": 2}
TRAINED = {"evaluations": 6, "finalists": 2, "final_seeds": 2}
DIGITS = ("digits", {"concurrency": 0})
WORKERS = ("digits", {"concurrency": 2})


def cases() -> dict[str, Case]:
    """Return all cases by name."""
    made: dict[str, Case] = {}

    def add(name: str, do: Callable[..., Found], short: bool = False, options: Any = None, **setting: Any) -> None:
        setting.setdefault("agent", None)
        made[name] = Case(do, Setting(**setting), options or {}, short)

    for at, parts in PROBLEMS.items():
        for agent in AGENTS:
            add(f"{at}/{agent}", plain, agent in SHORT.get(at, ()), agent=agent, **parts)
    for agent in ("gaussian_process", "model_assisted_ppo", "evolution", "ppo"):
        add(f"graph/{agent}", plain, space="graph", evaluator="formula", agent=agent, budget={"evaluations": 40})
    for name in SPACES:
        add(f"space/{name}", drawn, True, space=name, evaluator="formula")

    # Objectives, budgets and starts
    within = ("within", {"metric": "params", "target": 6000.0, "exponent": -0.5})
    budgets: dict[str, dict[str, Any]] = {
        "charge_repeats": {"evaluations": 60, "charge_repeats": True},
        "charged_seconds": {"evaluations": None, "charged_seconds": 25.0},
        "charged_repeats": {"evaluations": None, "charged_seconds": 25.0, "charge_repeats": True},
        "target_reward": {**FEW_REPEATS, "evaluations": 100, "target_reward": 0.94},
    }
    for agent in EACH_KIND:
        costly = {**TABLE, "objective": within, "budget": {"evaluations": 60}}
        add(f"within/{agent}", plain, agent == "evolution", agent=agent, **costly)
        add(f"start/{agent}", plain, True, agent=agent, start=9, budget={"evaluations": 40}, **TABLE)
        add(f"quiet/{agent}", quiet, True, agent=agent, budget={"evaluations": 60}, **TABLE)
        tiny = {"space": "tiny", "evaluator": "formula", "agent": agent}
        add(f"exhausted/{agent}", plain, True, budget={"evaluations": 100, "repeats_per_evaluation": 2}, **tiny)
        for name, budget in budgets.items():
            add(f"{name}/{agent}", plain, agent == "local_search", agent=agent, budget=budget, **TABLE)
    alone = ("table", {"canonical": True})
    add("canonical/table", plain, True, agent="evolution", budget=SMALL, space="shipped", evaluator=alone)
    noisy = ("synthetic", {"seed": 1, "order": 2, "noise": 0.1})
    add("noise/evolution", plain, space="synthetic", evaluator=noisy, agent="evolution", budget={"evaluations": 60})

    # Directories, kills, stops
    paid = {"space": "chains", "evaluator": PAID, "budget": SMALL}
    for agent in (*EACH_KIND, "tpe", "gaussian_process", "lstm_reinforce", "model_assisted_ppo", "a2c"):
        short = agent in ("evolution", "maskable_ppo")
        add(f"killed/{agent}", killed, short, {"keeps": (17, 1)}, agent=agent, **paid)
    for agent in EACH_KIND:
        add(f"stopped/{agent}", stopped, agent == "random", {"after": 11}, agent=agent, **paid)
        add(f"continue/{agent}", resumed, agent == "random", {"keep": 12, "resume": "continue"}, agent=agent, **paid)
        add(f"conclude/{agent}", resumed, agent == "random", {"keep": 12, "resume": "conclude"}, agent=agent, **paid)
        add(f"cache/{agent}", shared, agent == "evolution", {"other": "random"}, agent=agent, **paid)
    for agent in ("random", "evolution", "maskable_ppo"):
        add(f"cut/{agent}", cut, agent == "evolution", {"after": 13}, agent=agent, **paid)
    for agent in ("random", "maskable_ppo"):
        add(f"filed/{agent}", filed, agent == "random", agent=agent, budget=SMALL, **TABLE)
    add("killed/start", killed, False, {"keeps": (14, 3)}, agent="evolution", start=6, **paid)
    add("cut/end", cut, True, {"after": 34}, agent="random", **paid)  # in the final trainings

    # Asynchronous searches
    busy = {"space": "chains", "evaluator": AT_ONCE, "budget": SMALL}
    for agent in ASYNCHRONOUS:
        own = (agent, {"asynchronous": True})
        add(f"asynchronous/{agent}", plain, agent != "gaussian_process", agent=own, **busy)
        add(f"asynchronous/{agent}/start", plain, agent=own, start=5, **busy)
        add(f"asynchronous/{agent}/killed", killed, agent == "evolution", {"keeps": (15,)}, agent=own, **busy)
        add(f"asynchronous/{agent}/stopped", stopped, agent == "random", {"after": 10}, agent=own, **busy)
        add(f"asynchronous/{agent}/cut", cut, agent == "local_search", {"after": 12}, agent=own, **busy)
        add(f"asynchronous/{agent}/continue", resumed, options={"keep": 9, "resume": "continue"}, agent=own, **busy)
        add(f"asynchronous/{agent}/one", plain, agent=own, budget={"evaluations": 40}, **TABLE)
        masked = {"space": "choices", "evaluator": AT_ONCE, "agent": own}
        add(f"asynchronous/{agent}/masked", plain, budget={"evaluations": None, "charged_seconds": 90.0}, **masked)

    # Trainings on digits
    for agent in ("random", "evolution", "maskable_ppo"):
        trained = {"space": "chains", "agent": agent, "budget": TRAINED}
        add(f"digits/{agent}", plain, agent == "evolution", evaluator=DIGITS, **trained)
        if agent != "random":
            add(f"digits/{agent}/workers", plain, evaluator=WORKERS, **trained)
    trained = {"space": "chains", "agent": "evolution", "budget": TRAINED}
    add("digits/killed", killed, options={"keeps": (3,)}, evaluator=DIGITS, **trained)
    own = {"space": "choices", "agent": "random", "budget": TRAINED}
    add("digits/choices", plain, evaluator=DIGITS, **own)
    add("digits/choices/workers", plain, evaluator=WORKERS, **own)
    crops = ("digits", {"concurrency": 0, "optimizer": "sgd", "augment": "crop", "label_smoothing": 0.1, "seed": 4})
    for name in ("nas201", "macro"):
        few = {"evaluations": 4, "finalists": 1, "final_seeds": 1}
        add(f"digits/{name}", plain, space=name, evaluator=crops, agent="random", budget=few)

    # Environments
    for name in ("chains", "choices", "nas201", "macro"):
        parts = {"space": name, "evaluator": FAILING, "budget": {"evaluations": None}}
        add(f"env/{name}", stepped, True, {"episodes": 30}, **parts)
        add(f"vector/{name}", stepped, True, {"episodes": 10, "envs": 5}, **parts)
    limited = {"evaluator": FAILING, "budget": {"evaluations": 12}}
    of_id = {"chains": "nasenv/ChainCNN-v0", "nas201": "nasenv/NASBench201-v0", "macro": "nasenv/NASBenchMacro-v0"}
    for name, registered in of_id.items():
        made_by = {"registered": registered}
        add(f"make/{name}", stepped, True, {"episodes": 30, **made_by}, space=name, **limited)
        add(f"make_vec/{name}", stepped, True, {"episodes": 10, "envs": 5, **made_by}, space=name, **limited)

    # Comparisons
    on_table = {**TABLE, "budget": {"evaluations": 40}}
    add("compare/table", compared, True, {"names": ["evolution", "maskable_ppo"]}, **on_table)
    add("compare/workers", compared, False, {"names": ["random", "tpe"], "workers": 2}, **on_table)
    trains = {"space": "chains", "evaluator": PAID, "budget": SMALL}
    add("compare/trains", compared, False, {"names": ["random", "q_learning"]}, **trains)
    add("compare/command", commanded, False, **TABLE)
    return made


# ---------------------------------------------------------------------------------------------------------------------
# Comparing and writing
# ---------------------------------------------------------------------------------------------------------------------


def made_with() -> dict[str, str]:
    """Return what floating-point numbers may depend on."""
    versions = {m.__name__: m.__version__ for m in (np, torch, sb3_contrib)}
    return {"python": platform.python_version(), "machine": platform.machine(), "processor": _processor(), **versions}


def _processor() -> str:
    """Return what processor this is, as far as it can be told: kernels are chosen by it."""
    told = [torch.backends.cpu.get_cpu_capability()]
    with contextlib.suppress(OSError):  # not Linux
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
        known = dict(map(str.strip, line.split(":", 1)) for line in lines if ":" in line)
        told += [known[name] for name in ("model name", "cpu family", "model", "stepping") if name in known]
    return ", ".join(told)


def record(name: str) -> Found:
    """Run a case and return what it found, as JSON gives it back."""
    case = cases()[name]
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        return json.loads(json.dumps(case.do(case.setting, Path(folder), **case.options)))


def known() -> dict[str, Any]:
    """Return the record: ``made_with`` and ``cases``."""
    return json.loads(gzip.decompress(RECORD.read_bytes()))


def write(found: dict[str, Found]) -> None:
    """Write the record, the same bytes for the same cases."""
    text = json.dumps({"made_with": made_with(), "cases": dict(sorted(found.items()))}, indent=0)
    RECORD.write_bytes(gzip.compress(text.encode(), mtime=0))


def difference(expected: Any, found: Any, where: str = "") -> str | None:
    """Return where two findings differ first, and how; None where they are the same."""
    if isinstance(expected, dict) and isinstance(found, dict):
        parts: Iterator[tuple[Any, Any, Any]] = (
            (k, expected.get(k, "nothing"), found.get(k, "nothing")) for k in dict.fromkeys([*expected, *found])
        )
    elif isinstance(expected, list) and isinstance(found, list):
        parts = zip(range(1, 1 + min(len(expected), len(found))), expected, found, strict=False)
        for number, one, other in parts:
            if (differs := difference(one, other, f"{where} {number}")) is not None:
                return differs
        same = len(expected) == len(found)
        return None if same else f"{where.strip()}: {len(expected)} lines expected, {len(found)} found"
    else:
        return None if expected == found else f"{where.strip()}: expected {expected!r}, found {found!r}"
    differing = (difference(one, other, f"{where} {key}") for key, one, other in parts)
    return next((differs for differs in differing if differs is not None), None)


def check(name: str, expected: Found | None) -> str | None:
    """Run a case and return the first difference from the record, None where there is none."""
    if expected is None:
        return "is not in the record; write it"
    try:
        return difference(expected, record(name))
    except Exception as error:  # another case may do better
        return f"raised {type(error).__name__}: {error}"


def _timed(name: str) -> tuple[str, Found | str, float]:
    """Return a case's name, what it found or why it found nothing, and its seconds on a processor."""
    began = _processor_seconds()
    try:
        found: Found | str = record(name)
    except Exception as error:  # another case may do better
        found = f"raised {type(error).__name__}: {error}"
    return name, found, _processor_seconds() - began


def _processor_seconds() -> float:
    """Return the processor time of this process and its ended children: a busy machine changes it little."""
    return sum(os.times()[:4])


def _found(names: list[str], processes: int) -> Iterator[tuple[str, Found | str, float]]:
    """Yield what cases find, in this process or in several."""
    if processes == 1:
        yield from map(_timed, names)
        return
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        yield from pool.map(_timed, names)


def main() -> int:
    """Compare or write, as the command line says; return 1 where a case differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="cases, or beginnings of their names; the short form by default")
    parser.add_argument("--all", action="store_true", help="every case")
    parser.add_argument("--layered", action="store_true", help="with a layer that only gives on, which changes nothing")
    parser.add_argument("--write", action="store_true", help="write the record, of all cases or, added, of those named")
    parser.add_argument("--list", action="store_true", help="list the cases and stop")
    parser.add_argument("-j", "--processes", type=int, default=1)
    parser.add_argument("-v", "--verbose", action="store_true", help="say of each case how long it took")
    options = parser.parse_args()
    os.environ[LAYERS] = str(int(options.layered))
    everything = cases()
    named = [n for n in everything if any(n.startswith(begin) for begin in options.names)]
    short = [n for n, case in everything.items() if case.short]
    whole = options.all or (options.write and not options.names)
    names = named if options.names else list(everything) if whole else short
    if options.list:
        print(*(f"{name}{' (short)' if everything[name].short else ''}" for name in everything), sep="\n")
        return 0
    began, worked, differing, kept = time.perf_counter(), 0.0, 0, {}
    expected = known() if RECORD.exists() else {"made_with": {}, "cases": {}}
    for name, found, seconds in _found(names, options.processes):
        differs = found if isinstance(found, str) else None
        if not options.write and differs is None:
            before = expected["cases"].get(name)
            differs = "is not in the record; write it" if before is None else difference(before, found)
        kept[name] = found
        worked += seconds
        differing += differs is not None
        if differs is not None or options.verbose:
            print(f"{name}  {seconds:.1f} s  {differs or 'the same'}", flush=True)
    if options.write and not differing:
        write({**expected["cases"], **kept} if options.names else kept)
    gone = sorted(expected["cases"].keys() - everything.keys())
    if whole and gone and not options.write:
        differing += len(gone)
        print(f"in the record, but no case any more: {', '.join(gone)}")
    if differing and expected["made_with"] not in ({}, made_with()):
        print(f"the record was made with {expected['made_with']}, this is {made_with()}: numbers may differ")
    did = "written" if options.write and not differing else "compared"
    took = f"{worked:.0f} s on a processor, {time.perf_counter() - began:.0f} s in all"
    print(f"{len(names)} cases {did}, {differing} differ or failed, {took}")
    return 1 if differing else 0


if __name__ == "__main__":
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
    from tests.golden import golden  # by its name, so that worker processes find its classes

    sys.exit(golden.main())
