"""The text that every Python carries: real language in three domains, without a download.

Prose is the language reference in `pydoc_data.topics`; docstrings and code are those of the standard library, code
without its docstrings. Names alone decide where a text belongs: a sha256 of a name gives its instance part and,
inside the part, its split. A module's docstrings and code go by its name; prose by its section's title, since topics
are few and uneven, and some repeat whole sections of others. `SALT` was chosen once, so that the scarce prose fills
every cell in Python 3.11, 3.12 and 3.13.

Units are read in the order of another hash of their names until a cell has its fill. A paragraph that was met before,
in whatever domain or part, is dropped: the first unit in that order owns it, and no two cells share one. Nor do they
share near copies: a paragraph is dropped when more than a quarter of its runs of eight words were met before.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import sysconfig
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from llmo.atomic import replacing
from llmo.errors import LlmoError
from llmo.tasks import standard_library
from llmo.tasks.standard_library import PARAGRAPH, modules, paragraphs, sections, split_source

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

# Limits in characters; RUN is in words.
TRAINING_LIMIT = {"train": 400_000, "dev": 220_000, "test": 220_000}
HELD_OUT_LIMIT = 60_000
UNIT_LIMIT = 30_000
RUN = 8


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
    """The instance part, the split inside it and the reading rank of a unit: a function of its name alone."""
    digest = hashlib.sha256(f"{SALT}/{name}".encode()).digest()
    part, split, rank = (int.from_bytes(digest[at : at + 8], "big") for at in (0, 8, 16))
    return _pick(PARTS, PART_SHARES, part / 2**64), _pick(SPLITS, SPLIT_SHARES, split / 2**64), rank


def _pick(names: tuple[str, ...], shares: tuple[float, ...], u: float) -> str:
    for name, share in zip(names, shares, strict=True):
        u -= share
        if u < 0:
            return name
    return names[-1]


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

    The folder is `$LLMO_CACHE`, `$XDG_CACHE_HOME/llmo` or `~/.cache/llmo`; where it cannot be written, nothing is kept.

    Raises:
        LlmoError: This Python comes without `pydoc_data.topics`.
    """
    key = hashlib.sha256(f"{sys.version}{sysconfig.get_path('stdlib')}".encode())
    for path in (Path(__file__), Path(standard_library.__file__), TOKENIZER):
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
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as temporary:
            temporary.write_bytes(content)
