"""Calls over processes: the same results, whatever happens to the processes, and an end when it happens too often."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from llmo.errors import LlmoError, WorkerError
from llmo.evaluation.spread import spread
from llmo.evaluation.workers import HERE, Workers

ONE, TWO = Workers("processes", 1), Workers("processes", 2)


def square(number: int) -> int:
    return number * number


def fail(number: int) -> int:
    if number == 0:
        raise LlmoError("number", number, "another one")
    time.sleep(60)
    return number


def die(number: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return number


def die_twice(folder: Path, number: int) -> int:
    """What is done is noted down; the second call survives at the third attempt."""
    with (folder / str(number)).open("a") as file:
        file.write("begun\n")
    if number == 1 and (folder / "1").read_text().count("\n") < 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number


def name(variable: str) -> str:
    return os.environ[variable]


def test_the_results_do_not_depend_on_the_workers() -> None:
    calls = [(number,) for number in range(5)]
    assert dict(spread(square, calls, HERE)) == dict(spread(square, calls, TWO)) == {n: n * n for n in range(5)}


def test_an_error_ends_what_is_still_being_worked_on() -> None:
    began = time.monotonic()
    with pytest.raises(LlmoError, match="number"):
        list(spread(fail, [(0,), (1,), (2,)], TWO))
    assert time.monotonic() - began < 50
    deadline = time.monotonic() + 20
    while multiprocessing.active_children() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not multiprocessing.active_children()


def test_a_killed_process_costs_the_call_it_was_on(tmp_path: Path) -> None:
    calls = [(tmp_path, number) for number in range(4)]
    assert dict(spread(die_twice, calls, TWO)) == {number: number**2 for number in range(4)}
    assert [(tmp_path / str(number)).read_text().count("begun") for number in range(4)] == [1, 3, 1, 1]


def test_a_call_that_kills_three_processes_is_reported() -> None:
    with pytest.raises(WorkerError, match="a worker has ended, 3 times at the same work.*--resume"):
        list(spread(die, [(0,), (1,)], ONE))


def test_processes_know_the_environment_of_now(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("one", "other"):
        monkeypatch.setenv("LLMO_PLUGINS", value)
        assert dict(spread(name, [("LLMO_PLUGINS",)], ONE)) == {0: value}


def test_control_c_ends_a_benchmark(tmp_path: Path) -> None:
    words = [
        "benchmark",
        "--agents",
        "keep",
        "--instances",
        "64",
        "--replicas",
        "2",
        "--split",
        "dev",
        "--workers",
        "1",
    ]
    command = [sys.executable, "-m", "llmo", *words, "--out", str(tmp_path / "out")]
    pipes: dict[str, Any] = {"stderr": subprocess.PIPE, "stdout": subprocess.DEVNULL, "text": True}
    # A shell's background jobs ignore the interrupt, and so would what they start.
    heeding = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(command, preexec_fn=heeding, **pipes)
    deadline = time.monotonic() + 90
    while not list(tmp_path.rglob("*.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 130, error
    assert error.strip().endswith("llmo: interrupted")
    assert "Traceback" not in error
