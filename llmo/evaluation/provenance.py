"""What a published number must say about where it comes from."""

from __future__ import annotations

import platform
import subprocess
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
