"""Work over processes: the same results, and an end when something goes wrong."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llmo.errors import LlmoError, WorkerError
from llmo.evaluation.processes import spread, worker_count


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


def test_the_results_do_not_depend_on_the_workers() -> None:
    calls = [(number,) for number in range(5)]
    assert dict(spread(square, calls, 0)) == dict(spread(square, calls, 2)) == {n: n * n for n in range(5)}


def test_an_error_ends_what_is_still_being_worked_on() -> None:
    began = time.monotonic()
    with pytest.raises(LlmoError, match="number"):
        list(spread(fail, [(0,), (1,), (2,)], 2))
    assert time.monotonic() - began < 50
    deadline = time.monotonic() + 20
    while multiprocessing.active_children() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not multiprocessing.active_children()


def test_a_killed_process_is_reported() -> None:
    with pytest.raises(WorkerError, match="--resume"):
        list(spread(die, [(0,), (1,)], 1))


@pytest.mark.parametrize(("asked", "count"), [(0, 0), (3, 3)])
def test_as_many_as_asked_for(asked: int, count: int) -> None:
    assert worker_count(asked) == count
    assert worker_count(None) >= 1
    with pytest.raises(LlmoError, match="workers"):
        worker_count(-1)


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
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    deadline = time.monotonic() + 90
    while not list(tmp_path.rglob("*.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 130, error
    assert error.strip().endswith("llmo: interrupted")
    assert "Traceback" not in error
