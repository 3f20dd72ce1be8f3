"""Grammar: derivations against a plain enumeration, files, and what a user can get wrong."""

from itertools import product

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from nasenv.errors import InputError
from nasenv.spaces.grammar import Grammar
from nasenv.spaces.nas_bench_201 import EDGES, NASBench201
from nasenv.task import Images, Task

TASK = Task(Images((1, 4, 4)), outputs=3)
OPERATIONS = ["zero", "identity", "conv1x1", "conv3x3", "avg_pool3x3"]
CELLS = {  # NAS-Bench-201
    "start": "network",
    "rules": {
        "network": [{"repeat": {"times": 3, "block": {"repeat": {"times": 2, "block": "cell"}}, "between": "reduce"}}],
        "cell": [{"cell": {"nodes": 4, "edge": "operation"}}],
        "operation": OPERATIONS,
    },
}
RECURSIVE = {
    "start": "s",
    "depth": 4,
    "rules": {"s": ["a", {"sequence": ["s", "a"]}], "a": ["conv3x3", {"residual": "s"}, {"branch": ["s", "identity"]}]},
}
UNEVEN = {  # productions at the depth's end leave one choice, which is not the first
    "start": "s",
    "depth": 3,
    "rules": {"s": [{"sequence": ["s", "s"]}, {"repeat": {"times": 2, "block": "t", "between": "t"}}], "t": OPERATIONS},
}
NESTED = {"start": "s", "rules": {"s": ["t", "u"], "t": ["conv3x3", "u"], "u": ["zero", "identity", "conv1x1"]}}


def derivations(rules, thing, depth):
    """Return all derivations of a rule, block or structure with at most so many rules in each other."""
    if isinstance(thing, str):
        if thing not in rules:
            return [thing]
        if depth == 0:
            return []
        return [(thing, i, d) for i, p in enumerate(rules[thing]) for d in derivations(rules, p, depth - 1)]
    ((kind, inside),) = thing.items()
    if kind in ("sequence", "branch"):
        parts = inside
    elif kind == "residual":
        parts = [inside]
    elif kind == "repeat":
        parts = [inside["block"], *([inside["between"]] if "between" in inside else [])]
    else:
        parts = [inside["edge"]] * (inside["nodes"] * (inside["nodes"] - 1) // 2)
    return [(kind, *d) for d in product(*(derivations(rules, part, depth) for part in parts))]


@pytest.mark.parametrize("grammar", [CELLS, RECURSIVE, UNEVEN, NESTED], ids=["cells", "recursive", "uneven", "nested"])
def test_enumeration_equals_counting_and_a_plain_enumeration(grammar):
    space = Grammar(grammar, channels=2, task=TASK)
    rows = space.all_architectures()
    expected = derivations(grammar["rules"], grammar["start"], grammar.get("depth", 9))
    assert space.size == len(rows) == len(expected) == len(set(expected))
    assert len({space.to_text(tuple(row)) for row in rows[:500].tolist()}) == len(rows[:500])


BRANCHES = {
    "start": "s",
    "depth": 3,
    "rules": {
        "s": ["t", {"branch": ["s", "zero", "s", "t"]}],
        "t": ["conv1x1", {"branch": ["u", "u"]}],
        "u": ["zero", "conv3x3"],
    },
}


def ordered(derivation):
    """Return a derivation with equal parts of branches in ascending order."""
    if isinstance(derivation, str):
        return derivation
    head, *rest = derivation
    parts = [ordered(part) if isinstance(part, tuple) else part for part in rest]
    return (head, *(sorted(parts, key=repr) if head == "branch" else parts))


def test_canonical_forms_are_the_derivations_without_the_order_in_branches():
    space = Grammar(BRANCHES, channels=2, task=TASK)
    architectures = list(map(tuple, space.all_architectures().tolist()))
    representatives = set(map(space.canonical, architectures))
    assert representatives <= set(architectures)
    assert all(space.canonical(a) == a for a in representatives)
    expected = {ordered(d) for d in derivations(BRANCHES["rules"], "s", 3)}
    assert 1 < len(representatives) == len(expected) < len(architectures)


def test_nas_bench_201_as_a_grammar():
    space = Grammar(CELLS, channels=4, task=TASK)
    assert [d.name for d in space.decisions] == [f"network/{i}>{j}" for i, j in EDGES]
    assert space.size == 15_625
    theirs = NASBench201(channels=4, cells=2, task=TASK)
    for architecture in theirs.sample(5, np.random.default_rng(0)):
        ours = sum(p.numel() for name, p in space.build(architecture).named_parameters() if ">" in name)
        assert ours == sum(p.numel() for name, p in theirs.build(architecture).named_parameters() if ">" in name)


def test_the_default_has_the_size_that_it_says():
    assert Grammar().size == 1_774_224 == (36 + 36**2) ** 2


def test_what_is_repeated_is_derived_once_and_has_weights_of_its_own():
    space = Grammar(CELLS, channels=2, task=TASK)
    names = [name for name, _ in space.build((3,) * 6).named_parameters() if name.endswith("network/0>1.1.weight")]
    assert len(names) == 3 * 2


@pytest.mark.parametrize("grammar", [CELLS, RECURSIVE, UNEVEN, NESTED], ids=["cells", "recursive", "uneven", "nested"])
def test_networks_train_a_step(grammar):
    space = Grammar(grammar, channels=2, task=TASK)
    for architecture in space.sample(5, np.random.default_rng(0)):
        logits = space.build(architecture)(torch.randn(2, 1, 4, 4))
        nn.functional.cross_entropy(logits, torch.tensor([0, 1])).backward()
        assert logits.shape == (2, 3)


def test_structures_compute_what_they_say():
    x = torch.randn(2, 4, 4, 4)
    inner = {"branch": ["identity", {"residual": "identity"}]}  # 3 x
    cell = {"cell": {"nodes": 3, "edge": "identity"}}  # x + x, from node 0 and from node 1
    rules = {"s": [{"sequence": [inner, {"repeat": {"times": 2, "block": cell, "between": inner}}]}, "zero"]}
    space = Grammar({"start": "s", "rules": rules}, channels=4, task=TASK)
    torch.testing.assert_close(space.build((0,))[2](x), 3 * 2 * 3 * 2 * x)
    assert not space.build((1,))[2](x).any()


def test_a_file_is_its_content(tmp_path):
    path = tmp_path / "recursive.yaml"
    path.write_text(yaml.safe_dump({**RECURSIVE, "reference": "s=a,s:1=conv3x3"}))
    space = Grammar(str(path))
    assert space.to_text(space.reference()) == "s=a,s:1=conv3x3"
    given = space.config()["init_args"]["grammar"]
    assert given["rules"] == RECURSIVE["rules"]
    assert Grammar(given).fingerprint() == space.fingerprint() != Grammar(RECURSIVE).fingerprint()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("start: s\nrules:\n  s: [zero, identity]\n  s: [conv3x3, zero]\n", "key s is given twice"),
        ("start: [", "cannot be read as YAML"),
        ("!!python/object/apply:os.system [echo]", "cannot be read as YAML"),
        ("a text", "holds no start and rules"),
        ("&a [*a]", "holds no start and rules"),
        ("start: s\nrules: {s: &s [zero, {sequence: *s}]}", "in each other"),
    ],
)
def test_a_file_that_is_no_grammar_is_refused(tmp_path, text, reason):
    (tmp_path / "grammar.yaml").write_text(text)
    with pytest.raises(InputError, match=reason) as raised:
        Grammar(str(tmp_path / "grammar.yaml"))
    assert "\n" not in str(raised.value)


LESS = {"repeat": {"times": 100, "block": {"repeat": {"times": 100, "block": "zero"}}}}
MANY = {"repeat": {"times": 100, "block": {"repeat": {"times": 100, "block": "u"}}}}


def rules(**given):
    return {"start": "s", "rules": given}


@pytest.mark.parametrize(
    ("grammar", "reason"),
    [
        ({"start": "s"}, "a grammar has start, rules"),
        ({**rules(s=["zero", "identity"]), "dept": 3}, "a grammar has start, rules"),
        ({"start": "t", "rules": {"s": ["zero", "identity"]}}, "start must be one of the rules, s; got 't'"),
        (rules(s="zero"), "rule s must be a list of productions, got 'zero'"),
        (rules(s=["zero", "zero"]), "rule s has a production twice"),
        (rules(s=["zero", "conv3x4"]), "rule s: 'conv3x4' is neither rule nor block; nearest: conv3x3"),
        (rules(s=["zero", {"sequence": "zero"}]), "rule s: sequence must be a list, got 'zero'"),
        (rules(s=["zero", {"series": ["zero"]}]), "rule s: expected a name, or one of sequence: ..., residual"),
        (rules(s=["zero", {"repeat": {"times": 2}}]), "rule s: repeat has times, block and"),
        (rules(s=["zero", {"repeat": {"times": 0, "block": "zero"}}]), "times must be an integer of 1 to 100, got 0"),
        (rules(s=["zero", {"cell": {"nodes": 1, "edge": "zero"}}]), "nodes must be an integer of 2 to 20, got 1"),
        (rules(s=["zero", {"residual": "reduce"}]), "rule s: no reduce can come out of a residual"),
        (rules(s=["zero", {"branch": ["t"]}], t=["u"], u=["reduce"]), "rule s: no reduce can come out of a branch"),
        (rules(s=["zero", {"residual": "s"}]), "rule s leads to itself; give depth"),
        (rules(s=["zero", "t"], t=["u"], u=["t"]), "rule t never ends"),
        (rules(s=["zero"]), "nothing to choose"),
        (rules(zero=["s"], s=["zero"]), "not that of a block: 'zero'"),
        ({**RECURSIVE, "depth": 1}, "depth, the number of rules in each other, must be an integer of 2 to 100, got 1"),
        ({**RECURSIVE, "depth": 40}, "more than 2,000 decisions"),
        (rules(s=["zero", "t"], t=[MANY], u=[LESS]), "a network of the grammar has up to 100,000,000 blocks"),
        (
            {**rules(s=["zero", "identity"]), "reference": "s=conv3x3"},
            "reference is no architecture: .* expected s",
        ),
    ],
)
def test_what_is_no_grammar_is_refused(grammar, reason):
    with pytest.raises(InputError, match=reason) as raised:
        Grammar(grammar)
    assert "\n" not in str(raised.value)
