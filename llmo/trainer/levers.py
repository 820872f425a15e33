"""The menu inside `transformers.Trainer`: what each action turns there, and which of them apply."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from llmo.engine.batches import corrupt
from llmo.hyperparameters import RATE_RANGE, WEIGHT_DECAY_LEVELS, Augmentation, Hyperparameters
from llmo.kinds import PADDING
from llmo.run_dir import replacing, tensor_bytes, write_bytes_synced

if TYPE_CHECKING:
    from transformers import TrainingArguments

FACTORS = {"rate_x0.2": 0.2, "rate_x0.5": 0.5, "rate_x2": 2.0, "rate_x5": 5.0}
AUGMENTATIONS: dict[str, Augmentation] = {
    "augment_off": "off",
    "augment_noise": "token_noise",
    "augment_mask": "span_masking",
}
BEST = "llmo_best.safetensors"
"""File in a checkpoint with what a roll back goes back to."""


class Levers:
    """Turns what can be turned while `Trainer` trains.

    Args:
        args: Of the trainer; its learning rate is the default one here.
        model: What is trained.
        optimizer: Its optimizer, whose rates, weight decay and moments are changed.
        scheduler: Its scheduler; one that multiplies base rates (`LambdaLR`) can be ended or replaced by a decay.
        steps: Optimizer steps of the whole training.
        seed: Of what corrupts the inputs.

    Attributes:
        settings: Hyperparameters now; a decay counts from a share of the steps.
        step: Optimizer steps so far; kept up to date by the callback.
    """

    def __init__(
        self, args: TrainingArguments, model: nn.Module, optimizer: Any, scheduler: Any, steps: int, seed: int
    ) -> None:
        self._model, self._optimizer, self._steps, self._seed = model, optimizer, steps, seed
        self._scheduler = getattr(scheduler, "scheduler", scheduler)
        self.default_rate = float(args.learning_rate)
        self.step = 0
        self._base_rates = [float(rate) for rate in getattr(self._scheduler, "base_lrs", [])]
        self._decayed = _decayed_groups(optimizer.param_groups)
        self._dropouts = [(module, module.p) for module in model.modules() if isinstance(module, nn.Dropout)]
        level = min(range(len(WEIGHT_DECAY_LEVELS)), key=lambda at: abs(WEIGHT_DECAY_LEVELS[at] - args.weight_decay))
        constant = str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)).startswith("constant")
        self.settings = Hyperparameters(self.default_rate, level, decay_from=None if constant else 0.0)
        self._first_regularisation = level
        self._own_shape = False
        self._best: dict[str, Tensor] | None = None
        self._best_settings = self.settings
        self._calls = 0
        embedding = _input_embedding(model)
        self._padding = getattr(getattr(model, "config", None), "pad_token_id", None)
        self._hook = embedding.register_forward_pre_hook(self._corrupt) if embedding is not None else None
        self._vocabulary = embedding.num_embeddings if isinstance(embedding, nn.Embedding) else 0

    @property
    def rate(self) -> float:
        """Learning rate of the first group now."""
        return float(self._optimizer.param_groups[0]["lr"])

    def allowed(self, action: str, worse: bool) -> bool:
        """Whether an action of the menu would do anything now.

        Args:
            action: Its name.
            worse: Whether the last validation was not the best.
        """
        settings = self.settings
        if action in FACTORS:
            return RATE_RANGE[0] <= FACTORS[action] * settings.learning_rate / self.default_rate <= RATE_RANGE[1]
        match action:
            case "keep":
                return True
            case "rate_default":
                return settings.learning_rate != self.default_rate or (settings.decay_from is not None and self._shaped)
            case "rate_decay":
                return settings.decay_from is None and self._shaped
            case "regularise_more":
                return settings.regularisation < len(WEIGHT_DECAY_LEVELS) - 1
            case "regularise_less":
                return settings.regularisation > 0
            case "rollback":
                return self._best is not None and worse
        if action in AUGMENTATIONS:
            return self._hook is not None and self._vocabulary > 0 and AUGMENTATIONS[action] != settings.augmentation
        return False

    def apply(self, action: str) -> None:
        """Do what an allowed action does."""
        settings = self.settings
        if action in FACTORS:
            self._set(replace(settings, learning_rate=FACTORS[action] * settings.learning_rate))
        elif action in AUGMENTATIONS:
            self._set(replace(settings, augmentation=AUGMENTATIONS[action]))
        match action:
            case "rate_default":
                self._set(replace(settings, learning_rate=self.default_rate, decay_from=None))
            case "rate_decay":
                self._set(replace(settings, decay_from=min(self.step / self._steps, 0.999)))
            case "regularise_more" | "regularise_less":
                by = 1 if action == "regularise_more" else -1
                self._set(replace(settings, regularisation=settings.regularisation + by))
            case "rollback":
                self.load_best()
                lower = min(settings.learning_rate, self._best_settings.learning_rate) / 2
                self._set(replace(self._best_settings, learning_rate=max(lower, RATE_RANGE[0] * self.default_rate)))

    def close(self) -> None:
        """Corrupt no inputs any more, and give dropouts their own probabilities back."""
        if self._hook is not None:
            self._hook.remove()
        for module, own in self._dropouts:
            module.p = own

    # The rate

    @property
    def _shaped(self) -> bool:
        """Whether the scheduler multiplies base rates by functions, which can be replaced."""
        return hasattr(self._scheduler, "lr_lambdas")

    def _set(self, settings: Hyperparameters) -> None:
        before, self.settings = self.settings, settings
        # The schedule of the script is kept until an action ends it or begins another.
        self._own_shape |= settings.decay_from != before.decay_from
        self._turn_rate(settings.learning_rate / before.learning_rate)
        if settings.regularisation != before.regularisation:
            self._regularise()

    def _turn_rate(self, by: float) -> None:
        relative = self.settings.learning_rate / self.default_rate
        if self._base_rates:
            self._scheduler.base_lrs = [relative * rate for rate in self._base_rates]
        if self._own_shape and self._shaped:
            self._scheduler.lr_lambdas = [self._shape()] * len(self._scheduler.lr_lambdas)
        for index, group in enumerate(self._optimizer.param_groups):
            if self._shaped:
                # What the scheduler would write, which it does after the next step only.
                group["lr"] = self._scheduler.base_lrs[index] * self._scheduler.lr_lambdas[index](self.step)
                group["initial_lr"] = self._scheduler.base_lrs[index]
            else:
                group["lr"] *= by
        if hasattr(self._scheduler, "_last_lr"):
            # What the trainer logs as the next step's rate.
            self._scheduler._last_lr = [group["lr"] for group in self._optimizer.param_groups]

    def _regularise(self) -> None:
        for decayed, group in zip(self._decayed, self._optimizer.param_groups, strict=True):
            if decayed:
                group["weight_decay"] = self.settings.weight_decay
        for module, own in self._dropouts:
            module.p = max(own, self.settings.dropout)

    def _shape(self) -> Callable[[int], float]:
        begin, steps = self.settings.decay_from, self._steps

        def factor(step: int) -> float:
            if begin is None:
                return 1.0
            return min(1.0, max(0.0, (1 - step / steps) / (1 - begin)))

        return factor

    # The inputs

    def _corrupt(self, module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if self.settings.augmentation == "off" or not module.training or not given:
            return None
        ids = given[0]
        array = ids.cpu().numpy().reshape(1, *ids.shape)
        padded = np.where(array == self._padding, PADDING, array) if self._padding is not None else array
        seeds, steps = np.array([self._seed], np.uint64), np.array([self._calls])
        self._calls += 1
        other = corrupt(padded, self.settings.augmentation, seeds, steps, self._vocabulary)[0]
        changed = torch.from_numpy(np.where(other == PADDING, array[0], other)).to(ids.device, ids.dtype)
        return (changed, *given[1:])

    # The best so far

    @torch.no_grad()
    def keep_best(self) -> None:
        """Remember weights, moments and settings, on the CPU."""
        self._best_settings = self.settings
        self._best = {name: tensor.detach().cpu().clone() for name, tensor in self._tensors().items()}

    @torch.no_grad()
    def load_best(self, weights_alone: bool = False) -> None:
        """Go back to the best weights, and to the optimizer's moments at them."""
        assert self._best is not None
        for name, tensor in self._tensors().items():
            if name in self._best and (name.startswith("weights/") or not weights_alone):
                tensor.copy_(self._best[name])

    @property
    def has_best(self) -> bool:
        """Whether there is something to go back to."""
        return self._best is not None

    def _tensors(self) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for name, parameter in self._model.named_parameters():
            if parameter.requires_grad:
                found[f"weights/{name}"] = parameter
                for key, value in self._optimizer.state.get(parameter, {}).items():
                    if isinstance(value, Tensor):
                        found[f"{key}/{name}"] = value
        return found

    # Resuming

    def state(self) -> dict[str, Any]:
        """What a resumed training needs besides the tensors, as JSON."""
        return {
            "settings": vars(self.settings),
            "best_settings": vars(self._best_settings),
            "own_shape": self._own_shape,
            "calls": self._calls,
            "base_rates": self._base_rates,
            "first_regularisation": self._first_regularisation,
        }

    def restore(self, state: dict[str, Any], checkpoint: Path) -> None:
        """Go on as `state` says; the trainer has loaded the optimizer and the scheduler already.

        Args:
            state: Of `state`.
            checkpoint: Folder that may have the best tensors.
        """
        self._base_rates = list(state["base_rates"])
        self._own_shape, self._calls = state["own_shape"], state["calls"]
        self.settings = Hyperparameters(**state["settings"])
        self._best_settings = Hyperparameters(**state["best_settings"])
        if (checkpoint / BEST).exists():
            import safetensors.torch

            self._best = safetensors.torch.load_file(checkpoint / BEST)
        self._turn_rate(1.0)
        if self.settings.regularisation != state["first_regularisation"]:
            self._regularise()

    def save_best(self, checkpoint: Path) -> None:
        """Write the best tensors into a checkpoint."""
        if self._best is not None and checkpoint.is_dir():
            with replacing(checkpoint / BEST) as temporary:
                write_bytes_synced(temporary, tensor_bytes(self._best))


def _decayed_groups(groups: Sequence[dict[str, Any]]) -> list[bool]:
    """Which groups have weight decay; where none has any, the first, as `Trainer` orders them."""
    decayed = [bool(group.get("weight_decay")) for group in groups]
    return decayed if any(decayed) else [index == 0 for index in range(len(groups))]


def _input_embedding(model: Any) -> nn.Module | None:
    try:
        found: nn.Module | None = model.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        return None
    return found
