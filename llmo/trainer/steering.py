"""One training of somebody else's, steered by an agent: what it measures, what is chosen, what is remembered."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from llmo.actions.menu import MENU
from llmo.agent import Agent, Space
from llmo.atomic import replacing, tensor_bytes, write_bytes_synced
from llmo.diagnostics.causes import diagnose
from llmo.diagnostics.features import WHOLE_NAMES, observe
from llmo.diagnostics.history import History
from llmo.engine.ranks import agreed
from llmo.errors import LlmoError
from llmo.hyperparameters import Start
from llmo.kinds import Interface, kind_of
from llmo.measurement import Measurement
from llmo.trainer.gauge import Gauge
from llmo.trainer.levers import Levers
from llmo.trainer.more_levers import MORE

if TYPE_CHECKING:
    from transformers import TrainingArguments

STOP = "stop"
"""Ends the training; what is left of the steps is the user's to save."""
STEERED = (*MENU, *MORE, STOP)
"""What an agent chooses from; of the core some actions never apply here."""
UNKNOWN = (math.nan, math.nan, math.nan)
EVEN = (1 / 3, 1 / 3, 1 / 3)
TENSORS = "llmo.safetensors"
"""File in a checkpoint with what a roll back goes back to, and what the gauge has seen."""


@dataclass(frozen=True)
class Choice:
    """What was chosen and why.

    Attributes:
        action: Its name; `keep` where what was chosen cannot be done.
        why: The agent's reason.
        cause: Which bottleneck was diagnosed.
        evidence: The numbers behind that.
    """

    action: str
    why: str
    cause: str
    evidence: str


class Steering:
    """An agent's hand on a training.

    Args:
        agent: Who chooses.
        args: Of the trainer.
        model: What is trained.
        optimizer: Of the trainer.
        scheduler: Of the trainer.
        steps: Optimizer steps of the whole training.
        keeps_best: Whether the best weights are kept, to go back to.
        seed: Of the agent, and of corrupted inputs.

    Attributes:
        levers: What is turned.
        gauge: What looks at gradients.
        history: What the agent's observation is read from.
        losses: Training losses since the last validation, with the number of steps that each is the mean of.
        norms: Norms of gradients before clipping since then, as the trainer has logged them.
    """

    def __init__(
        self,
        agent: Agent,
        args: TrainingArguments,
        model: Any,
        optimizer: Any,
        scheduler: Any,
        steps: int,
        keeps_best: bool,
        seed: int,
    ) -> None:
        agent.bind(Space(STEERED, WHOLE_NAMES))
        agent.reset([seed])
        self._agent, self._keeps_best, self._total, self._args = agent, keeps_best, steps, args
        self.levers = Levers(args, model, optimizer, scheduler, steps, seed)
        self.gauge = Gauge(model)
        self._outputs = _outputs(model)
        self.history = History(
            start=_start(model),
            vocabulary=self._outputs or 2,
            default_rate=self.levers.default_rate,
            hyperparameters=self.levers.settings,
            neutral=frozenset(("sources",)),
        )
        self.losses: list[tuple[float, int]] = []
        self.norms: list[float] = []
        self._kept, self._measured = math.inf, 0
        self._seen: list[tuple[list[float], list[bool]]] = []

    @property
    def worse(self) -> bool:
        """Whether the last validation was not the best."""
        last = self.history.measurements[-1:]
        return bool(last) and last[0].validation_loss > last[0].best_validation_loss

    @property
    def stopped(self) -> bool:
        """Whether the agent has ended the training."""
        return self.history.actions[-1:] == [STOP]

    def measure(self, step: int, loss: float) -> None:
        """Take note of a validation.

        Args:
            step: Optimizer steps so far.
            loss: Validation loss.
        """
        before, sound, taken = self.history.measurements, math.isfinite(loss), step - self._measured
        looks, ratio = self.gauge.close()
        if not before:
            ratio = self.gauge.first_ratio(self.levers.rate)
            if not self._outputs and sound:
                # Whatever it is, a model that knows nothing guesses among so many.
                self.history.vocabulary = max(2, round(math.exp(min(loss, 20.0))))
        elif not looks.norms:
            self.history.neutral |= {"gradient"}
        loss = loss if sound else math.inf
        best = min(loss, before[-1].best_validation_loss) if before else loss
        steps = sum(count for _, count in self.losses)
        # A sample's norm is that after clipping; the trainer has logged some from before. What overflows is skipped.
        norms = self.norms or [norm for norm in looks.norms if math.isfinite(norm)]
        limit = self._args.max_grad_norm
        before.append(
            Measurement(
                step=len(before),
                optimizer_steps=taken,
                spent=step / self._total,
                cost=0.0,
                validation_loss=loss,
                best_validation_loss=best,
                train_loss=sum(one * count for one, count in self.losses) / steps if steps else math.nan,
                source_loss=UNKNOWN,
                source_share=EVEN,
                source_tokens=EVEN,
                mixture=EVEN,
                gradient_norm=float(np.mean(norms)) if norms else 0.0,
                clipped=float(np.mean([norm > limit for norm in norms])) if norms and limit else 0.0,
                momentum_cosine=looks.momentum_cosine,
                gradient_cosine=looks.gradient_cosine,
                update_ratio=ratio,
                learning_rate=self.levers.rate if taken else 0.0,
                teacher_loss=math.nan,
                diverged=not sound,
            )
        )
        self.losses, self.norms, self._measured = [], [], step
        if self._keeps_best and sound and loss <= self._kept:
            self._kept = loss
            self.levers.keep_best()

    def decide(self) -> Choice:
        """Choose, and do it; after a loss that is no number, go back to the best."""
        observation = observe(self.history, WHOLE_NAMES)
        mask = np.array([action == STOP or self.levers.allowed(action, self.worse) for action in STEERED])
        action, why = self._ask(observation, mask)
        if self.history.last.diverged and mask[STEERED.index("rollback")]:
            action, why = "rollback", "the loss is no number any more"
        # A last bit must not part processes that train together.
        action, why = agreed((action, why))
        if action != STOP:
            self.levers.apply(action)
        self.history.actions.append(action)
        self.history.hyperparameters = self.levers.settings
        return Choice(action, why, *diagnose(observation))

    def _ask(self, observation: NDArray[np.float32], mask: NDArray[np.bool_]) -> tuple[str, str]:
        first = np.array([not self._seen])
        self._seen.append((observation.tolist(), mask.tolist()))
        action = int(self._agent.act(observation[None], mask[None], first)[0])
        return STEERED[action] if mask[action] else "keep", (self._agent.explain() or [""])[0]

    # Resuming

    def state(self) -> dict[str, Any]:
        """Everything but tensors, as JSON."""
        return {
            "measurements": [asdict(one) for one in self.history.measurements],
            "actions": list(self.history.actions),
            "vocabulary": self.history.vocabulary,
            "neutral": sorted(self.history.neutral),
            "losses": list(self.losses),
            "norms": list(self.norms),
            "measured": self._measured,
            "kept": self._kept,
            "seen": list(self._seen),
            "levers": self.levers.state()[0],
            "gauge": self.gauge.state()[0],
        }

    def save(self, checkpoint: Path) -> None:
        """Write the tensors into a checkpoint, if there is one."""
        if checkpoint.is_dir():
            parts = {"best": self.levers.state()[1], "gauge": self.gauge.state()[1]}
            tensors = {f"{part}/{name}": tensor for part, found in parts.items() for name, tensor in found.items()}
            with replacing(checkpoint / TENSORS) as temporary:
                write_bytes_synced(temporary, tensor_bytes(tensors))

    def restore(self, state: dict[str, Any], checkpoint: Path) -> bool:
        """Go on where a checkpoint was; the agent sees again what it has seen, and so remembers the same.

        Args:
            state: Of `state`.
            checkpoint: Folder that may have the tensors.

        Returns:
            Whether it has; without them the best so far is forgotten.
        """
        import safetensors.torch

        file = checkpoint / TENSORS
        tensors = safetensors.torch.load_file(file) if file.exists() else {}
        parts: dict[str, dict[str, Any]] = {"best": {}, "gauge": {}}
        for name, tensor in tensors.items():
            part, _, rest = name.partition("/")
            parts[part][rest] = tensor
        self.levers.restore(state["levers"], parts["best"])
        self.gauge.restore(dict(state["gauge"]), parts["gauge"])
        self.history.measurements += map(_measurement, state["measurements"])
        self.history.actions += state["actions"]
        self.history.vocabulary, self.history.neutral = state["vocabulary"], frozenset(state["neutral"])
        self.history.hyperparameters, self.history.default_rate = self.levers.settings, self.levers.default_rate
        self.losses = [(loss, count) for loss, count in state["losses"]]
        self.norms, self._measured = list(state["norms"]), state["measured"]
        self._kept = state["kept"] if parts["best"] else math.inf
        for observation, mask in state["seen"]:
            self._ask(np.array(observation, np.float32), np.array(mask, np.bool_))
        return bool(tensors)


def _measurement(stored: dict[str, Any]) -> Measurement:
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in stored.items()}
    return Measurement(**values)


def _start(model: Any) -> Start:
    return "pretrained" if getattr(getattr(model, "config", None), "_name_or_path", "") else "scratch"


def _outputs(model: Any) -> int:
    """How many tokens or classes a uniform guess has; 0 where nobody knows."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    inner = getattr(inner, "module", inner)
    config = getattr(inner, "config", None)
    try:
        return Interface(inner.config, kind_of(inner)).outputs
    except (LlmoError, AttributeError):
        return int(getattr(config, "vocab_size", 0) or 0)
