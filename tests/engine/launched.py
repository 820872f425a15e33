"""What `test_distributed.py` runs under `accelerate launch`, and in its own process to compare.

accelerate launch ... tests/engine/launched.py "llama" "gpt2 accumulation" ... [play OUT | die]
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from llmo.cli import main as command_line
from llmo.engine.adapters import grow
from llmo.engine.layout import FactorLayout, Layout
from llmo.engine.models import ModelShape, build_model
from llmo.engine.ranks import first_rank
from llmo.engine.run import Run
from llmo.engine.shards import ShardLayout
from llmo.engine.single import SingleSettings
from llmo.engine.state import Problem
from llmo.hyperparameters import Hyperparameters
from llmo.measurement import Measurement
from llmo.tasks.causal_lm import CausalLM

TOKENS, SEQUENCES = 8, 4


def llama() -> Any:
    """A Llama of three blocks."""
    return build_model(ModelShape(12, 3), 0)


def gpt2() -> Any:
    """GPT-2 without dropout of its own, and of odd sizes, which two ranks cannot share equally."""
    config = GPT2Config(
        vocab_size=65, n_positions=15, n_embd=10, n_inner=13, n_layer=2, n_head=2, attn_implementation="eager",
        resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return GPT2LMHeadModel(config)


def problem(model: Any, frozen: bool = False) -> Problem:
    """Random tokens, a teacher, dropout; seven validation sequences, which two ranks cannot share equally."""
    rng = np.random.default_rng(0)
    weights, rank = Layout(model).flatten(model), 0
    if frozen:
        layout, rank = FactorLayout(model), 4
        weights = torch.zeros(layout.size)
        grow(layout.factors, weights, 0, rank, 0)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        teacher = type(model)(model.config).eval()
    return Problem(
        task=CausalLM(
            tuple(rng.integers(0, 64, 300).astype(np.int16) for _ in range(3)),
            rng.integers(0, 64, (7, TOKENS + 1)),
            rng.integers(0, 64, (9, TOKENS + 1)),
        ),
        weights=weights,
        teacher=teacher,
        start="scratch",
        hyperparameters=Hyperparameters(learning_rate=5e-3, regularisation=2),
        roles=((0.0, (0, 1, 2)),),
        interval=4,
        batch=SEQUENCES,
        budget=1e15,
        seed=3,
        rank=rank,
    )


def interval(run: Run) -> Measurement:
    """Train and measure."""
    run.train([0])
    return run.evaluate([0])[0]


def numbers(measured: Measurement) -> list[float]:
    """What must agree."""
    m = measured
    return [
        m.train_loss, m.validation_loss, m.gradient_norm, m.momentum_cosine, m.gradient_cosine, m.update_ratio,
        *(loss for loss in m.source_loss if loss == loss),
    ]  # fmt: skip


def train(plan: str) -> list[list[float]]:
    """Train 20 optimizer steps and more by a plan, such as ``"llama"`` or ``"gpt2 accumulation"``; what it measured."""
    kind, *options = plan.split()
    model, frozen = {"llama": llama, "gpt2": gpt2}[kind](), "frozen" in options
    settings = SingleSettings(
        precision="bfloat16" if "bfloat16" in options else "float32",
        accumulation=2 if "accumulation" in options else 1,
        checkpointing="checkpointing" in options,
    )
    run = Run(model, frozen=frozen, single=settings)
    run.load(0, problem(model, frozen))
    seen = [numbers(run.evaluate([0])[0])[1:2], numbers(interval(run))]
    run.change(0, distillation="averaged")
    seen.append(numbers(interval(run)))
    snapshot = run.snapshot(0)
    seen.append(numbers(interval(run)))
    run.restore(0, snapshot)
    assert numbers(interval(run)) == seen[-1], "continuing from a snapshot is bit-identical"
    run.change(0, distillation="teacher", learning_rate=2e-3)
    if not frozen:
        run.fresh_adapter(0)
        seen.append(numbers(interval(run)))
    run.grow_adapter(0)
    seen.append(numbers(interval(run)))
    if not frozen:
        run.merge_adapter(0)
    run.load_averaged(0)
    seen.append(numbers(interval(run)))
    run.load_best(0)
    seen.append(numbers(interval(run)))
    delivered = run.delivered(0)[0]
    whole = run.layout.whole(delivered) if isinstance(run.layout, ShardLayout) else delivered[: run.layout.size]
    seen.append([run.test_loss(0), *whole[:: len(whole) // 20].tolist(), whole.norm().item()])
    return seen


def die() -> None:
    """Train until the last rank is killed."""
    model = llama()
    run = Run(model)
    run.load(0, problem(model))
    while True:
        interval(run)
        if not first_rank():
            os.kill(os.getpid(), signal.SIGKILL)


def play(out: str) -> int:
    """What `llmo play` gives; its exit status."""
    arguments = ["--agent", "cosine", "--instance", "3", "--budget", "0.2", "--out", out]
    return command_line(["play", "llmo/LanguageModel-v0", *arguments])


def main(*plans: str) -> int:
    """Print the numbers of some plans as one JSON line, then do what the last arguments say; the exit status."""
    torch.set_num_threads(1)
    last = next((place for place, plan in enumerate(plans) if plan in ("play", "die")), len(plans))
    seen = {plan: train(plan) for plan in plans[:last]}
    if first_rank():
        print(json.dumps(seen), flush=True)
    match plans[last:]:
        case ["die"]:
            die()
        case ["play", out]:
            return play(out)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
