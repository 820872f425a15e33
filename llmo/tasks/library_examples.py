"""Labelled examples in the text that every Python carries: topics of docstrings, tags of source tokens, summary lines.

Tags belong to the instance part and the split that their module's name is assigned to. Docstrings are too few for that,
as most modules are about one topic: they go by their own text. An example that begins as one that was met before, in
whatever part, is dropped.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import io
import json
import sys
import sysconfig
import textwrap
import tokenize
import warnings
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from llmo.atomic import replacing
from llmo.tasks import standard_library, text
from llmo.tasks.standard_library import modules
from llmo.tasks.text import PARTS, SPLITS, assignment, cache_folder

ExampleKind = Literal["topics", "tags", "summaries"]
Example = dict[str, Any]
TOPICS = {
    "concurrency": "asyncio concurrent multiprocessing queue sched selectors subprocess threading",
    "data types": "_collections_abc calendar collections copy dataclasses datetime enum heapq pprint reprlib types "
    "weakref",
    "development": "bdb cProfile doctest pdb profile pydoc timeit trace tracemalloc unittest",
    "files": "_pyio bz2 configparser csv fileinput glob gzip lzma os pathlib pickle shelve shutil tarfile tempfile "
    "zipfile",
    "internet": "cgi email ftplib http imaplib ipaddress mailbox nntplib poplib smtpd smtplib socket socketserver ssl "
    "telnetlib urllib wsgiref xmlrpc",
    "logging and options": "argparse cmd getopt getpass gettext locale logging optparse",
    "numbers": "_pydecimal colorsys fractions numbers random statistics",
    "python itself": "ast code codeop dis importlib inspect modulefinder pickletools pkgutil runpy symtable tokenize "
    "traceback typing zipimport",
    "text and markup": "codecs difflib html json plistlib re sre_parse string stringprep textwrap xml",
}
"""Parts of the library, with the names of their modules and packages."""
_TOPIC_OF = {name: topic for topic, names in TOPICS.items() for name in names.split()}
TAGS = (
    "O", "B-attribute", "I-attribute", "B-call", "I-call", "B-definition", "B-module", "I-module", "B-parameter",
)  # fmt: skip
"""What a source token is part of: a dotted name that is read, one that is called, and so on."""
BEGINNING = 40
"""Characters by which an example is known: fewer than any model sees of it."""
SHORTEST = 20
"""Characters that a docstring has at least."""
LONGEST_WORD = 12
"""Characters that are kept of a source token."""
WORDS = 16
"""Source tokens in an example."""
LONGEST_SOURCE, LONGEST_SUMMARY = 80, 50
"""Characters that are kept of a function, and that its summary has at most."""
WINDOWS, MODULE_WINDOWS = 1_500, 40
"""Most examples of tags in a split, and of a module."""


def library_examples(kind: ExampleKind, part: str, split: str) -> list[Example]:
    """Examples of the text of this Python.

    Args:
        kind: ``topics`` have ``text`` and ``label``; ``tags`` have ``tokens`` and ``tags``, lists of one length;
            ``summaries`` have ``source``, a function without its docstring, and ``target``.
        part: ``train``, ``dev`` or ``test``.
        split: ``training``, ``validation`` or ``test``.
    """
    return _all_examples()[kind][f"{part}/{split}"]


@lru_cache(maxsize=1)
def _all_examples() -> dict[str, dict[str, list[Example]]]:
    """All examples by kind and cell; read once, then from a file in the cache folder."""
    key = hashlib.sha256(f"{sys.version}{sysconfig.get_path('stdlib')}".encode())
    for module in (__file__, text.__file__, standard_library.__file__):
        key.update(Path(module).read_bytes())
    file = cache_folder() / f"examples-{key.hexdigest()[:24]}.json"
    with suppress(OSError, ValueError):
        found: dict[str, dict[str, list[Example]]] = json.loads(file.read_bytes())
        return found
    made = _read()
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as temporary:
            temporary.write_text(json.dumps(made))
    return made


def _read() -> dict[str, dict[str, list[Example]]]:
    cells = [f"{part}/{split}" for part in PARTS for split in SPLITS]
    kinds = ("topics", "tags", "summaries")
    found: dict[str, dict[str, list[Example]]] = {kind: {cell: [] for cell in cells} for kind in kinds}
    met: set[str] = set()

    def add(kind: str, unit: str, example: Example) -> None:
        part, split, _ = assignment(unit)
        first = next(iter(example.values()))
        key = kind + ("".join(first) if isinstance(first, list) else first)[:BEGINNING]
        if key not in met:
            met.add(key)
            found[kind][f"{part}/{split}"].append(example)

    sources = modules(Path(sysconfig.get_path("stdlib")))
    for name in sorted(sources, key=lambda name: assignment(name)[2]):
        try:
            source = sources[name].read_text("utf-8")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tree = ast.parse(source)
        except (OSError, SyntaxError, ValueError):
            continue
        for example in _topics(name, tree):
            add("topics", example["text"], example)
        for example in _summaries(source, tree):
            add("summaries", example["target"], example)
        part, split, _ = assignment(name)
        if len(found["tags"][f"{part}/{split}"]) < WINDOWS:
            for example in islice(_tags(source, tree), MODULE_WINDOWS):
                add("tags", name, example)
    return found


def _documented(tree: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    """Everything that has a docstring, with it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = inspect.cleandoc(ast.get_docstring(node, clean=False) or "")
            if len(docstring) >= SHORTEST:
                yield node, docstring


def _topics(name: str, tree: ast.AST) -> Iterator[Example]:
    topic = _TOPIC_OF.get(name.partition(".")[0])
    if topic is not None:
        for _, docstring in _documented(tree):
            yield {"text": docstring.partition("\n\n")[0], "label": topic}


def _summaries(source: str, tree: ast.AST) -> Iterator[Example]:
    lines = source.split("\n")
    for node, docstring in _documented(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or len(node.body) < 2:
            continue
        own, summary = node.body[0], docstring.partition("\n")[0].strip()
        head = lines[node.lineno - 1 : own.lineno - 1]
        body = lines[own.end_lineno or own.lineno : node.end_lineno]
        if head and SHORTEST <= len(summary) <= LONGEST_SUMMARY:
            code = textwrap.dedent("\n".join([*head, *body]))
            yield {"source": code[:LONGEST_SOURCE], "target": summary}


def _tags(source: str, tree: ast.AST) -> Iterator[Example]:
    # Columns of the syntax tree count bytes, those of tokens characters.
    if not source.isascii():
        return
    begins, inside = _named_places(tree)
    words: list[str] = []
    tags: list[str] = []
    before = ""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in (tokenize.NAME, tokenize.OP, tokenize.NUMBER):
            continue
        if before in ("def", "class"):
            tag = "B-definition"
        elif token.start in begins:
            tag = f"B-{begins[token.start]}"
        else:
            tag = f"I-{inside[token.start]}" if token.start in inside and token.string != "(" else "O"
        words.append(token.string[:LONGEST_WORD])
        tags.append(tag)
        before = token.string
        if len(words) == WORDS:
            yield {"tokens": words, "tags": tags}
            words, tags = [], []


Place = tuple[int, int]


def _named_places(tree: ast.AST) -> tuple[dict[Place, str], dict[Place, str]]:
    """Where names begin, and the places inside dotted ones, by line and column, with what they are."""
    begins: dict[Place, str] = {}
    inside: dict[Place, str] = {}

    def add(node: Any, kind: str) -> None:
        start = node.lineno, node.col_offset
        if start in begins or node.lineno != node.end_lineno:
            return
        begins[start] = kind
        inside.update({(node.lineno, column): kind for column in range(node.col_offset + 1, node.end_col_offset)})

    # From the outside in, so that a dotted name is found before its parts.
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=func) if _dotted(func):
                add(func, "call")
            case ast.Attribute() if _dotted(node):
                add(node, "attribute")
            case ast.arg():
                start = node.lineno, node.col_offset
                begins.setdefault(start, "parameter")
            case ast.alias():
                start = node.lineno, node.col_offset
                if start not in begins:
                    begins[start] = "module"
                    name = range(node.col_offset + 1, node.col_offset + len(node.name))
                    inside.update({(node.lineno, column): "module" for column in name})
    return begins, inside


def _dotted(node: ast.AST) -> bool:
    """Whether it is a name, perhaps with others behind it."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return isinstance(node, ast.Name)
