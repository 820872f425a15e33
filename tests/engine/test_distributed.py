"""Two processes under `accelerate launch` (gloo, on CPUs) train one model as one process does."""

import importlib.util
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from llmo.evaluation.result import load_records

PROGRAM = Path(__file__).with_name("launched.py")
DDP = ["--multi_gpu"]
FSDP = ["--use_fsdp", "--fsdp_version", "2", "--fsdp_auto_wrap_policy", "TRANSFORMER_BASED_WRAP"]
Python = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def program() -> ModuleType:
    spec = importlib.util.spec_from_file_location("launched", PROGRAM)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def launch(python: Python, flags: list[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Two processes on a free port, with nothing read from the user's own settings of accelerate."""
    given = ["--num_processes", "2", "--num_machines", "1", "--main_process_port", "0", "--dynamo_backend", "no"]
    launcher = ["-m", "accelerate.commands.launch", *given, "--mixed_precision", "no", *flags, str(PROGRAM)]
    return python(*launcher, *arguments, HF_HOME="nowhere", ACCELERATE_USE_CPU="true")


def agree(program: ModuleType, result: subprocess.CompletedProcess[str], plans: list[str]) -> None:
    """One line, from the first rank, of what one process measures: losses, norms, cosines, delivered weights."""
    lines = [line for line in result.stdout.splitlines() if line.startswith("{")]
    assert len(lines) == 1, result.stdout + result.stderr
    for plan, together in json.loads(lines[0]).items():
        alone = program.train(plan)
        for interval, other in zip(alone, together, strict=True):
            assert interval == pytest.approx(other, rel=1e-4, abs=1e-5), plan
    assert list(json.loads(lines[0])) == plans


def test_ddp_agrees_with_one_process_and_a_killed_rank_ends_all(python: Python, program: ModuleType) -> None:
    plans = ["llama", "gpt2 accumulation", "llama frozen accumulation"]
    result = launch(python, DDP, *plans, "die")
    agree(program, result, plans)
    assert result.returncode != 0


def test_fsdp_agrees_with_one_process_and_the_first_rank_alone_writes(
    python: Python, program: ModuleType, tmp_path: Path
) -> None:
    plans = ["llama", "gpt2 accumulation checkpointing", "llama frozen"]
    result = launch(python, FSDP, *plans, "play", str(tmp_path / "out"))
    agree(program, result, plans)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("test loss") == 1
    (record,) = load_records(tmp_path / "out")
    assert program.play(str(tmp_path / "alone")) == 0
    (other,) = load_records(tmp_path / "alone")
    assert len(record.decisions) > 2
    for found, right in zip(record.decisions, other.decisions, strict=True):
        assert found.action == right.action and found.cost == right.cost
        assert found.validation_loss == pytest.approx(right.validation_loss, rel=1e-4)
    assert record.result.test_loss == pytest.approx(other.result.test_loss, rel=1e-4)
