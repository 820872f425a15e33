"""Reads from the source of plug-in files what they register, so that listing them imports none of them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Declaration:
    """A name that a plug-in file registers.

    Attributes:
        path: The file.
        summary: First line of the docstring of the class or function, or of the file where that has none.
    """

    path: Path
    summary: str


def declarations(folder: Path, registry: str) -> dict[str, Declaration]:
    """The names registered by decorators such as ``@agents.register("plateau")`` in the files of a folder, sorted.

    A file that is not valid Python declares nothing: importing it says why.

    Args:
        folder: A plug-in folder; files in folders below it are not looked at.
        registry: Name of the registry in the decorator, such as ``"agents"``.
    """
    found: dict[str, Declaration] = {}
    for path in sorted(folder.glob("*.py")):
        try:
            module = ast.parse(path.read_bytes())
        except SyntaxError:
            continue
        for node in module.body:
            for name in _registered_names(node, registry):
                found[name] = Declaration(path, _first_line(node) or _first_line(module))
    return dict(sorted(found.items()))


def _registered_names(node: ast.stmt, registry: str) -> Iterator[str]:
    if not isinstance(node, ast.ClassDef | ast.FunctionDef):
        return
    for decorator in node.decorator_list:
        match decorator:
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id=owner), attr="register"),
                args=[ast.Constant(value=str(name))],
            ) if owner == registry:
                yield name


def _first_line(node: ast.AST) -> str:
    if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
        return ""
    return (ast.get_docstring(node) or "").partition("\n")[0]
