"""Measures how busy a driver keeps a thousand slots of a Ray cluster, and what a second node gains in training.

The load is simulated: an evaluation sleeps. Few actors with many threads each stand for the slots, so that one machine
will do. Sleeps are scaled down, which makes the driver's work per second so many times what it is with evaluations of
60 s. A round is one sleep of all slots; an agent that proposes in batches has slots that are given nothing where it
repeats itself. What a round takes beside the sleep is measured, and the share of a slot's time in which it is idle is
told for both lengths of a sleep. Sleeps that are too short measure how fast this machine is, as driver and slots share
its cores: the driver's CPU and the slots' are to be well below the sleep over the slots.

Then architectures are trained on one node of one core and on two, all on this machine, which needs two cores that are
idle.
"""

import argparse
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from ray.cluster_utils import Cluster

from nasenv import Budget, ChainCNN, Evaluator, Measurement, RayEvaluator, Search, TrainingEvaluator
from nasenv.agents import PPO, Agent, RandomSearch, RegularizedEvolution
from nasenv.evaluators.evaluator import never
from nasenv.trial import Trial
from scripts.benchmarks.bench import at_least, goal, run, shown, spread, table

GOAL_IDLE = 0.05  # of the time of a slot
GOAL_NODES = 1.8  # times the rate of one node
_EVALUATION_SECONDS = 60.0
_STORE = 80 * 2**20  # bytes of a node's object store
_PARTS = 5  # of a search, of which each is told apart
_BY_PART = "cpu_ms", "cpu_ms_a_proposal", "kib"

AGENTS: dict[str, Callable[[int], Agent]] = {
    "RandomSearch": lambda slots: RandomSearch(asynchronous=True),
    "RegularizedEvolution": lambda slots: RegularizedEvolution(asynchronous=True),
    "PPO": lambda slots: PPO(num_envs=slots),
}


class Sleeping(Evaluator):
    """Sleeps some seconds over each architecture, and scores it by the share of its choices that are 1."""

    def __init__(self, space: ChainCNN, seconds: float) -> None:
        super().__init__(space)
        self.seconds = seconds

    def fingerprint(self) -> str:
        """Return a name."""
        return "sleeping"

    def measure(self, trials: Sequence[Trial]) -> list[Measurement]:
        """Sleep over each trial, and return its score."""
        time.sleep(self.seconds * len(trials))
        architectures = [trial.architecture for trial in trials]
        return [Measurement(a.count(1) / len(a), train_seconds=self.seconds) for a in architectures]


class Crowded(RayEvaluator):
    """Runs a hundred evaluations in each worker."""

    at_once = 100
    batches = 0  # of at most as many trials as there are slots, that were asked for together

    def completed(self, stopped: Callable[[], bool] = never) -> Iterator[tuple[Trial, Measurement]]:
        """Count the batch; an asynchronous search has but one, as its trials come while others are completed."""
        self.batches += -(-len(self._submitted) // self.slots)
        return super().completed(stopped)


class Watch:
    """Records, as a listener, wall and CPU seconds, memory in bytes and proposals, by part of a search."""

    def __init__(self, evaluations: int) -> None:
        self._every = evaluations // _PARTS
        self.start()

    def __call__(self, search: Search, outcome: Any) -> None:
        """Record the end of a part."""
        if not outcome.repeat and outcome.evaluation % self._every == 0:
            self.seen.append(self._now(search.history.proposals))

    def start(self) -> None:
        """Start the first part."""
        self.seen = [self._now()]

    def parts(self) -> list[dict[str, float]]:
        """Return for each part its wall and CPU seconds, its growth of memory in bytes, and its proposals."""
        return [
            dict(zip(("wall", "cpu", "bytes", "proposals"), np.subtract(now, then).tolist(), strict=True))
            for then, now in zip(self.seen, self.seen[1:], strict=False)
        ]

    @staticmethod
    def _now(proposals: int = 0) -> tuple[float, float, float, int]:
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0
        return time.perf_counter(), time.process_time(), memory, proposals


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Print the tables and return the figures."""
    loads = {agent: _load(agent, arguments) for agent in arguments.agents}
    tables, goals = [_load_table(loads, arguments)], [_idle_goal(agent, load) for agent, load in loads.items()]
    nodes = {}
    if arguments.rounds:
        nodes = _nodes(arguments.architectures, arguments.rounds)
        rows = [[name, shown(spread(seconds))] for name, seconds in nodes["seconds"].items()]
        tables.append(table(f"seconds for {arguments.architectures} trainings on digits", ["nodes", "seconds"], rows))
        ratio = spread(nodes["ratios"])["median"]
        goals.append(goal("two nodes of one core against one", ratio, ratio >= GOAL_NODES, asked=">= 1.8 times"))
    return {"loads": loads, "nodes": nodes, "tables": tables, "goals": goals}


def _load(agent: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what a search on so many slots took, and how long and how often slots were idle."""
    space, slots = ChainCNN(max_layers=8), arguments.slots
    watch = Watch(arguments.evaluations)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": _STORE})
    evaluator = Crowded(space, Sleeping(space, arguments.seconds), cluster.address, cpus_per_evaluation=1 / slots)
    budget, proposing = Budget(arguments.evaluations), AGENTS[agent](slots)
    try:
        with Search(space, evaluator, proposing, budget, callbacks=[watch]) as search:
            evaluator.start(slots)
            watch.start()
            search.run()
            slept = len(search.history) - search.history.cached  # the same network is evaluated once
    finally:
        cluster.shutdown()
    parts = watch.parts()
    wall = sum(part["wall"] for part in parts)
    rounds = slept / slots if proposing.asynchronous else evaluator.batches
    beside, given = wall / rounds - arguments.seconds, slept / slots / rounds
    return {
        "wall_seconds": wall,
        "waited_seconds": beside,
        "given_nothing": 1.0 - given,
        "idle_scaled": _idle(arguments.seconds, beside, given),
        "idle": _idle(_EVALUATION_SECONDS, beside, given),
        "idle_full": _idle(_EVALUATION_SECONDS, beside, 1.0),
        "cpu_ms": [1000 * _PARTS * part["cpu"] / arguments.evaluations for part in parts],
        "cpu_ms_a_proposal": [1000 * part["cpu"] / part["proposals"] for part in parts],
        "kib": [_PARTS * part["bytes"] / 1024 / arguments.evaluations for part in parts],
    }


def _idle(seconds: float, beside: float, given: float) -> float:
    """Return the share of the slots' time without an evaluation, where that share of them is given one in a round."""
    return 1.0 - given * seconds / (seconds + beside)


def _load_table(loads: dict[str, dict[str, Any]], arguments: argparse.Namespace) -> dict[str, Any]:
    heads = [
        *("agent", "wall s", "a round beside its sleep, s", "slots given nothing"),
        *(f"idle at {arguments.seconds:g} s", "idle at 60 s", "the same, were all given one"),
        *("driver's CPU, ms an evaluation, by fifth", "ms a proposal", "memory, KiB an evaluation, by fifth"),
    ]
    rows = [
        [
            *(agent, f"{load['wall_seconds']:.0f}", f"{load['waited_seconds']:.3f}", f"{load['given_nothing']:.2%}"),
            *(f"{load['idle_scaled']:.1%}", f"{load['idle']:.2%}", f"{load['idle_full']:.2%}"),
            *(" ".join(f"{value:.2f}" for value in load[name]) for name in _BY_PART),
        ]
        for agent, load in loads.items()
    ]
    title = f"{arguments.evaluations:,} evaluations of {arguments.seconds:g} s on {arguments.slots:,} slots"
    return table(title, heads, rows)


def _idle_goal(agent: str, load: dict[str, Any]) -> dict[str, Any]:
    what = f"{agent}: slots idle with evaluations of 60 s"
    return goal(what, load["idle"], load["idle"] < GOAL_IDLE, ".2%", "< 5 %")


def _nodes(architectures: int, rounds: int) -> dict[str, Any]:
    """Return the seconds of the same trainings on one node and on two, and their ratios, round by round."""
    space = ChainCNN()
    asked = [Trial(architecture) for architecture in space.sample(architectures, np.random.default_rng(0))]
    seconds: dict[str, list[float]] = {"one": [], "two": []}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": _STORE})
    node = {"num_cpus": 1, "object_store_memory": _STORE}
    cluster.add_node(**node)
    try:
        for _ in range(rounds):
            seconds["one"].append(_trained(space, asked, cluster.address, 1))
            second = cluster.add_node(**node)
            seconds["two"].append(_trained(space, asked, cluster.address, 2))
            cluster.remove_node(second)
    finally:
        cluster.shutdown()
    ratios = [one / two for one, two in zip(seconds["one"], seconds["two"], strict=True)]
    return {"seconds": seconds, "ratios": ratios}


def _trained(space: ChainCNN, architectures: Sequence[Trial], address: str, slots: int) -> float:
    """Return the seconds of trainings whose workers are ready, and have trained before."""
    with RayEvaluator(space, TrainingEvaluator(space, devices="cpu"), address) as evaluator:
        evaluator.start(slots)
        evaluator.measure(architectures[: 2 * slots])
        began = time.perf_counter()
        evaluator.measure(architectures)
        return time.perf_counter() - began


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--agents", nargs="+", choices=AGENTS, default=[*AGENTS])
    parser.add_argument("--slots", type=at_least(100), default=1000, help="a multiple of 100")
    parser.add_argument("--evaluations", type=at_least(_PARTS), default=100_000)
    parser.add_argument("--seconds", type=float, default=5.0, help="that an evaluation sleeps instead of 60")
    parser.add_argument("--architectures", type=at_least(4), default=48, help="trained on one node and on two")
    parser.add_argument("--rounds", type=at_least(0), default=3, help="of those trainings")
    run(parser, measure)
