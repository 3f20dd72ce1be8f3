"""Names are those that the field has: none of these is the name of a file, class, function or public attribute."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BANNED = {
    *("answering", "batch", "designs", "ending", "finals", "hear", "in_flight", "indifferent", "known", "measuring"),
    *("mendable", "said", "settled", "setup", "single", "times", "trainings", "worked"),
}


def names(tree: ast.AST) -> Iterator[str]:
    """Yield the names of classes, functions, class attributes and attributes of ``self`` in a syntax tree."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name
        if isinstance(node, ast.ClassDef):
            for statement in node.body:
                targets = getattr(statement, "targets", [getattr(statement, "target", None)])
                yield from (target.id for target in targets if isinstance(target, ast.Name))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self":
            yield node.attr


def test_names_are_the_fields_own():
    files = [*(ROOT / "agents").rglob("*.py"), *(ROOT / "nasenv").rglob("*.py")]
    found = {path: BANNED & {path.stem, *names(ast.parse(path.read_text(encoding="utf-8")))} for path in files}
    assert not {path: banned for path, banned in found.items() if banned}
    assert len(found) > 100


@pytest.mark.parametrize(
    "source",
    [
        "class {}: pass",
        "def {}(): pass",
        "async def {}(): pass",
        "class A:\n    def {}(self): pass",
        "class A:\n    {}: int",
        "class A:\n    {} = 1",
        "class A:\n    def __init__(self):\n        self.{} = 1",
        "class A:\n    def __init__(self):\n        self.a, self.{} = 1, 2",
        "class A:\n    def __init__(self):\n        self.{}: int = 1",
    ],
)
def test_a_name_is_found_wherever_it_is_defined(source):
    assert "designs" in names(ast.parse(source.format("designs")))
    assert "designs" not in names(ast.parse("def a(designs):\n    known = designs.designs\n    return known"))
