"""The conditions that the source can raise, read from its syntax trees."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import lakelet.errors

SOURCE = Path(lakelet.errors.__file__).parent
_EXCEPTIONS = {
    name
    for name, value in vars(lakelet.errors).items()
    if isinstance(value, type) and issubclass(value, lakelet.errors.LakeletError)
}


@dataclass
class Conditions:
    """What the source names.

    Attributes:
        places: file and line of each condition that stands there as text.
        prefixes: beginnings of conditions whose end is a variable, with the text constants of their files.
    """

    places: dict[str, str] = field(default_factory=dict)
    prefixes: dict[str, set[str]] = field(default_factory=dict)

    def has(self, condition: str) -> bool:
        if condition in self.places:
            return True
        prefix, dot, rest = condition.partition(".")
        return bool(dot) and rest in self.prefixes.get(prefix + dot, set())


def raised_conditions() -> Conditions:
    """Return every condition that is passed to an exception of ours, or to a function that passes it on."""
    trees = {file: ast.parse(file.read_text("utf-8")) for file in sorted(SOURCE.rglob("*.py"))}
    takers = _EXCEPTIONS | {name for tree in trees.values() for name in _functions_with_condition(tree)}
    found = Conditions()
    for file, tree in trees.items():
        texts = {
            node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        for expression in _conditions_passed(tree, takers):
            for node in _texts(expression):
                if isinstance(node, ast.JoinedStr):
                    first = node.values[0]
                    assert isinstance(first, ast.Constant), (
                        f"{file}:{node.lineno}: a condition that starts with a variable"
                    )
                    found.prefixes.setdefault(str(first.value), set()).update(texts)
                else:
                    found.places.setdefault(node.value, f"{file.relative_to(SOURCE.parent)}:{node.lineno}")
    return found


def _functions_with_condition(tree: ast.AST) -> Iterator[str]:
    """Yield the functions whose first argument is a condition."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            names = [argument.arg for argument in node.args.args if argument.arg not in ("self", "cls")]
            if names[:1] == ["condition"]:
                yield node.name


def _default(node: ast.FunctionDef) -> ast.expr | None:
    for argument, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True):
        if argument.arg == "condition":
            return default
    return None


def _conditions_passed(tree: ast.AST, takers: set[str]) -> Iterator[ast.expr]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and (default := _default(node)) is not None:
            yield default
        if isinstance(node, ast.Call):
            yield from (keyword.value for keyword in node.keywords if keyword.arg == "condition")
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in takers and node.args:
                yield node.args[0]


def _texts(expression: ast.expr) -> Iterator[ast.JoinedStr | ast.Constant]:
    """Yield the texts that an expression may be; a condition has no lower-case letters."""
    match expression:
        case ast.IfExp():
            yield from _texts(expression.body)
            yield from _texts(expression.orelse)
        case ast.JoinedStr():
            yield expression
        case ast.Constant(value=str(text)) if text.isupper() and " " not in text:
            yield expression
