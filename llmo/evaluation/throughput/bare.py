"""What a user would write without llmo: a Hugging Face model, torch's AdamW and clipping, in a plain loop."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llmo.engine.layout import MAX_RANK
from llmo.engine.models import ModelShape, build_model
from llmo.engine.optimizer import BETAS, CLIP_NORM
from llmo.engine.state import Problem


def bare_model(shape: ModelShape, seed: int) -> Any:
    """A model as Hugging Face makes it by default, with torch's own attention."""
    model: Any = build_model(shape, seed)
    model.set_attn_implementation("sdpa")
    return model


def peft_model(shape: ModelShape, seed: int) -> Any:
    """Such a model with PEFT's LoRA on every linear layer."""
    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(r=MAX_RANK, lora_alpha=2 * MAX_RANK, target_modules="all-linear", task_type="CAUSAL_LM")
    with warnings.catch_warnings():
        # PEFT 0.21 reads a property that transformers 5.23 has renamed.
        warnings.simplefilter("ignore", FutureWarning)
        return get_peft_model(bare_model(shape, seed), settings)


class BareLoop:
    """A plain training loop on the data of a problem.

    Args:
        model: A causal language model; what requires gradients is trained.
        problem: Whose windows, batch, rate and validation examples it uses.
        device: Where it trains.
    """

    def __init__(self, model: Any, problem: Problem, device: str = "cpu") -> None:
        self.problem, self.model, self.device = problem, model.train().to(device), device
        self.trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        settings = problem.hyperparameters
        self.optimizer = torch.optim.AdamW(
            self.trained, settings.learning_rate, betas=BETAS, weight_decay=settings.weight_decay, fused=True
        )
        self.random = np.random.default_rng(problem.seed)
        self.best_loss = math.inf
        self.best: list[Tensor] = []

    def train(self, steps: int) -> None:
        """Some optimizer steps."""
        task, batch = self.problem.task, self.problem.batch
        for _ in range(steps):
            drawn = task.draw(self.random.integers(3, size=batch), self.random.random(batch))
            loss = self._loss(*(torch.from_numpy(array).to(self.device) for array in drawn))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.trained, CLIP_NORM)
            self.optimizer.step()
            self.optimizer.zero_grad()
            loss.item()

    def interval(self, steps: int) -> None:
        """Some optimizer steps and a validation pass that keeps the best weights."""
        self.train(steps)
        examples = self.problem.task.validation
        with torch.no_grad():
            loss = self._loss(examples.inputs.to(self.device), examples.labels.to(self.device)).item()
        if loss < self.best_loss:
            self.best_loss, self.best = loss, [parameter.detach().clone() for parameter in self.trained]

    def _loss(self, inputs: Tensor, labels: Tensor) -> Tensor:
        logits = self.model(input_ids=inputs, use_cache=False).logits
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
