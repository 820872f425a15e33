"""An agent inside `transformers.Trainer`: one line in a script that is there already.

    trainer.add_callback(llmo.TrainerCallback())

It has the trainer evaluate some twenty times, reads what is logged and, now and then, the gradients, and turns what the
menu has there: the rate, its decay, weight decay and dropout, corruption of the inputs, a roll back. What it sees and
does stands in the log and in `llmo_decisions.jsonl` of the output folder.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from transformers import TrainerCallback as Callback
from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from llmo.agent import OptimizerAgent
from llmo.cautious import tuning_agent
from llmo.errors import LlmoError, at_least
from llmo.trainer.steering import Choice, Steering

DECISIONS = 20
"""How often it decides, as in the environments that policies are learned in."""
PAIRS = 4
"""Pairs of neighbouring steps between two decisions at which gradients are looked at."""
RECORD = "llmo_decisions.jsonl"


class TrainerCallback(Callback, ExportableState):
    """Improves a training that `transformers.Trainer` runs.

    The trainer needs an `eval_dataset`; its size is what a decision costs. At the end the model has the weights that
    validated best. A training that is resumed goes on with what the checkpoint knows.

    Args:
        agent: Registered name of who decides.
        policy: Folder of a policy for an agent that learns; by default the one that comes with it.
        decisions: How many times it decides.
        keep_best: Whether the best weights and moments are kept in CPU memory and in checkpoints, to go back to.
        seed: Of what is random in the agent and in corrupted inputs.

    Raises:
        LlmoError: No such agent or policy, or an agent that does more than to choose actions.
    """

    def __init__(
        self, agent: str = "ppo", policy: str = "", decisions: int = DECISIONS, keep_best: bool = True, seed: int = 0
    ) -> None:
        at_least(1, decisions=decisions)
        self._given: dict[str, Any] = {
            "agent": agent, "policy": policy, "decisions": decisions, "keep_best": keep_best, "seed": seed,
        }  # fmt: skip
        self._agent = tuning_agent(agent, policy)
        if not self._agent.menu_alone or isinstance(self._agent, OptimizerAgent) or self._agent.search:
            raise LlmoError("agent", agent, "one that chooses actions alone, such as ppo or scripted")
        self.memory: dict[str, Any] = {}
        self._steering: Steering | None = None

    @property
    def steering(self) -> Steering:
        """The training that it steers.

        Raises:
            LlmoError: There is none yet.
        """
        if self._steering is None:
            raise LlmoError("TrainerCallback", "before training", "a Trainer that has begun to train")
        return self._steering

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, as JSON."""
        memory = self._steering.state() if self._steering is not None else self.memory
        return {"args": self._given, "attributes": {"memory": memory}}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """Begin, or go on where a checkpoint was."""
        self._steering = Steering(
            self._agent,
            args,
            given["model"],
            given["optimizer"],
            given["lr_scheduler"],
            state.max_steps,
            self._given["keep_best"],
            self._given["seed"],
        )
        self._optimizer, self._main = given["optimizer"], state.is_world_process_zero
        self._every = max(1, state.max_steps // self._given["decisions"])
        self._spacing = max(2, self._every // PAIRS)
        self._losses: list[tuple[float, int]] = []
        self._logged = self._measured = state.global_step
        self._due, self._own_start = False, False
        stored = _stored(state)
        if state.global_step:
            self._resume(args, state, stored)
        else:
            self._due, self._own_start = True, not args.eval_on_start
            # The trainer reads it right after this call: what is seen first is from before any training.
            args.eval_on_start = True
            if self._main:
                _record(args).unlink(missing_ok=True)
        stored.setdefault(type(self).__name__, self.state())

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """Look at the gradients of two neighbouring steps, some times between two decisions."""
        if state.global_step % self._spacing < 2:
            self.steering.gauge.look(state.global_step, self._optimizer)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        """Ask for an evaluation when a decision is due."""
        self.steering.levers.step = state.global_step
        if state.global_step % self._every == 0 or state.global_step >= state.max_steps:
            self._due = control.should_log = control.should_evaluate = True

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **given: Any,
    ) -> None:
        """Remember the training loss."""
        if logs and "loss" in logs and state.global_step > self._logged:
            self._losses.append((float(logs["loss"]), state.global_step - self._logged))
            self._logged = state.global_step

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **given: Any,
    ) -> None:
        """Decide, where a decision is due."""
        if self._own_start:
            args.eval_on_start = self._own_start = False
        losses = [value for name, value in (metrics or {}).items() if name.endswith("_loss")]
        if not self._due or not losses:
            return
        self._due = False
        steps = sum(count for _, count in self._losses)
        trained = sum(loss * count for loss, count in self._losses) / steps if steps else math.nan
        # Several data sets count alike.
        taken = state.global_step - self._measured
        self.steering.measure(state.global_step, float(np.mean(losses)), trained, taken)
        self._losses.clear()
        self._measured = state.global_step
        if state.global_step < state.max_steps:
            self._tell(args, state, self.steering.decide())

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        """Add the best weights to the checkpoint."""
        if self._main:
            self.steering.levers.save_best(_checkpoint(args, state))

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        """Deliver the best weights."""
        if self.steering.worse and self.steering.levers.has_best:
            self.steering.levers.load_best(weights_alone=True)
            best = self.steering.history.last.best_validation_loss
            self._say(state, f"the model has the weights that validated best, at a loss of {best:.4g}")
        self.steering.levers.close()

    def _resume(self, args: TrainingArguments, state: TrainerState, stored: dict[str, Any]) -> None:
        saved = stored.get(type(self).__name__) or {}
        saved = saved[-1] if isinstance(saved, list) else saved
        memory = self.memory or saved.get("attributes", {}).get("memory")
        self.steering.levers.step = state.global_step
        if not memory:
            self._say(state, "this checkpoint knows nothing of llmo, which begins here")
            return
        self.steering.restore(memory, _checkpoint(args, state))
        spent = self.steering.history.measurements[-1:]
        self._measured = round(spent[0].spent * state.max_steps) if spent else 0
        if self._main and _record(args).exists():
            lines = _record(args).read_text().splitlines()
            kept = [line for line in lines if json.loads(line)["step"] <= state.global_step]
            _record(args).write_text("".join(f"{line}\n" for line in kept))

    def _tell(self, args: TrainingArguments, state: TrainerState, choice: Choice) -> None:
        """Say what was done, in the log, in the trainer's history and in the record."""
        last, rate = self.steering.history.last, self.steering.levers.rate
        if choice.action != "keep":
            reason = f"{choice.cause}: {choice.evidence}; {choice.why}"
            self._say(state, f"{choice.action} ({reason}); the rate is {rate:.3g}")
        told: dict[str, Any] = {"step": state.global_step, "llmo_action": choice.action, "llmo_why": choice.why}
        state.log_history.append(told)
        losses = {"validation_loss": last.validation_loss, "train_loss": last.train_loss, "learning_rate": rate}
        if self._main:
            _record(args).parent.mkdir(parents=True, exist_ok=True)
            with _record(args).open("a") as file:
                file.write(json.dumps({"step": state.global_step, **losses, **vars(choice)}) + "\n")

    def _say(self, state: TrainerState, text: str) -> None:
        if self._main:
            print(f"llmo, step {state.global_step} of {state.max_steps}: {text}", flush=True)


def _stored(state: TrainerState) -> dict[str, Any]:
    """States of callbacks by the names of their classes, as a checkpoint has them."""
    stored: Any = state.stateful_callbacks
    return stored


def _record(args: TrainingArguments) -> Path:
    return Path(args.output_dir or ".") / RECORD


def _checkpoint(args: TrainingArguments, state: TrainerState) -> Path:
    return Path(args.output_dir or ".") / f"checkpoint-{state.global_step}"
