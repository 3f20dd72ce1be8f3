"""Walks randomly through every space, and checks masks, the meaning of architectures, and their networks.

A walk takes T actions: most are drawn from the valid choices, one in four is any integer, which is redirected. Of every
architecture that a walk ends at, validity, canonical form and text are checked, of some all neighbours. A choice that a
mask forbids is put into the architecture in place of the one taken, with some of the later ones drawn anew: the space's
rule (see cases.py) must refuse the outcome. Small spaces are listed as a whole and compared with what the rule allows.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from nasenv import Architecture
from scripts.benchmarks.bench import goal, table
from scripts.soak.cases import Case, Rows, cases

_BUILT = 500  # sequences for each network that is trained
_AT_ONCE = 4096  # sequences walked side by side
_LISTED = 2_000_000  # architectures, or rows of choices, of a space that is compared with its rule as a whole
_ONE_IN = 256  # walks of which all neighbours are looked at
_FORBIDDEN = 256  # forbidden choices that are tried after each decision of the walks
_REDRAWN = 4  # decisions after a forbidden choice that are drawn anew, at most
_SHOWN = 20  # failures of a space that are told one by one


def soak(sequences: int, seed: int) -> dict[str, Any]:
    """Walk so many sequences over all spaces, print a table and every failure, and return the figures."""
    torch.set_num_threads(1)
    every = cases()
    walks = iter(_shares(sequences, len(every)))
    networks = iter(_shares(sequences // _BUILT, sum(case.builds for case in every)))
    spaces = {c.name: soak_case(c, next(walks), next(networks) if c.builds else 0, seed) for c in every}
    rows = [
        [name, f"{f['size']:.3g}", f"{f['sequences']}", f"{f['sequences'] / max(1e-9, f['walk_seconds']):.0f}",
         f"{f['built']}", f"{f['failed']}"]
        for name, f in spaces.items()
    ]  # fmt: skip
    table("random walks", ["space", "architectures", "sequences", "a second", "networks trained", "failed"], rows)
    print(*(reason for f in spaces.values() for reason in f["failures"]), sep="\n")
    totals = {key: sum(f[key] for f in spaces.values()) for key in ("sequences", "built", "failed")}
    goals = [goal("random walks and networks: none failed", totals["failed"], not totals["failed"], "d")]
    return {**totals, "spaces": spaces, "goals": goals, "lost": totals["failed"]}


def _shares(total: int, parts: int) -> list[int]:
    """Return n integers that differ by one at most, with this sum."""
    shares: list[int] = np.diff(np.linspace(0, total, parts + 1).astype(int)).tolist()
    return shares


def soak_case(case: Case, sequences: int, builds: int, seed: int = 0) -> dict[str, Any]:
    """Return the figures of one space; each entry of ``failures`` names the space, the seed and the architecture."""
    rng = np.random.default_rng([seed, *case.name.encode()])
    reasons = _told(_check_listed, case)
    walking = time.perf_counter()
    for n in np.diff([*range(0, sequences, _AT_ONCE), sequences]).tolist():
        reasons += _told(_check_walks, case, n, rng)
    walked = time.perf_counter()
    for architecture in case.space.sample(builds, rng):
        reasons += _told(_check_network, case, architecture)
    return {
        "size": case.space.size,
        "sequences": sequences,
        "walk_seconds": walked - walking,
        "built": builds,
        "failed": len(reasons),
        "failures": [f"{case.name}, seed {seed}: {reason}" for reason in reasons[:_SHOWN]],
    }


def _told(check: Callable[..., Iterator[str]], *arguments: Any) -> list[str]:
    """Return the failures that a check yields; an exception is one more."""
    reasons: list[str] = []
    try:
        reasons.extend(check(*arguments))
    except Exception as error:  # spaces may raise anything; what is wrong is to be told with the others
        about = f" ({arguments[1]})" if check is _check_network else ""
        reasons.append(f"{check.__name__}{about} raised {type(error).__name__}: {error}")
    return reasons


def _check_listed(case: Case) -> Iterator[str]:
    """Compare all architectures of a small space with its rule, and their number with ``size``."""
    space = case.space
    if space.size is None or space.size > _LISTED:
        return
    architectures = space.all_architectures()
    if len(architectures) != space.size:
        yield f"size is {space.size}, but {len(architectures)} architectures are listed"
    yield from _refused(case, architectures)
    if np.prod(space.num_choices) <= _LISTED:
        rows = np.indices(space.num_choices).reshape(space.num_decisions, -1).T
        if not np.array_equal(rows[case.rule(space, rows)], architectures):
            yield "the architectures listed are not those that the rule allows"


def _refused(case: Case, rows: Rows) -> Iterator[str]:
    for row in rows[~case.rule(case.space, rows)]:
        yield f"{tuple(row.tolist())} can be reached, but is against the rule"


def _check_walks(case: Case, n: int, rng: np.random.Generator) -> Iterator[str]:
    actions, rows, masks = _walk(case, n, rng)
    yield from _refused(case, rows)
    for t, mask in enumerate(masks):
        if not mask.any(axis=1).all() or mask[:, case.space.num_choices[t] :].any():
            yield f"decision {t} has a prefix without a valid choice, or with one that it does not have"
        yield from _check_forbidden(case, rows, t, mask, rng)
    architectures = case.space.check_all(rows)
    if case.space.complete(actions) != architectures:
        yield "complete leads elsewhere than redirect, step by step"
    yield from _check_meaning(case, architectures)
    for architecture in architectures[::_ONE_IN]:
        yield from _check_around(case, architecture, rng)


def _walk(case: Case, n: int, rng: np.random.Generator) -> tuple[Rows, Rows, list[NDArray[np.bool_]]]:
    """Return the actions of n walks, (n, T), the choices that they mean, (n, T), and the T masks, (n, C)."""
    space = case.space
    actions, rows, masks = np.zeros((n, space.num_decisions), int), np.zeros((n, space.num_decisions), int), []
    for t in range(space.num_decisions):
        mask = space.mask(rows[:, :t])
        drawn = np.where(mask, rng.random(mask.shape), -1.0).argmax(axis=1)
        actions[:, t] = np.where(rng.random(n) < 0.25, rng.integers(-9, 99, n), drawn)
        rows[:, t] = _meant(mask, actions[:, t])
        masks.append(mask)
    return actions, rows, masks


def _meant(mask: NDArray[np.bool_], actions: Rows) -> Rows:
    """Return the choices that actions (n,) stand for under masks (n, C)."""
    every = np.arange(mask.shape[1])
    itself = (every == actions[:, None]) & mask
    ordinal = mask.cumsum(axis=1) - 1
    redirected = (ordinal == (actions % mask.sum(axis=1))[:, None]) & mask
    meant: Rows = np.where(itself.any(axis=1, keepdims=True), itself, redirected).argmax(axis=1)
    return meant


def _check_forbidden(
    case: Case, rows: Rows, t: int, mask: NDArray[np.bool_], rng: np.random.Generator
) -> Iterator[str]:
    where, choices = np.nonzero(~mask[:, : case.space.num_choices[t]])
    if not len(where):
        return
    some = rng.integers(len(where), size=_FORBIDDEN)
    tried = rows[where[some]]
    tried[:, t] = choices[some]
    drawn = rng.integers(case.space.num_choices, size=tried.shape)
    later = np.arange(tried.shape[1]) - t
    anew = (later > 0) & (later <= rng.integers(_REDRAWN + 1, size=(len(tried), 1)))
    tried = np.where(anew, drawn, tried)
    for row in tried[case.rule(case.space, tried)]:
        yield f"choice {row[t]} of decision {t} is forbidden, but {tuple(row.tolist())} keeps the rule"


def _check_meaning(case: Case, architectures: list[Architecture]) -> Iterator[str]:
    space = case.space
    distinct = list(dict.fromkeys(architectures))
    representatives = space.check_all([space.canonical(architecture) for architecture in distinct])
    texts = [space.to_text(architecture) for architecture in distinct]
    if len(set(texts)) < len(distinct):
        yield "two architectures have one text"
    for architecture, same, text in zip(distinct, representatives, texts, strict=True):
        if space.canonical(same) != same:
            yield f"{architecture}: the canonical form {same} is not its own"
        if space.from_text(text) != architecture or not text.isprintable():
            yield f"{architecture}: the text {text!r} reads as {space.from_text(text)}"


def _check_around(case: Case, architecture: Architecture, rng: np.random.Generator) -> Iterator[str]:
    space = case.space
    neighbours = space.check_all(space.neighbours(architecture))
    if len(set(neighbours) - {architecture}) != len(neighbours):
        yield f"{architecture}: a neighbour stands twice, or is the architecture itself"
    if space.check(space.mutate(architecture, rng)) not in (neighbours or [architecture]):
        yield f"{architecture}: a mutation is no neighbour"
    diagram = space.diagram(architecture[: rng.integers(len(architecture) + 1)])
    if not all(0 <= a < b < len(diagram.nodes) for a, b, _ in diagram.edges):
        yield f"{architecture}: a diagram's arrows do not go forward between its boxes"


def _check_network(case: Case, architecture: Architecture) -> Iterator[str]:
    """Train a network for one step and run it; its representative's must be the same network."""
    space = case.space
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(3, *space.task.shape, generator=generator)
    classes = torch.randint(space.task.outputs, (3,), generator=generator)
    network = space.build(architecture)
    optimizer = torch.optim.SGD(network.parameters(), 0.01)
    nn.functional.cross_entropy(network(inputs), classes).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    with torch.no_grad():
        logits = network.eval()(inputs)
        if logits.shape != (3, space.task.outputs) or not logits.isfinite().all():
            yield f"{architecture}: the output after one step is {logits}"
        if case.merges:
            same = space.build(space.canonical(architecture)).eval()
            same.load_state_dict(dict(zip(same.state_dict(), network.state_dict().values(), strict=True)))
            if not torch.allclose(same(inputs), logits, atol=1e-5):
                yield f"{architecture}: its representative is another network"
