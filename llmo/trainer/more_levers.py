"""What the whole menu turns inside `transformers.Trainer`: clipping, moments, weight decay or dropout alone, noise."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from llmo import catalog
from llmo.actions.levels import Turn
from llmo.engine.perturbing import noise
from llmo.hyperparameters import Hyperparameters

if TYPE_CHECKING:
    from transformers import TrainingArguments

MORE = (
    "clip_more", "clip_less", "momentum_more", "momentum_less", "memory_more", "memory_less", "decay_more",
    "decay_less", "dropout_more", "dropout_less", "perturb_noise", "perturb_off",
)  # fmt: skip
"""Actions of the whole menu that apply here.

`batch_double` and `batch_halve` do not. Trainer (transformers 5.23) reads `gradient_accumulation_steps` anew at every
update, but how many updates an epoch and the training have, and where in the data a resumed training goes on, it has
computed from the value at the beginning. Accumulating less spends less and gives no step more; a turn between two
multiples steps on a part of a batch; a checkpoint after it goes on at another place
(`tests/trainer/test_accumulation.py`).
"""
TURNED = ("clipping", "momentum", "memory", "perturbation")
"""Hyperparameters that are set here; weight decay and dropout are with the others."""


class MoreLevers:
    """Turns what the trainer reads at every step anyway.

    Args:
        args: Of the trainer; its `max_grad_norm` is live.
        optimizer: Its optimizer, whose betas are.
        embedding: The layer that reads the tokens; None where there is none.
        seed: Of the noise.
    """

    def __init__(self, args: TrainingArguments, optimizer: Any, embedding: nn.Module | None, seed: int) -> None:
        self._args, self._optimizer = args, optimizer
        self._first_norm = float(args.max_grad_norm or 0.0)
        self._first_betas = [group.get("betas") for group in optimizer.param_groups]
        self._settings = Hyperparameters(1.0)
        self._seed, self._calls = seed, 0
        self._hook = None if embedding is None else embedding.register_forward_hook(self._add_noise)

    def allowed(self, action: str, settings: Hyperparameters) -> bool:
        """Whether an action would do anything with these settings."""
        kind = catalog.get("actions", action)
        if not issubclass(kind, Turn):
            return self._hook is not None and settings.perturbation != kind.mode
        if kind.hyperparameter == "clipping" and not self._first_norm:
            return False
        if kind.hyperparameter in ("momentum", "memory") and not any(self._first_betas):
            return False
        return kind().turned(settings) is not None

    def changed(self, action: str, settings: Hyperparameters) -> Hyperparameters:
        """The settings after an allowed action."""
        kind = catalog.get("actions", action)
        if not issubclass(kind, Turn):
            return replace(settings, perturbation=kind.mode)
        turned: Hyperparameters | None = kind().turned(settings)
        assert turned is not None
        return turned

    def set(self, settings: Hyperparameters) -> None:
        """Bring the trainer to what the settings say; the script's own values are the default levels."""
        self._settings = settings
        if self._first_norm:
            self._args.max_grad_norm = self._first_norm * settings.level("clipping") / _default("clipping")
        for group, first in zip(self._optimizer.param_groups, self._first_betas, strict=True):
            if first:
                turned = (
                    1 - (1 - beta) * (1 - settings.level(name)) / (1 - _default(name))
                    for beta, name in zip(first, ("momentum", "memory"), strict=False)
                )
                # Some optimizers have more of them.
                group["betas"] = (*turned, *first[2:])

    def close(self) -> None:
        """Give back what was turned."""
        if self._hook is not None:
            self._hook.remove()
        self.set(Hyperparameters(1.0))

    def _add_noise(self, module: nn.Module, _given: Any, output: Tensor) -> Tensor:
        if self._settings.perturbation != "noise" or not module.training:
            return output
        generator = torch.Generator().manual_seed((self._seed * 1_000_003 + self._calls) % 2**63)
        self._calls += 1
        u = torch.rand(output.shape, generator=generator).to(output)
        return output + noise(output.detach(), u)

    def state(self) -> dict[str, Any]:
        """What a resumed training needs, as JSON."""
        return {"calls": self._calls, "first_norm": self._first_norm, "first_betas": self._first_betas}

    def restore(self, state: dict[str, Any], settings: Hyperparameters) -> None:
        """Go on as `state` says."""
        self._calls, self._first_norm = state["calls"], state["first_norm"]
        self._first_betas = [None if betas is None else tuple(betas) for betas in state["first_betas"]]
        self.set(settings)


def _default(name: str) -> float:
    return Hyperparameters(1.0).level(name)
