"""What a published number must say about where it comes from."""

from __future__ import annotations

import inspect
import platform
import shlex
import subprocess
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

LIBRARIES = ("gymnasium", "numpy", "peft", "sb3-contrib", "stable-baselines3", "torch", "transformers")


def provenance() -> dict[str, Any]:
    """Commit, versions, machine and corpus hash: ``{"commit", "versions", "machine", "corpus_sha256"}``."""
    from llmo import __version__
    from llmo.tasks.text import load_corpus

    versions = {"python": platform.python_version(), "llmo": __version__}
    for name in LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "commit": commit(),
        "versions": versions,
        "machine": f"{platform.machine()}, {_processor()}",
        "corpus_sha256": load_corpus().sha256,
    }


def command(name: str, function: Callable[..., object], given: Mapping[str, Any]) -> str:
    """The command line that calls an experiment as it was called.

    Args:
        name: Registered name of the experiment.
        function: The experiment; what equals its defaults, and `--out` and `--resume`, are left out.
        given: Its arguments, by name.
    """
    words = ["llmo", name]
    for parameter in inspect.signature(function).parameters.values():
        value = given[parameter.name]
        if parameter.default is parameter.empty:
            words.append(str(value))
        elif value != parameter.default and parameter.name not in ("out", "resume"):
            text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            words += [f"--{parameter.name}"] if value is True else [f"--{parameter.name}", text]
    return shlex.join(words)


def commit() -> str:
    """The checkout's commit, with ``+changes`` where files differ from it; ``release`` outside a checkout."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return "release"
    try:
        head = subprocess.run(["git", "-C", root, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True)
        changed = subprocess.run(["git", "-C", root, "status", "--porcelain", "-uno"], capture_output=True, text=True)
    except OSError:
        return "unknown"
    return head.stdout.strip() + ("+changes" if changed.stdout.strip() else "") if head.returncode == 0 else "unknown"


def _processor() -> str:
    """The processor's name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
