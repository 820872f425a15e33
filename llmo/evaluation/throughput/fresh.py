"""Calls in a Python of their own, which has imported nothing and used no memory before."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from llmo.errors import WorkerError


def in_fresh_python(function: Callable[..., Any], *arguments: Any, **environment: str) -> Any:
    """What a call gives in a new process of one thread.

    Args:
        function: Of a module.
        *arguments: That JSON can say.
        **environment: Variables that the process sees besides this one's.

    Raises:
        WorkerError: The process has failed.
    """
    names = function.__module__, function.__name__
    command = [sys.executable, "-m", __name__, *names, json.dumps(arguments)]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["nothing was said"])[-1]
        raise WorkerError(f"a process that measures has ended with status {done.returncode}: {last}")
    return json.loads(done.stdout.splitlines()[-1])


def _main(module: str, name: str, arguments: str) -> None:
    from llmo.evaluation.processes import one_thread

    one_thread()
    print(json.dumps(getattr(importlib.import_module(module), name)(*json.loads(arguments))))


if __name__ == "__main__":
    _main(*sys.argv[1:])
