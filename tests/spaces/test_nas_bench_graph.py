from collections import defaultdict
from itertools import product

import numpy as np
import pytest

from nasenv.errors import InputError
from nasenv.spaces.nas_bench_graph import LINKS, OPERATIONS, NASBenchGraph

SKIPS = (8,) * 4
ARCHITECTURES = [architecture for architecture in product(range(9), repeat=5) if architecture[1:] != SKIPS]
ON_PROTEINS = ("gcn", "sage", "arma", "fc", "skip")


@pytest.fixture(scope="module")
def representatives():
    space = NASBenchGraph()
    return {architecture: space.canonical(architecture) for architecture in ARCHITECTURES}


def meaning(sources, operations):
    """Return what a network computes, as text; a second derivation of its class, from the output up."""

    def brought(node, is_input):
        """Return what the readers of a node make of it; a skip that is read stands for its own readers."""
        found = []
        for reader in (i for i in range(1, 5) if sources[i - 1] == node):
            is_read = reader in sources
            if operations[reader - 1] != "skip":
                found.append(f"{operations[reader - 1]}({join(brought(reader, False))})")
            elif is_read:
                found += brought(reader, is_input)
            elif not is_input:
                found.append("itself")
        return found

    def join(found):
        return "" if found == ["itself"] else "+".join(sorted(found))

    return join(brought(0, True))


def test_classes_are_those_that_compute_the_same(representatives):
    pairs = {
        (meaning(LINKS[links], [OPERATIONS[c] for c in nodes]), representatives[links, *nodes])
        for links, *nodes in ARCHITECTURES
    }
    assert len(pairs) == len({text for text, _ in pairs}) == len({architecture for _, architecture in pairs}) == 26_206


def test_representatives_are_the_rows_that_the_package_looks_up(representatives):
    package = pytest.importorskip("nas_bench_graph", reason="needs pip install 'nasenv[benchmarks]'")
    wrong = []
    for (links, *nodes), representative in representatives.items():
        published = package.Arch(list(LINKS[links]), [OPERATIONS[c] for c in nodes]).valid_hash()
        if f"{published:05d}" != "".join(map(str, representative)):
            wrong.append((links, *nodes))
    assert wrong == []


def test_representatives_represent_themselves(representatives):
    assert all(representatives[architecture] == architecture for architecture in set(representatives.values()))


def test_decisions_make_every_architecture_but_that_of_skips_alone():
    space = NASBenchGraph()
    assert space.size == len(ARCHITECTURES) == 59_040
    assert space.complete([[3, *SKIPS]]) == [(3, 8, 8, 8, 0)]
    with pytest.raises(InputError, match="not valid for decision 'node4'"):
        space.check((3, *SKIPS))


def test_proteins_has_fewer_operations_and_classes():
    space = NASBenchGraph(ON_PROTEINS)
    architectures = [
        (links, *nodes) for links in range(9) for nodes in product(range(5), repeat=4) if nodes != (4,) * 4
    ]
    classes = {space.canonical(architecture) for architecture in architectures}
    assert space.size == len(architectures) == 5_616
    assert len(classes) == 2_021
    whole = NASBenchGraph()
    assert {whole.canonical(whole.from_text(space.to_text(d))) for d in architectures} == {
        whole.from_text(space.to_text(d)) for d in classes
    }


def test_without_skip_every_architecture_is_a_network():
    space = NASBenchGraph(("gat", "gcn"))
    assert space.size == 9 * 2**4
    by_class = defaultdict(list)
    for architecture in product(range(9), *[range(2)] * 4):
        by_class[space.canonical(architecture)].append(architecture)
    assert by_class[0, 0, 0, 0, 1] == [(0, *row) for row in sorted(set(map(tuple, np.eye(4, dtype=int).tolist())))]


def test_text_says_what_each_node_does_and_reads():
    space = NASBenchGraph()
    assert space.from_text("gat~0|gcn~1|fc~1|skip~2") == (6, 0, 1, 7, 8)
    assert all(space.from_text(space.to_text(architecture)) == architecture for architecture in ARCHITECTURES[::97])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("gat~0|gcn~1|fc~1", "expected four nodes"),
        ("gat~0|gcn~1|fc~2|skip~1", "expected four nodes"),
        ("gat~0|gcn~1|fc~01|skip~", "expected four nodes"),
        ("gat~0|gcn~1|fc~1|rnn~2", "got 'rnn'"),
        ("skip~0|skip~0|skip~0|skip~0", "nothing but skips"),
    ],
)
def test_text_of_another_form_is_refused(text, reason):
    with pytest.raises(InputError, match=reason):
        NASBenchGraph().from_text(text)


@pytest.mark.parametrize("operations", [("gcn", "gat"), ("gcn", "gcn"), ("rnn",), ("skip",), (), "gat", 5])
def test_operations_must_be_of_the_benchmark(operations):
    with pytest.raises(InputError, match="operations must be distinct names"):
        NASBenchGraph(operations)


def test_networks_are_not_built():
    with pytest.raises(InputError, match="table only"):
        NASBenchGraph().build((0, 0, 0, 0, 0))


def test_pictures_show_links_and_operations_as_they_are_decided():
    space = NASBenchGraph()
    architecture = space.from_text("gat~0|gcn~1|fc~1|skip~2")
    assert space.diagram(()).edges == ()
    assert space.diagram(architecture[:3]).nodes == ("input", "gat", "gcn", "?", "?", "output")
    assert space.diagram(architecture).edges == ((0, 1, ""), (1, 2, ""), (1, 3, ""), (2, 4, ""), (3, 5, ""), (4, 5, ""))
