"""A model that has become smaller is delivered as transformers has it: in a folder, with its own configuration."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llmo.engine.layout import Layout
from llmo.engine.own_models import open_model
from llmo.engine.run import Run
from llmo.engine.state import Problem
from llmo.evaluation.own.export import improved_model, save_model
from llmo.hyperparameters import Hyperparameters
from llmo.kinds import auto_class
from llmo.tasks.causal_lm import CausalLM
from llmo.tasks.labelled import Labelled
from llmo.tasks.task import Examples, Task


def task_of(kind: str) -> Task:
    rng = np.random.default_rng(0)
    if kind == "causal_lm":
        ids = [rng.integers(0, 64, shape) for shape in (300, 300, 300, (6, 9), (6, 9))]
        return CausalLM(tuple(part.astype(np.int16) for part in ids[:3]), *ids[3:])
    made = [Examples(torch.from_numpy(rng.integers(0, 64, (8, 9))), torch.arange(8)[:, None] % 2) for _ in range(3)]
    return Labelled((made[0],) * 3, *made[1:])


@pytest.mark.parametrize("kind", ["causal_lm", "classification"])
def test_a_smaller_model_loads_with_its_own_configuration(tmp_path: Path, kind: Any) -> None:
    torch.set_num_threads(1)
    own = open_model("scratch:8x3", kind)
    model = own.build(("no", "yes") if kind == "classification" else None, 0)
    settings = Hyperparameters(learning_rate=3e-3)
    problem = Problem(
        task_of(kind), Layout(model).flatten(model), None, "scratch", settings, ((0.0, (0, 1, 2)),), 4, 2, 1e15, 0,
        size_price=5.0,
    )  # fmt: skip
    run = Run(model, 1, "single")
    run.load(0, problem)
    run.evaluate([0])
    run.prune_units(0)
    run.remove_block(0)
    run.prune_heads(0)
    run.train([0])
    size = run.evaluate([0])[0].size
    structure = run.saved_structure(0, "best")
    assert structure.removed == (1, 6, 1)
    # The run goes on; what was best stays.
    run.add_block(0)
    run.train([0])
    save_model(improved_model(model, run.delivered(0)[0], 0, structure), own.tokenizer, tmp_path / "model")
    loaded = auto_class(kind).from_pretrained(tmp_path / "model", use_safetensors=True, trust_remote_code=False)
    config = loaded.config
    assert (config.num_hidden_layers, config.intermediate_size, config.num_attention_heads) == (2, 18, 1)
    assert sum(parameter.numel() for parameter in loaded.parameters()) / run.parameters == pytest.approx(size)
    inputs = problem.task.test.inputs
    positions = problem.task.positions
    found = run.interface.logits(loaded.eval()(**run.interface.arguments(inputs, positions)))
    expected = run.executor.logits(run.delivered(0), inputs[None], positions)[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
