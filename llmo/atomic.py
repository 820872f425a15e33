"""Files that are written whole or not at all: a crash or a full disk leaves what was there before."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch


def write_text_atomic(path: str | Path, text: str) -> None:
    """Write a file as a whole or not at all: readers and a crash see the old content or the new."""
    with replacing(Path(path)) as temporary:
        write_bytes_synced(temporary, text.encode())


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` to write to; it replaces `path` at the end, or is removed on an error."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_bytes_synced(path: Path, content: bytes) -> None:
    """Write a file and wait until it is on the disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Wait until what was made, renamed or removed in a folder is on the disk."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def tensor_bytes(tensors: Mapping[str, torch.Tensor | np.ndarray]) -> bytes:
    """Tensors and numpy arrays in the safetensors format; views of one buffer are saved apart."""
    import safetensors.torch
    import torch

    return safetensors.torch.save(
        {
            name: torch.as_tensor(tensor).detach().cpu().clone(memory_format=torch.contiguous_format)
            for name, tensor in tensors.items()
        }
    )
