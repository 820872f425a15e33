"""The menu inside `transformers.Trainer`: what each action turns there, and which of them apply."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from llmo import catalog
from llmo.actions.augmentation import Augment
from llmo.actions.rate import ScaleRate
from llmo.engine.augment import corrupt
from llmo.engine.embedding import source_embedding
from llmo.hyperparameters import RATE_RANGE, WEIGHT_DECAY_LEVELS, Hyperparameters
from llmo.kinds import PADDING
from llmo.trainer.more_levers import MORE, TURNED, MoreLevers

if TYPE_CHECKING:
    from transformers import TrainingArguments


class Levers:
    """Turns what can be turned while `Trainer` trains.

    Args:
        args: Of the trainer.
        model: What is trained.
        optimizer: Its optimizer, whose rates, weight decay and moments are changed; its first rate is the default here.
        scheduler: Its scheduler; one that multiplies base rates (`LambdaLR`) can be ended or replaced by a decay.
        steps: Optimizer steps of the whole training.
        seed: Of what corrupts the inputs.

    Attributes:
        settings: Hyperparameters now; a decay counts from a share of the steps.
        default_rate: Rate that the script has chosen.
    """

    def __init__(
        self, args: TrainingArguments, model: nn.Module, optimizer: Any, scheduler: Any, steps: int, seed: int
    ) -> None:
        self._model, self._optimizer, self._steps, self._seed = model, optimizer, steps, seed
        self._scheduler = getattr(scheduler, "scheduler", scheduler)
        self._base_rates = [float(rate) for rate in getattr(self._scheduler, "base_lrs", [])]
        self.default_rate = self._base_rates[0] if self._base_rates else float(optimizer.param_groups[0]["lr"])
        self._script_lambdas = list(getattr(self._scheduler, "lr_lambdas", []))
        self._weight_decays = [group.get("weight_decay") for group in optimizer.param_groups]
        self._dropouts = [(module, module.p) for module in model.modules() if isinstance(module, nn.Dropout)]
        level = min(range(len(WEIGHT_DECAY_LEVELS)), key=lambda at: abs(WEIGHT_DECAY_LEVELS[at] - args.weight_decay))
        self._first = Hyperparameters(1.0, level)
        self.settings = Hyperparameters(self.default_rate, level, decay_from=0.0 if self._falls(args) else None)
        # The schedule of the script is kept until an action ends it or begins another.
        self._own_shape = False
        self._best: dict[str, Tensor] | None = None
        self._best_settings, self._best_shape = self.settings, False
        self._calls = 0
        embedding = source_embedding(model)
        self._more = MoreLevers(args, optimizer, embedding, seed)
        self._padding = getattr(getattr(model, "config", None), "pad_token_id", None)
        self._vocabulary = embedding.num_embeddings if isinstance(embedding, nn.Embedding) else 0
        self._hook = embedding.register_forward_pre_hook(self._corrupt) if self._vocabulary and embedding else None

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
        settings, kind = self.settings, catalog.get("actions", action)
        if action in MORE:
            return self._more.allowed(action, settings)
        if issubclass(kind, ScaleRate):
            return RATE_RANGE[0] <= kind.factor * settings.learning_rate / self.default_rate <= RATE_RANGE[1]
        if issubclass(kind, Augment):
            return self._hook is not None and kind.mode != settings.augmentation
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
        return False

    def apply(self, action: str) -> None:
        """Do what an allowed action does."""
        settings, kind = self.settings, catalog.get("actions", action)
        if action in MORE:
            self._set(self._more.changed(action, settings))
        elif issubclass(kind, ScaleRate):
            self._set(replace(settings, learning_rate=kind.factor * settings.learning_rate))
        elif issubclass(kind, Augment):
            self._set(replace(settings, augmentation=kind.mode))
        match action:
            case "rate_default":
                self._set(replace(settings, learning_rate=self.default_rate, decay_from=None))
            case "rate_decay":
                self._set(replace(settings, decay_from=min(self._step / self._steps, 0.999)))
            case "regularise_more" | "regularise_less":
                by = 1 if action == "regularise_more" else -1
                self._set(replace(settings, regularisation=settings.regularisation + by))
            case "rollback":
                self.load_best()
                self._give_back_shape()
                lower = min(settings.learning_rate, self._best_settings.learning_rate) / 2
                self._set(replace(self._best_settings, learning_rate=max(lower, RATE_RANGE[0] * self.default_rate)))

    def close(self) -> None:
        """Give back what was turned, and forget the best weights; where training ended, the rate stays."""
        if self._hook is not None:
            self._hook.remove()
        self._more.close()
        for module, own in self._dropouts:
            module.p = own
        for group, decay in zip(self._optimizer.param_groups, self._weight_decays, strict=True):
            if decay is not None:
                group["weight_decay"] = decay
        for group, rate in zip(self._optimizer.param_groups, self._base_rates, strict=False):
            group["initial_lr"] = rate
        self._best = None

    # The rate

    @property
    def _shaped(self) -> bool:
        """Whether the scheduler multiplies base rates by functions, which can be replaced."""
        return isinstance(self._scheduler, LambdaLR)

    @property
    def _step(self) -> int:
        """Steps that the scheduler has counted."""
        return int(getattr(self._scheduler, "last_epoch", 0))

    def _falls(self, args: TrainingArguments) -> bool:
        """Whether the script's schedule ends far below its highest rate."""
        if not self._shaped:
            return not str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)).startswith("constant")
        factor = self._scheduler.lr_lambdas[0]
        highest = max(factor(self._steps * tenth // 10) for tenth in range(10))
        return bool(factor(self._steps) < 0.5 * highest)

    def _set(self, settings: Hyperparameters) -> None:
        before, self.settings = self.settings, settings
        self._own_shape |= settings.decay_from != before.decay_from
        self._turn_rate(settings.learning_rate / before.learning_rate)
        if (settings.weight_decay, settings.dropout) != (before.weight_decay, before.dropout):
            self._regularise()
        if any(getattr(settings, name) != getattr(before, name) for name in TURNED):
            self._more.set(settings)

    def _turn_rate(self, by: float) -> None:
        relative = self.settings.learning_rate / self.default_rate
        if self._base_rates:
            self._scheduler.base_lrs = [relative * rate for rate in self._base_rates]
        if self._own_shape and self._shaped:
            self._scheduler.lr_lambdas = [self._shape()] * len(self._scheduler.lr_lambdas)
        for index, group in enumerate(self._optimizer.param_groups):
            if self._shaped:
                # What the scheduler would write, which it does after the next step only.
                group["lr"] = self._scheduler.base_lrs[index] * self._scheduler.lr_lambdas[index](self._step)
                group["initial_lr"] = self._scheduler.base_lrs[index]
            else:
                group["lr"] *= by
        if hasattr(self._scheduler, "_last_lr"):
            # What the trainer logs as the next step's rate.
            self._scheduler._last_lr = [group["lr"] for group in self._optimizer.param_groups]

    def _give_back_shape(self) -> None:
        """The script's own schedule, where the best had it."""
        if self._own_shape and not self._best_shape and self._shaped:
            self._scheduler.lr_lambdas = list(self._script_lambdas)
            self._own_shape = False
            self.settings = replace(self.settings, decay_from=self._best_settings.decay_from)

    def _shape(self) -> Callable[[int], float]:
        begin, steps = self.settings.decay_from, self._steps

        def factor(step: int) -> float:
            if begin is None:
                return 1.0
            return min(1.0, max(0.0, (1 - step / steps) / (1 - begin)))

        return factor

    def _regularise(self) -> None:
        """Weight decay and dropout as the settings say; where those are as at the beginning, the script's own."""
        decay, dropout = self.settings.weight_decay, self.settings.dropout
        groups = zip(_decayed_groups(self._weight_decays), self._weight_decays, self._optimizer.param_groups)
        for decayed, own, group in groups:
            if decayed and own is not None:
                group["weight_decay"] = own if decay == self._first.weight_decay else decay
        bound = max if dropout > self._first.dropout else min
        for module, p in self._dropouts:
            module.p = p if dropout == self._first.dropout else bound(p, dropout)

    # The inputs

    def _corrupt(self, module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if self.settings.augmentation == "off" or not module.training or not given:
            return None
        ids = given[0]
        # Rows that are packed without padding are one.
        array = ids.cpu().numpy().reshape(1, -1, ids.shape[-1])
        padded = np.where(array == self._padding, PADDING, array) if self._padding is not None else array
        seeds, steps = np.array([self._seed], np.uint64), np.array([self._calls])
        self._calls += 1
        other = corrupt(padded, self.settings.augmentation, seeds, steps, self._vocabulary)[0]
        changed = torch.from_numpy(np.where(other == PADDING, array[0], other)).to(ids.device, ids.dtype)
        return (changed.reshape(ids.shape), *given[1:])

    # The best so far

    @property
    def has_best(self) -> bool:
        """Whether there is something to go back to."""
        return self._best is not None

    @torch.no_grad()
    def keep_best(self) -> None:
        """Remember weights, moments and settings, on the CPU; fresh memory costs more than the copy, so it is kept."""
        self._best_settings, self._best_shape = self.settings, self._own_shape
        kept = self._best or {}
        self._best = {
            name: kept[name].copy_(tensor) if name in kept else tensor.detach().cpu().clone()
            for name, tensor in self._tensors().items()
        }

    @torch.no_grad()
    def load_best(self, weights_alone: bool = False) -> None:
        """Go back to the best weights, and to the optimizer's moments at them: none before the first step."""
        assert self._best is not None
        for name, tensor in self._tensors().items():
            if name in self._best and (name.startswith("weights/") or not weights_alone):
                tensor.copy_(self._best[name])
        if not weights_alone:
            known = {name.partition("/")[2] for name in self._best if not name.startswith("weights/")}
            for name, parameter in self._model.named_parameters():
                if name not in known:
                    # The optimizer begins anew; zeros would not do for those that keep counts or tables beside.
                    self._optimizer.state.pop(parameter, None)

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

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What a resumed training needs: JSON, and the best tensors."""
        facts = {
            "settings": vars(self.settings),
            "best_settings": vars(self._best_settings),
            "own_shape": self._own_shape,
            "best_shape": self._best_shape,
            "calls": self._calls,
            "base_rates": self._base_rates,
            "default_rate": self.default_rate,
            "weight_decays": self._weight_decays,
            "first_regularisation": self._first.regularisation,
            "more": self._more.state(),
        }
        return facts, self._best or {}

    def restore(self, state: dict[str, Any], best: dict[str, Tensor]) -> None:
        """Go on as `state` says; the trainer has loaded the optimizer and the scheduler already."""
        self._base_rates, self.default_rate = list(state["base_rates"]), state["default_rate"]
        self._weight_decays = list(state["weight_decays"])
        self._own_shape, self._best_shape, self._calls = state["own_shape"], state["best_shape"], state["calls"]
        self.settings = Hyperparameters(**state["settings"])
        self._best_settings = Hyperparameters(**state["best_settings"])
        self._best = best or None
        self._first = Hyperparameters(1.0, state["first_regularisation"])
        self._turn_rate(1.0)
        self._more.restore(state["more"], self.settings)
        self._regularise()


def _decayed_groups(decays: Sequence[float | None]) -> list[bool]:
    """Which groups have weight decay; where none has any, the first, as `Trainer` orders them."""
    decayed = [bool(decay) for decay in decays]
    return decayed if any(decayed) else [index == 0 for index in range(len(decays))]
