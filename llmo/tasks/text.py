"""The text that every Python carries: real language in three domains, without a download.

Prose is the language reference in `pydoc_data.topics`; docstrings and code are those of the standard library, code without
its docstrings. Names alone decide where a text belongs: a sha256 of a module's name gives its instance part and, inside the
part, its split, for its docstrings and its code alike. Topics are few and uneven, and some repeat whole sections of
others, so they are cut into their titled sections and a section's title is the name: a section that stands in two topics
is one unit. `SALT` was chosen once, so that the scarce prose fills every cell in Python 3.11, 3.12 and 3.13.

Units are read in the order of another hash of their names until a cell has its fill. A paragraph that was met before, in
whatever domain or part, is dropped: the first unit in that order owns it, and no two cells share one. Nor do they share
near copies: a paragraph is dropped when more than a quarter of its runs of eight words were met before.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import os
import re
import sys
import sysconfig
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from llmo.errors import LlmoError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Cell: TypeAlias = tuple[str, str, str]

DOMAINS = ("prose", "docstrings", "code")
PARTS = ("train", "dev", "test")
SPLITS = ("training", "validation", "test")
PART_SHARES = (0.6, 0.2, 0.2)
SPLIT_SHARES = (0.7, 0.15, 0.15)
CELLS: tuple[Cell, ...] = tuple((domain, part, split) for domain in DOMAINS for part in PARTS for split in SPLITS)

TOKENIZER = Path(__file__).with_name("tokenizer.json")
SALT = 16908

# Limits in characters. A paragraph of PARAGRAPH or more stands in one unit only; RUN is in words.
TRAINING_LIMIT = {"train": 400_000, "dev": 220_000, "test": 220_000}
HELD_OUT_LIMIT = 60_000
UNIT_LIMIT = 30_000
PARAGRAPH = 80
RUN = 8
TABLE = 6_000

# Tests, data and tools, and what Debian ships in packages of their own.
SKIPPED = frozenset(
    "__pycache__ dist-packages distutils encodings ensurepip idlelib lib-dynload lib2to3 pydoc_data site-packages "
    "sitecustomize.py test tests tkinter turtledemo usercustomize.py".split()
)
TITLE = re.compile(r"^(\S[^\n]*)\n[*=~^-]{3,}\n", re.MULTILINE)
BLANK_LINES = re.compile(r"\n\s*\n")
LEGAL = re.compile(r"copyright|licen[cs]e|warrant|rights reserved", re.IGNORECASE)


@dataclass(frozen=True)
class Corpus:
    """All text as tokens.

    Attributes:
        tokens: Token ids of each (domain, part, split), int16 [L], read-only.
        sha256: Hash over all text and its assignment; results are never compared across two of them.
        bytes: UTF-8 size of the text behind each entry of `tokens`.
    """

    tokens: Mapping[Cell, NDArray[np.int16]]
    sha256: str
    bytes: Mapping[Cell, int]


def assignment(name: str) -> tuple[str, str, int]:
    """The instance part, the split inside it and the reading rank of a unit: a function of its name and nothing else."""
    digest = hashlib.sha256(f"{SALT}/{name}".encode()).digest()
    part, split, rank = (int.from_bytes(digest[at : at + 8], "big") for at in (0, 8, 16))
    return _pick(PARTS, PART_SHARES, part / 2**64), _pick(SPLITS, SPLIT_SHARES, split / 2**64), rank


def _pick(names: tuple[str, ...], shares: tuple[float, ...], u: float) -> str:
    for name, share in zip(names, shares, strict=True):
        u -= share
        if u < 0:
            return name
    return names[-1]


def sections(topics: Mapping[str, str]) -> dict[str, str]:
    """Reference prose by section title, without underlines; what precedes a topic's first title goes by the topic's name.

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


def _runs(paragraph: str) -> set[str]:
    """What a paragraph is known by: all its runs of RUN words; nothing if it is too short to be somebody's."""
    words = paragraph.split()
    if len(" ".join(words)) < PARAGRAPH:
        return set()
    return {" ".join(words[at : at + RUN]) for at in range(max(1, len(words) - RUN + 1))}


@lru_cache(maxsize=1)
def _texts() -> dict[Cell, str]:
    """All text, cell by cell."""
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise LlmoError("Python installation", sys.prefix, "one that has pydoc_data.topics") from error
    cells: dict[Cell, list[str]] = {cell: [] for cell in CELLS}
    room = {cell: TRAINING_LIMIT[cell[1]] if cell[2] == "training" else HELD_OUT_LIMIT for cell in CELLS}
    owned: set[str] = set()

    def add(cell: Cell, text: str) -> None:
        left = min(room[cell], UNIT_LIMIT)
        for paragraph in paragraphs(text):
            runs = _runs(paragraph)
            if len(paragraph) > left or 4 * len(runs & owned) > len(runs):
                continue
            owned.update(runs)
            cells[cell].append(paragraph + "\n\n")
            left -= len(paragraph)
            room[cell] -= len(paragraph)

    prose = sections(topics)
    for title in sorted(prose, key=lambda name: assignment(name)[2]):
        part, split, _ = assignment(title)
        add(("prose", part, split), prose[title])
    sources = modules(Path(sysconfig.get_path("stdlib")))
    for name in sorted(sources, key=lambda name: assignment(name)[2]):
        part, split, _ = assignment(name)
        if max(room["docstrings", part, split], room["code", part, split]) < PARAGRAPH:
            continue
        try:
            docstrings, code = split_source(sources[name].read_text("utf-8"))
        except (OSError, SyntaxError, ValueError):
            continue
        add(("docstrings", part, split), docstrings)
        add(("code", part, split), code)
    return {cell: "".join(texts) for cell, texts in cells.items()}


def raw_text(part: str, split: str, domain: str) -> str:
    """The text of one cell, paragraphs separated by a blank line."""
    return _texts()[domain, part, split]


@lru_cache(maxsize=1)
def load_tokenizer() -> Tokenizer:
    """The byte-level BPE tokenizer shipped with the package; every string comes back as it went in."""
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(TOKENIZER))


@lru_cache(maxsize=1)
def load_corpus() -> Corpus:
    """The corpus of this Python; a few seconds the first time, then from a file in the cache folder.

    The folder is `$LLMO_CACHE`, `$XDG_CACHE_HOME/llmo` or `~/.cache/llmo`; where it cannot be written, nothing is cached.

    Raises:
        LlmoError: This Python comes without `pydoc_data.topics`.
    """
    key = hashlib.sha256(f"{sys.version}{sysconfig.get_path('stdlib')}".encode())
    for path in (Path(__file__), TOKENIZER):
        key.update(path.read_bytes())
    file = cache_folder() / f"corpus-{key.hexdigest()[:24]}.safetensors"
    corpus = _read(file)
    if corpus is None:
        corpus = _build()
        _write(file, corpus)
    for array in corpus.tokens.values():
        array.setflags(write=False)
    return corpus


def cache_folder() -> Path:
    """Where made files are kept."""
    given, xdg = os.environ.get("LLMO_CACHE"), os.environ.get("XDG_CACHE_HOME")
    return Path(given) if given else (Path(xdg) if xdg else Path.home() / ".cache") / "llmo"


def _build() -> Corpus:
    tokenizer = load_tokenizer()
    texts = _texts()
    sha256 = hashlib.sha256()
    tokens = {}
    for cell in CELLS:
        sha256.update("\0".join((*cell, texts[cell], "")).encode())
        tokens[cell] = np.array(tokenizer.encode(texts[cell]).ids, np.int16)
    return Corpus(tokens, sha256.hexdigest(), {cell: len(texts[cell].encode()) for cell in CELLS})


def _digest(tokens: Mapping[Cell, NDArray[np.int16]], facts: str) -> str:
    digest = hashlib.sha256(facts.encode())
    for cell in CELLS:
        digest.update(np.ascontiguousarray(tokens[cell]).data)
    return digest.hexdigest()


def _read(file: Path) -> Corpus | None:
    """A cached corpus, or None where there is none, or it is not exactly what was written."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as stored:
            facts, digest = stored.metadata()["facts"], stored.metadata()["digest"]
            tokens = {cell: stored.get_tensor("/".join(cell)) for cell in CELLS}
        if _digest(tokens, facts) != digest:
            return None
        sha256, sizes = json.loads(facts)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None
    return Corpus(tokens, sha256, dict(zip(CELLS, sizes, strict=True)))


def _write(file: Path, corpus: Corpus) -> None:
    from safetensors.numpy import save

    facts = json.dumps([corpus.sha256, [corpus.bytes[cell] for cell in CELLS]])
    metadata = {"facts": facts, "digest": _digest(corpus.tokens, facts)}
    content = save({"/".join(cell): array for cell, array in corpus.tokens.items()}, metadata)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as temporary:
            temporary.write(content)
        os.replace(temporary.name, file)
    except OSError:
        return
