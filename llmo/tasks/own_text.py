"""A folder of text as one more domain: `train.txt`, `valid.txt` and `test.txt`, UTF-8."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llmo.errors import LlmoError
from llmo.tasks.text import Cell, load_corpus, load_tokenizer

FILES = {"training": "train.txt", "validation": "valid.txt", "test": "test.txt"}
LEAST = 1_000
"""Tokens that a file must have: eight stretches of some windows each."""


@dataclass(frozen=True)
class Folder:
    """The text of a folder as tokens; the same for all parts of an environment.

    Attributes:
        tokens: Token ids of each split, int16 [L], read-only.
        bytes: UTF-8 size of each split.
        sha256: Hash over the three files.
    """

    tokens: Mapping[str, NDArray[np.int16]]
    bytes: Mapping[str, int]
    sha256: str


@lru_cache(maxsize=8)
def load_folder(folder: str) -> Folder:
    """Read a folder.

    Raises:
        LlmoError: A file is missing, is no UTF-8 text, or is too short.
    """
    tokens, sizes, sha256 = {}, {}, hashlib.sha256()
    for split, name in FILES.items():
        file = Path(folder) / name
        try:
            content = file.read_bytes()
            text = content.decode("utf-8-sig")
        except OSError as error:
            raise LlmoError("data", str(file), f"a folder with {', '.join(FILES.values())} ({error})") from error
        except UnicodeDecodeError as error:
            raise LlmoError("data", str(file), f"UTF-8 text ({error})") from error
        ids = np.array(load_tokenizer().encode(text).ids, np.int16)
        if len(ids) < LEAST:
            raise LlmoError("data", f"{file} of {len(ids)} tokens", f"at least {LEAST}")
        ids.setflags(write=False)
        sha256.update(hashlib.sha256(content).digest())
        tokens[split], sizes[split] = ids, len(content)
    return Folder(tokens, sizes, sha256.hexdigest())


def cell_tokens(cell: Cell) -> tuple[NDArray[np.int16], int]:
    """Tokens and bytes of a cell, whose domain is one of `DOMAINS` or a folder.

    Raises:
        LlmoError: See `load_folder`.
    """
    corpus = load_corpus()
    if cell in corpus.tokens:
        return corpus.tokens[cell], corpus.bytes[cell]
    domain, _, split = cell
    own = load_folder(domain)
    return own.tokens[split], own.bytes[split]


def text_sha256(folder: str) -> str:
    """Hash of all text of an environment: what every Python carries, and a folder where its name is not empty."""
    corpus = load_corpus().sha256
    return hashlib.sha256(f"{corpus} {load_folder(folder).sha256}".encode()).hexdigest() if folder else corpus
