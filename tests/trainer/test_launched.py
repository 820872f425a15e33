"""Two processes under `accelerate launch`: `llmo.TrainerCallback`, and `llmo improve`."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file

from llmo.cli import main

Python = Callable[..., subprocess.CompletedProcess[str]]
LAUNCH = (
    "-m accelerate.commands.launch --multi_gpu --num_processes 2 --main_process_port 0 --mixed_precision no".split()
)


def test_all_ranks_do_what_the_first_one_chooses(python: Python, tmp_path: Path) -> None:
    program = Path(__file__).with_name("launched.py")
    ended = python(*LAUNCH, str(program), str(tmp_path / "out"), HF_HOME="nowhere", ACCELERATE_USE_CPU="true")
    assert ended.returncode == 0, ended.stderr
    first, second = (json.loads((tmp_path / "out" / f"rank-{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    assert len(set(first["actions"])) > 2
    assert len((tmp_path / "out" / "llmo_decisions.jsonl").read_text().splitlines()) == len(first["actions"]) == 10


def test_improve_gives_the_model_of_one_process(python: Python, tmp_path: Path) -> None:
    lines = [
        {"text": f"{word} {color}", "label": word} for word in ("cat", "dog") for color in ("red", "green", "blue")
    ]
    for name in ("train", "valid", "test"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in 4 * lines))
    given = ["--model", "scratch:8x1", "--data", str(tmp_path), "--task", "classification", "--budget", "1e8flops"]
    command = ["improve", *given, "--agent", "scripted", "--batch", "4", "--out"]
    two = tmp_path / "two"
    ended = python(*LAUNCH, "-m", "llmo", *command, str(two), HF_HOME="nowhere", ACCELERATE_USE_CPU="true")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("the model is in") == 1
    assert main([*command, str(tmp_path / "one")]) == 0
    one, other = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("one", "two"))
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=0, atol=1e-4)
