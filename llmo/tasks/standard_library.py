"""Reading the text that every Python carries: reference prose, docstrings and code, cut into clean paragraphs."""

from __future__ import annotations

import ast
import inspect
import os
import re
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

PARAGRAPH = 80
"""Characters from which a paragraph is somebody's own: shorter ones may stand in many places."""
TABLE = 6_000
"""Characters from which a paragraph is a table."""
# Tests, data and tools, and what Debian ships in packages of their own.
SKIPPED = frozenset(
    "__pycache__ dist-packages distutils encodings ensurepip idlelib lib-dynload lib2to3 pydoc_data site-packages "
    "sitecustomize.py test tests tkinter turtledemo usercustomize.py".split()
)
TITLE = re.compile(r"^(\S[^\n]*)\n[*=~^-]{3,}\n", re.MULTILINE)
BLANK_LINES = re.compile(r"\n\s*\n")
LEGAL = re.compile(r"copyright|licen[cs]e|warrant|rights reserved", re.IGNORECASE)


def sections(topics: Mapping[str, str]) -> dict[str, str]:
    """Reference prose by section title, without underlines; what precedes a topic's first title goes by its name.

    Args:
        topics: Text by topic, as `pydoc_data.topics.topics`.
    """
    found: defaultdict[str, list[str]] = defaultdict(list)
    for topic in sorted(topics):
        head, *rest = TITLE.split(topics[topic])
        if head.strip():
            found[topic].append(head)
        for title, body in zip(rest[::2], rest[1::2], strict=True):
            found[title].append(f"{title}\n\n{body}")
    return {title: "\n\n".join(texts) for title, texts in found.items()}


def modules(root: Path) -> dict[str, Path]:
    """Source files below the standard library's folder, by dotted module name."""
    found = {}
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in SKIPPED and not name.startswith("config-")]
        for file in files:
            if file.endswith(".py") and file not in SKIPPED and not file.startswith("_sysconfigdata"):
                path = Path(folder, file)
                names = path.relative_to(root).with_suffix("").parts
                found[".".join(names[:-1] if names[-1] == "__init__" else names)] = path
    return found


def split_source(source: str) -> tuple[str, str]:
    """The docstrings of a module, and its code without them.

    Raises:
        SyntaxError: The source does not parse.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tree = ast.parse(source)
    docstrings = []
    removed: set[int] = set()
    for body in _bodies(tree):
        match body:
            case [ast.Expr(value=ast.Constant(value=str(text))) as node, *_]:
                docstrings.append(inspect.cleandoc(text))
                removed.update(range(node.lineno - 1, node.end_lineno or node.lineno))
    lines = source.split("\n")
    return "\n\n".join(docstrings), "\n".join(line for at, line in enumerate(lines) if at not in removed)


def _bodies(node: ast.AST) -> Iterator[list[ast.stmt]]:
    """The bodies that may open with a docstring; expressions are not searched, which makes it fast."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        yield node.body
    for field in ("body", "orelse", "handlers", "finalbody"):
        for child in getattr(node, field, ()):
            yield from _bodies(child)


def paragraphs(text: str) -> list[str]:
    """What stands between blank lines, without legal notices, tables and trailing spaces."""
    found = []
    for piece in BLANK_LINES.split(text):
        lines = [line.rstrip() for line in piece.strip("\n").split("\n")]
        comment = all(line.startswith("#") for line in lines)
        ink = "".join(piece.split())
        letters = sum(map(str.isalpha, ink))
        if comment and (LEGAL.search(piece) or "-*-" in piece or ink.startswith("#!")):
            continue
        if len(ink) >= PARAGRAPH and letters < 0.4 * len(ink) or len(ink) > TABLE or not ink:
            continue
        found.append("\n".join(lines))
    return found
