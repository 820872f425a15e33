"""A run's folder: one writer at a time, a JSONL record, and checkpoints that are either whole or not there.

A checkpoint is written to a hidden folder, flushed to the disk, described by a manifest with the sha256 of every file,
and only then renamed to its number: a killed process or a full disk costs the checkpoint being written, no older one.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from llmo.atomic import sync_folder, tensor_bytes, write_bytes_synced, write_text_atomic
from llmo.errors import LlmoError
from llmo.sealing import KeyMissing, check_key, seal, unseal

if TYPE_CHECKING:
    import numpy as np
    import torch

KEPT = 2
"""How many checkpoints are kept; more than one, so that an altered newest one does not lose the run."""
FORMAT = 1
"""Version of the layout of a checkpoint."""


@dataclass(frozen=True)
class Checkpoint:
    """What `RunDir.checkpoint` saved.

    Attributes:
        step: The number it was saved under.
        tensors: The tensors, on the CPU; what was a numpy array comes back as a tensor.
        meta: The JSON object saved beside them.
        records: Size in bytes of each record file when it was saved.
    """

    step: int
    tensors: dict[str, torch.Tensor]
    meta: dict[str, Any]
    records: dict[str, int]


class RunDir:
    """A run's folder; as a context manager it makes the folder, locks it, and lets it be written.

    Reading (`latest_checkpoint`) needs no lock. Checkpoints are encrypted where there is a key, see `llmo/sealing.py`.

    Args:
        path: The folder.
        resume: Whether the folder may already hold a run, which is then continued.

    Attributes:
        path: As given.
        skipped: Names of the checkpoints that the last `latest_checkpoint` found broken.
    """

    def __init__(self, path: str | Path, resume: bool = False) -> None:
        self.path = Path(path)
        self.resume = resume
        self.skipped: list[str] = []
        self._records: dict[str, BinaryIO] = {}
        self._lock: int | None = None

    def __enter__(self) -> RunDir:
        """Make and lock the folder.

        Raises:
            LlmoError: There is a key that nothing can be encrypted with; the folder is no folder, is in use, or holds a
                run and `resume` was not asked for.
        """
        check_key()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise LlmoError("run folder", str(self.path), "a folder, not a file") from error
        self._acquire()
        if not self.resume and any(entry.name != "lock" for entry in self.path.iterdir()):
            self._release()
            raise LlmoError(
                "run folder", str(self.path), "a new or empty folder, or --resume to continue the run in it"
            )
        for leftover in [*self.path.glob(".*.tmp"), *self._checkpoints.glob(".*.tmp")]:
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        return self

    def __exit__(self, *exception: object) -> None:
        for file in self._records.values():
            file.close()
        self._records.clear()
        self._release()

    def settle(self, settings: Mapping[str, Any]) -> None:
        """Write the settings that make the run what it is to ``config.json``; a resumed run must have the same.

        Raises:
            LlmoError: A setting differs from the folder's, or the file cannot be read.
        """
        path = self.path / "config.json"
        if path.exists():
            try:
                old = dict(json.loads(path.read_bytes()))
            except (ValueError, TypeError) as error:
                raise LlmoError("settings", str(path), f"a JSON object ({error})") from error
            for name, value in settings.items():
                if old.get(name) != value:
                    raise LlmoError(f"{name} of a resumed run", value, f"the run's own, {old.get(name)!r}")
        write_text_atomic(path, json.dumps(dict(settings), indent=2) + "\n")

    def settled(self, name: str) -> Any:
        """One of the settings that a resumed run was started with; None where there is none."""
        path = self.path / "config.json"
        return json.loads(path.read_bytes()).get(name) if path.exists() else None

    def append(self, record: Mapping[str, Any], name: str = "decisions.jsonl") -> None:
        """Append one JSON object as one line; a line that a killed process left unfinished is dropped first."""
        file = self._record(name)
        file.write(json.dumps(dict(record)).encode() + b"\n")
        file.flush()

    def checkpoint(self, step: int, tensors: Mapping[str, torch.Tensor | np.ndarray], meta: Mapping[str, Any]) -> None:
        """Save a checkpoint and remove the older ones but one.

        Args:
            step: Its number, not negative; a later checkpoint has a higher one.
            tensors: What to save, of any shapes.
            meta: A JSON object.

        Raises:
            OSError: It could not be written, as on a full disk; older checkpoints are untouched.
        """
        self._checkpoints.mkdir(exist_ok=True)
        final = self._checkpoints / f"{step:06d}"
        temporary = self._checkpoints / f".{final.name}.tmp"
        contents = {"tensors.safetensors": tensor_bytes(tensors), "meta.json": json.dumps(dict(meta)).encode()}
        files = {name: seal(content, f"{step}/{name}") for name, content in contents.items()}
        for file in self._records.values():
            os.fsync(file.fileno())
        manifest = {
            "format": FORMAT,
            "step": step,
            "sha256": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
            "records": {path.name: path.stat().st_size for path in sorted(self.path.glob("*.jsonl"))},
        }
        files["manifest.json"] = json.dumps(manifest).encode()
        try:
            temporary.mkdir()
            for name, content in files.items():
                write_bytes_synced(temporary / name, content)
            sync_folder(temporary)
            if final.exists():
                shutil.rmtree(final)
            temporary.rename(final)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        sync_folder(self._checkpoints)
        # Higher numbers are the broken ones that a resumed run skipped: they must not push out what it saves now.
        for old in [path for path in self._numbered() if int(path.name) <= step][:-KEPT]:
            shutil.rmtree(old)

    def latest_checkpoint(self) -> Checkpoint | None:
        """The newest checkpoint that is whole, or None; broken ones are named by a warning and in `skipped`.

        Raises:
            KeyMissing: It is encrypted, and the key is missing or another one.
        """
        self.skipped = []
        for path in reversed(self._numbered()):
            try:
                return _read_checkpoint(path)
            except KeyMissing:
                raise
            except LlmoError as error:
                self.skipped.append(path.name)
                warnings.warn(str(error), stacklevel=2)
        return None

    def rewind(self, checkpoint: Checkpoint | None) -> None:
        """Cut every record file to what it held at a checkpoint, so that what is done again is not recorded twice.

        Args:
            checkpoint: What the run continues from; None empties the records.
        """
        for path in sorted(self.path.glob("*.jsonl")):
            size = checkpoint.records.get(path.name, 0) if checkpoint else 0
            # A crash may have lost the end of a record: cutting it to a greater size would fill it with zeros.
            self._record(path.name).truncate(min(size, path.stat().st_size))

    @property
    def _checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def _numbered(self) -> list[Path]:
        return sorted(
            (path for path in self._checkpoints.glob("*") if path.name.isdecimal()), key=lambda p: int(p.name)
        )

    def _record(self, name: str) -> BinaryIO:
        if name not in self._records:
            file = (self.path / name).open("ab+")
            file.seek(0)
            content = file.read()
            file.truncate(content.rfind(b"\n") + 1)
            self._records[name] = file
        return self._records[name]

    def _acquire(self) -> None:
        lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(lock, 32).decode().strip()
            os.close(lock)
            in_use = f"a folder that no run is using (process {holder} is using this one)"
            raise LlmoError("run folder", str(self.path), in_use) from None
        os.truncate(lock, 0)
        os.write(lock, f"{os.getpid()}\n".encode())
        self._lock = lock

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _read_checkpoint(path: Path) -> Checkpoint:
    """Load one checkpoint after comparing every file with the manifest."""
    import safetensors.torch

    try:
        manifest = json.loads((path / "manifest.json").read_bytes())
        files = {name: (path / name).read_bytes() for name in ("tensors.safetensors", "meta.json")}
        if manifest["format"] != FORMAT:
            raise ValueError(f"format {manifest['format']}")
        for name, content in files.items():
            if hashlib.sha256(content).hexdigest() != manifest["sha256"][name]:
                raise ValueError(f"{name} was altered or cut short")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LlmoError("checkpoint", str(path), f"one that is whole ({error})") from error
    # A missing or wrong key is no reason to begin again from an older checkpoint.
    contents = {name: unseal(content, f"{manifest['step']}/{name}") for name, content in files.items()}
    try:
        tensors = safetensors.torch.load(contents["tensors.safetensors"])
        return Checkpoint(manifest["step"], tensors, json.loads(contents["meta.json"]), manifest["records"])
    except (ValueError, KeyError, TypeError) as error:
        raise LlmoError("checkpoint", str(path), f"one that is whole ({error})") from error


class ReadOnlyRunDir(RunDir):
    """A run's folder in the eyes of a process that helps another one, which writes it: what is to be written is not."""

    def __enter__(self) -> RunDir:
        """Nothing is made or locked."""
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def settle(self, settings: Mapping[str, Any]) -> None:
        """See `RunDir.settle`, which the other process does."""

    def append(self, record: Mapping[str, Any], name: str = "decisions.jsonl") -> None:
        """See `RunDir.append`, which the other process does."""

    def rewind(self, checkpoint: Checkpoint | None) -> None:
        """See `RunDir.rewind`, which the other process does."""

    def checkpoint(self, step: int, tensors: Mapping[str, torch.Tensor | np.ndarray], meta: Mapping[str, Any]) -> None:
        """See `RunDir.checkpoint`, which the other process does."""
