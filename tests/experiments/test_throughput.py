"""What `llmo throughput` writes, refuses and makes of planted numbers."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path

import pytest
import torch

from llmo.cli import main
from llmo.engine.models import ModelShape
from llmo.engine.run import Run
from llmo.errors import WorkerError
from llmo.evaluation.throughput.bare import BareLoop, bare_model, peft_model
from llmo.evaluation.throughput.environment import timed_runs
from llmo.evaluation.throughput.fresh import in_fresh_python
from llmo.evaluation.throughput.measures import MEASURES, chosen
from llmo.evaluation.throughput.memory import environment
from llmo.evaluation.throughput.picture import plot_sweep
from llmo.evaluation.throughput.problems import Setup, loaded_run, plain_problem
from llmo.evaluation.throughput.row import Row, Target, Workload, alone, compared, line, missing
from llmo.evaluation.throughput.timing import in_turn

TINY = ModelShape(16, 1)
WORKLOAD = Workload(100, 64, 1)


def test_the_command_measures_what_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    asked = ["--scale", "0.01", "--rows", "gpu-population,snapshot"]
    assert main(["throughput", "--out", str(out), *asked]) == 0
    content = json.loads((out / "throughput.json").read_text())
    assert {"commit", "versions", "machine", "corpus_sha256"} < content.keys()
    assert content["command"] == f"llmo throughput {' '.join(asked)}"
    rows = [Row(**row) for row in content["rows"]]
    measured = [row for row in rows if row.name == "snapshot"]
    assert [row.parameters for row in measured] == [105_112] * 2 + [1_000_800] * 2
    for row in measured:
        assert row.value is not None and row.against is not None and row.ratio is not None
        assert row.value > 0 and row.against > 0
        assert row.low is not None and row.high is not None and row.low <= row.ratio <= row.high
        assert row.met is ((row.ratio <= 0.05) if row.wanted else None)
    open_rows = [row for row in rows if row.name == "gpu-population"]
    assert [row.executor for row in open_rows] == ["batched", "compiled"]
    if not torch.cuda.is_available():
        assert all(row.value is None and "no GPU" in row.note for row in open_rows)
    said = capsys.readouterr().out.splitlines()
    assert said[:6] == [line(row) for row in rows]
    assert said[6].startswith(f"{sum(row.met is True for row in rows)} of 2 targets met")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--rows", "full-replica"], ["row 'full-replica'", "did you mean 'full-replicas'"]),
        (["--rows", "env-step,nothing"], ["row 'nothing'", "mixed-population"]),
        (["--scale", "0"], ["scale 0.0", "a positive number"]),
        (["--scale", "-1"], ["scale -1.0"]),
        (["--baseline", "nowhere"], ["baseline 'nowhere'", "a checkout"]),
        (["--replicas", "3"], ["--replicas"]),
    ],
)
def test_a_wrong_option_is_one_line(
    arguments: list[str], words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["throughput", "--out", str(tmp_path / "new"), *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert all(word in error for word in words)
    assert not (tmp_path / "new").exists()


def test_every_measure_says_what_it_measures() -> None:
    assert chosen(None) == list(MEASURES)
    assert chosen(["sweep", "env-step", "sweep"]) == ["env-step", "sweep"]
    assert all(measure.__doc__ for measure in MEASURES.values())


def test_a_ratio_is_the_median_of_pairs() -> None:
    row = compared("x", WORKLOAD, [1.0, 8.0, 3.0], [2.0, 2.0, 3.0], "ms", Target("at most", 1))
    assert (row.value, row.against, row.ratio, row.low, row.high) == (3.0, 2.0, 1.0, 0.75, 2.5)
    assert (row.wanted, row.met) == ("at most 1", True)
    assert compared("x", WORKLOAD, [3.9], [1.0], "steps/s", Target("at least", 4)).met is False
    single = alone("x", WORKLOAD, [1.0, 2.0, 3.0], "s", Target("at most", 1.5))
    assert (single.value, single.low, single.high, single.ratio, single.met) == (2.0, 1.5, 2.5, None, False)


def test_what_was_not_measured_has_no_value_and_a_reason() -> None:
    row = missing("x", WORKLOAD, "ms", "no such device", Target("at least", 2), "batched")
    assert (row.value, row.ratio, row.met, row.wanted) == (None, None, None, "at least 2")
    assert "not measured" in line(row) and "no such device" in line(row)
    assert [field.name for field in fields(Row)][:8] == [
        "name", "parameters", "tokens", "replicas", "value", "unit", "against", "ratio",
    ]  # fmt: skip


def test_calls_are_timed_in_turn() -> None:
    order: list[str] = []
    found = in_turn({name: partial(order.append, name) for name in "ab"}, duration=0.0)
    assert order == ["a", "b"] * 3
    assert [len(values) for values in found.values()] == [2, 2]
    slow = in_turn({"wait": partial(time.sleep, 0.02)}, 0.0, time.perf_counter)
    assert (slow["wait"] >= 0.02).all()


@pytest.mark.parametrize(("make", "trained"), [(bare_model, 11_184), (peft_model, 8 * (4 * 32 + 3 * 56))])
def test_the_bare_loops_learn(make: Callable[[ModelShape, int], object], trained: int) -> None:
    loop = BareLoop(make(TINY, 0), plain_problem(Setup(TINY), 0))
    assert sum(parameter.numel() for parameter in loop.trained) == trained
    loop.interval(1)
    before = loop.best_loss
    loop.interval(60)
    assert loop.best_loss < before
    assert len(loop.best) == len(loop.trained)


def test_the_bare_loop_starts_where_the_run_does() -> None:
    """What is compared must be the same work."""
    setup = Setup(TINY, 2)
    run = loaded_run(setup, "batched")
    measured = run.evaluate([0, 1])
    for seed in (0, 1):
        loop = BareLoop(bare_model(TINY, seed), plain_problem(setup, seed))
        loop.interval(0)
        assert loop.best_loss == pytest.approx(measured[seed].validation_loss, rel=1e-5)


def test_runs_on_a_frozen_base_hold_factors_of_the_highest_rank() -> None:
    run = loaded_run(Setup(TINY, 2), "batched", frozen=True)
    assert run.frozen and [state.rank for state in run.states] == [8, 8]
    before = run.effective(range(len(run.rows)))
    run.train([0, 1])
    assert (run.effective(range(len(run.rows))) != before).any(1).all()


def test_runs_are_watched_only_as_long_as_asked() -> None:
    original = Run.train
    with timed_runs("train") as watch:
        loaded_run(Setup(TINY), "single").train([0])
    assert 0 < watch.seconds
    assert Run.train is original


def test_a_fresh_python_measures_its_own_memory() -> None:
    held = bytearray(600_000_000)
    held[::4096] = b"x" * len(held[::4096])
    assert 100 < in_fresh_python(environment, TINY.width, TINY.depth) < 600


def test_a_failure_in_a_fresh_python_is_named() -> None:
    with pytest.raises(WorkerError, match="integer division or modulo by zero"):
        in_fresh_python(divmod, 1, 0)


def test_the_sweep_has_a_picture(tmp_path: Path) -> None:
    rows = [
        alone("sweep", Workload(size, tokens, replicas), [1e3 * replicas / size], "replica-steps/s", executor=executor)
        for size in (10_000, 1_000_000)
        for tokens in (64, 512)
        for executor, counts in (("single", [1]), ("batched", [1, 8, 64]))
        for replicas in counts
    ]
    rows.append(missing("sweep", WORKLOAD, "replica-steps/s", "no compiler", executor="compiled"))
    plot_sweep(rows, tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes()[:4] == b"\x89PNG"
    assert json.loads(json.dumps(asdict(rows[0])))["executor"] == "single"
