"""NAS-Bench-Graph: graph neural networks of four nodes, looked up in the authors' measurements and not built here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from itertools import permutations
from operator import itemgetter
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from nasenv.errors import InputError
from nasenv.spaces.space import Decision, Diagram, SearchSpace
from nasenv.task import Task
from nasenv.trial import Architecture

LINKS = (  # the node that nodes 1 to 4 read, 0 being the input: all trees of four nodes below a root
    (0, 0, 0, 0),
    (0, 0, 0, 1),
    (0, 0, 1, 1),
    (0, 0, 1, 2),
    (0, 0, 1, 3),
    (0, 1, 1, 1),
    (0, 1, 1, 2),
    (0, 1, 2, 2),
    (0, 1, 2, 3),
)
OPERATIONS = ("gat", "gcn", "gin", "cheb", "sage", "arma", "graph", "fc", "skip")


class NASBenchGraph(SearchSpace):
    """Search space of the 26,206 networks of NAS-Bench-Graph (Qin et al. 2022, https://arxiv.org/abs/2206.09166).

    A network has four nodes. Each reads the input or one earlier node; the nodes that no other reads make the output.

    ========  ====================================  ==================================================================
    step      decision                              choices
    ========  ====================================  ==================================================================
    0         ``links``: what nodes 1 to 4 read     0000, 0001, 0011, 0012, 0013, 0111, 0112, 0122, 0123; 0 is the
                                                    input, so 0112: node 1 reads it, 2 and 3 read 1, 4 reads 2
    1 to 4    ``node1`` .. ``node4``: what the      gat, gcn, gin, cheb, sage, arma, graph (k-GNN), fc (a layer that
              node does                             ignores the graph), skip (nothing)
    ========  ====================================  ==================================================================

    Every choice is valid, but for a skip at the last node where all before it skip: 59,040 architectures.

    They are table only: their data are graphs, which nasenv does not train on, so ``build`` raises InputError. Get the
    published measurements with ``nasenv import_benchmark nas-bench-graph``.

    Equivalent are the architectures that the benchmark has one row for: those that differ in the order of their nodes,
    or in skips that do nothing. Such is a skip that another node reads, that alone reads its node, or that reads the
    input. The representative is the published row: first these skips, one after another, then the others in the order
    in which their operations come first.

    The text form says what each node does and reads: ``gat~0|gcn~1|fc~1|skip~2``.

    Args:
        operations: those to choose from, in the order above; on the data set proteins only gcn, sage, arma, fc and
            skip were measured, 2,021 networks.
        task: by default a classification without inputs, since nothing is built.

    Raises:
        InputError: operations that are not names of the list above, in its order, with one beside skip.

    Example:
        >>> space = NASBenchGraph()
        >>> space.to_text(space.canonical(space.from_text("gcn~0|skip~1|gat~2|fc~3")))
        'skip~0|gcn~1|gat~2|fc~3'
    """

    def __init__(
        self,
        operations: Sequence[str] = OPERATIONS,
        task: Task | None = None,
    ) -> None:
        given = tuple(operations) if isinstance(operations, Iterable) else ()
        chosen = tuple(name for name in OPERATIONS if name in given)
        if chosen != given or not set(chosen) - {"skip"}:
            raise InputError(
                f"operations must be distinct names of {', '.join(OPERATIONS)}, in this order, at least one of them "
                f"not skip; got {operations!r}"
            )
        links = Decision("links", tuple("".join(map(str, row)) for row in LINKS))
        super().__init__([links, *(Decision(f"node{i}", chosen) for i in range(1, 5))], task or Task(None, outputs=2))
        self.operations = chosen
        self._skip = chosen.index("skip") if "skip" in chosen else None

    def mask(self, prefixes: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which choices are valid next, (n, C), for n prefixes of t decisions, (n, t)."""
        valid = super().mask(prefixes)
        if prefixes.shape[1] == 4 and self._skip is not None:
            valid = valid.copy()
            valid[(prefixes[:, 1:] == self._skip).all(axis=1), self._skip] = False
        return valid

    def canonical(self, architecture: Architecture) -> Architecture:
        """Return the architecture of the published row that contains this one."""
        nodes = architecture[1:]
        links, orders = _orders(architecture[0], tuple(choice == self._skip for choice in nodes))
        return (links, *min([order(nodes) for order in orders]))

    def build(self, architecture: Architecture) -> NoReturn:
        """Raise InputError, since these networks read graphs."""
        raise InputError(
            "NASBenchGraph is table only: its networks work on graphs, which nasenv does not train on; "
            "measure them by a table, see `nasenv import_benchmark --help`"
        )

    def diagram(self, prefix: Sequence[int]) -> Diagram:
        """Return the nodes with the links and operations decided so far."""
        if not prefix:
            return Diagram(("input", "output"), ())
        links = LINKS[prefix[0]]
        decided = [self.operations[c] for c in prefix[1:]]
        nodes = ("input", *decided, *["?"] * (4 - len(decided)), "output")
        read = [(source, node, "") for node, source in enumerate(links, start=1)]
        leaves = [(node, 5, "") for node in range(1, 5) if node not in links]
        return Diagram(nodes, tuple(read + leaves))

    def to_text(self, architecture: Architecture) -> str:
        """Return each node's operation and input, such as ``gat~0|gcn~1|fc~1|skip~2``."""
        sources = LINKS[architecture[0]]
        return "|".join(f"{self.operations[c]}~{i}" for c, i in zip(architecture[1:], sources, strict=True))

    def from_text(self, text: str) -> Architecture:
        """Return the architecture that ``to_text`` wrote; raise InputError for any other text."""
        nodes = [part.strip().partition("~") for part in text.split("|")]
        links = "".join(source for _, _, source in nodes)
        choices = self.decisions[0].choices
        if len(nodes) != 4 or links not in choices:
            raise InputError(
                f"{text!r}: expected four nodes such as gat~0|gcn~1|fc~1|skip~2, each an operation and the node that "
                f"it reads, which are together one of {', '.join(map(str, choices))}"
            )
        for name, _, _ in nodes:
            if name not in self.operations:
                raise InputError(f"{text!r}: expected operations of {', '.join(self.operations)}, got {name!r}")
        if all(name == "skip" for name, _, _ in nodes):
            raise InputError(f"{text!r}: a network of nothing but skips is no architecture of NASBenchGraph")
        return (choices.index(links), *(self.operations.index(name) for name, _, _ in nodes))


@cache
def _orders(links: int, skips: tuple[bool, ...]) -> tuple[int, list[Callable[[Architecture], Architecture]]]:
    """Return the links with idle skips first, and the functions that permute the nodes' operations accordingly.

    What is idle depends on the links and on which nodes skip, and on nothing else.
    """
    sources = list(LINKS[links])
    idle = []
    for node in (n for n in range(1, 5) if skips[n - 1]):
        source = sources[node - 1]
        if source == 0 or node in sources or sources.count(source) == 1:
            idle.append(node)
            sources = [source if s == node else s for s in sources]  # who reads it reads what it reads
            sources[node - 1] = -1
    front = idle + [node for node in range(1, 5) if node not in idle]
    place = {0: len(idle)} | {node: i for i, node in enumerate(front, start=1)}
    chained = [*range(len(idle)), *(place[sources[node - 1]] for node in front[len(idle) :])]
    listed = [(i, itemgetter(*(front[n - 1] - 1 for n in order))) for i, order in _listed(chained)]
    return listed[0][0], [order for _, order in listed]


def _listed(sources: Sequence[int]) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Yield (index into LINKS, nodes in order) for every order of the four nodes that LINKS lists.

    The index is the same for all: no two of LINKS are the same tree.
    """
    for order in permutations(range(1, 5)):
        place = {0: 0} | {node: i for i, node in enumerate(order, start=1)}
        links = tuple(place[sources[node - 1]] for node in order)
        if links in LINKS:
            yield LINKS.index(links), order
