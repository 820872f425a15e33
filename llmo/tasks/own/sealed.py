"""Data files that are encrypted at rest: NAME.sealed stands for NAME, and only the key in `LLMO_KEY` opens it.

A file is 16 random bytes, then what `llmo/sealing.py` gives (AES-GCM in chunks). Each chunk is bound to those bytes, to
the file's name, to its own place and to the number of chunks: none can be cut off, moved, or taken from another file.
"""

from __future__ import annotations

import os
from pathlib import Path

from llmo.atomic import replacing, write_bytes_synced
from llmo.errors import LlmoError
from llmo.sealing import VARIABLE, KeyMissing, key, seal, unseal

SUFFIX = ".sealed"
IDENTITY = 16


def format_of(file: Path) -> str:
    """The suffix that says how a file is read: of a sealed one, that of what is in it."""
    return plain_name(file).suffix if file.suffix == SUFFIX else file.suffix


def plain_name(file: Path) -> Path:
    """Where a sealed file's content would stand beside it."""
    return file.with_name(file.stem)


def read_data(file: Path) -> bytes:
    """The content of a data file, sealed or not.

    Raises:
        LlmoError: It is sealed, and there is no key or another one, or it was altered.
        OSError: It cannot be read.
    """
    content = file.read_bytes()
    if file.suffix != SUFFIX:
        return content
    if key() is None:
        raise LlmoError("data", f"{file} without a key", f"with the key that it was sealed with, in {VARIABLE}")
    try:
        return unseal(content[IDENTITY:], _place(file.stem, content[:IDENTITY]))
    except KeyMissing as error:
        allowed = f"a sealed file under its own name, as it was written, and its own key in {VARIABLE}"
        raise LlmoError("data", str(file), allowed) from error


def seal_file(file: Path) -> Path:
    """Write the sealed twin of a file beside it; the file stays.

    Raises:
        LlmoError: There is no key, or the twin is there already.
    """
    if key() is None:
        raise LlmoError("key", "none", f"64 hexadecimal digits in {VARIABLE}")
    identity = os.urandom(IDENTITY)
    return _write(file.with_name(file.name + SUFFIX), identity + seal(file.read_bytes(), _place(file.name, identity)))


def unseal_file(file: Path, folder: Path) -> Path:
    """Write what is in a sealed file to a folder, which is made where there is none.

    Raises:
        LlmoError: See `read_data`; or something stands there already, or the folder is a file.
    """
    content = read_data(file)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise LlmoError("output", str(folder), "a folder, not a file") from error
    return _write(folder / plain_name(file).name, content)


def _place(name: str, identity: bytes) -> str:
    return f"data/{name}/{identity.hex()}"


def _write(target: Path, content: bytes) -> Path:
    check_free(target)
    with replacing(target) as temporary:
        write_bytes_synced(temporary, content)
    return target


def check_free(target: Path) -> None:
    """Check that nothing would be written over.

    Raises:
        LlmoError: Something would.
    """
    if target.exists():
        raise LlmoError("output", str(target), "a file that is not there yet")
