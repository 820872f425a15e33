"""An agent inside `transformers.Trainer`: one line in a script that is there already.

    trainer.add_callback(llmo.TrainerCallback())

It has the trainer evaluate some twenty times, reads what is logged and, now and then, the gradients, and turns what the
menu has there: the rate, its decay, weight decay and dropout, corruption of the inputs, a roll back. What it sees and
does stands in the log and in `llmo_decisions.jsonl` of the output folder.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
from transformers import TrainerCallback as Callback
from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import SaveStrategy

from llmo.agent import OptimizerAgent
from llmo.atomic import write_text_atomic
from llmo.cautious import USUAL, tuning_agent
from llmo.errors import LlmoError, at_least
from llmo.trainer.steering import Choice, Steering

DECISIONS = 20
"""How often it decides, as in the environments that policies are learned in."""
RECORD = "llmo_decisions.jsonl"
REFUSED = ("ReduceLROnPlateau", "GreedyLR", "OneCycleLR", "CyclicLR", "SequentialLR")
"""Schedulers that step at evaluations, of which there are more, or write over a rate that is turned."""
SHARDED = ("DEEPSPEED", "FSDP", "MEGATRON_LM")
"""What accelerate may train with, as it says in the environment, where no process has all weights to go back to."""


class TrainerCallback(Callback, ExportableState):
    """Improves a training that `transformers.Trainer` runs.

    The trainer needs an `eval_dataset`; its size is what a decision costs. At the end the model has the weights that
    validated best, unless the trainer loads its own best. Training that is resumed goes on with what the checkpoint
    knows.

    Args:
        agent: Registered name of who decides.
        policy: Folder of a policy for an agent that learns; by default the one that comes with it for your models.
        decisions: How many times it decides, at most.
        keep_best: Whether the best weights and moments are kept in CPU memory and in checkpoints, to go back to.
        seed: Of what is random in the agent and in corrupted inputs.

    Raises:
        LlmoError: No such agent, or one that does more than to choose actions; when training begins, no such policy,
            one of the schedulers in `REFUSED`, a model of which each process has a part, or evaluations without a loss.
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
            LlmoError: There is none yet, or none any more.
        """
        if self._steering is None:
            raise LlmoError("TrainerCallback", "outside of training", "a Trainer that trains")
        return self._steering

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, as JSON."""
        memory = self.memory
        if self._steering is not None:
            own = {"due": self._due, "found": self._found, "logged": self._logged, "best": self._trainers_best}
            memory = {**self._steering.state(), **own}
        return {"args": self._given, "attributes": {"memory": memory}}

    # What the trainer calls

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """Begin, or go on where a checkpoint was."""
        if self._steering is not None:
            self._steering.levers.close()
        scheduler = given["lr_scheduler"]
        if {base.__name__ for base in type(scheduler).__mro__} & set(REFUSED):
            raise LlmoError("scheduler", type(scheduler).__name__, f"LambdaLR or another one, but none of {REFUSED}")
        for kind in SHARDED:
            if os.environ.get(f"ACCELERATE_USE_{kind}", "false").lower() in ("1", "true"):
                raise LlmoError("kind of training", kind, "one process, or DDP: each has the whole model")
        self._steering = Steering(
            self._agent,
            args,
            given["model"],
            given["optimizer"],
            scheduler,
            # Of no epochs there are none.
            max(1, state.max_steps),
            self._given["keep_best"],
            self._given["seed"],
        )
        self._optimizer, self._main = given["optimizer"], state.is_world_process_zero
        self._every = -(-state.max_steps // self._given["decisions"])
        self._logged = state.global_step
        self._found: list[float] = []
        self._due, self._own_start, self._told_usual = False, False, False
        self._trainers_best: tuple[Any, ...] | None = None
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

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """Decide, where a decision is due: every data set has been evaluated by now."""
        if self._measure(state) and state.global_step < state.max_steps:
            self._tell(args, state, self.steering.decide())
        elif self._due and not state.global_step:
            raise LlmoError("evaluation", "without a loss", "one that gives eval_loss: examples with their labels")
        if self.steering.stopped:
            # Trainer looks at it after this batch only; what that changes is not delivered.
            control.should_training_stop = True

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """Look at the gradients of the two steps before a decision, as the environments do; norms are logged anyway."""
        if state.global_step % self._every >= self._every - 2:
            self.steering.gauge.look(state.global_step, self._optimizer)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        """Ask for an evaluation when a decision is due."""
        if state.global_step % self._every == 0 or state.global_step >= state.max_steps:
            if not control.should_evaluate and args.save_strategy != SaveStrategy.BEST:
                # Trainer compares the evaluation with its best, of which it may keep no checkpoint.
                self._trainers_best = (state.best_metric, state.best_global_step)
            self._due = control.should_evaluate = True
        _log_before_saving(control)

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        """Give the trainer its best back before it evaluates for itself."""
        self._give_back_best(state)
        _log_before_saving(control)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **given: Any,
    ) -> None:
        """Remember training losses and gradient norms."""
        if logs and "loss" in logs and state.global_step > self._logged:
            self.steering.losses.append((float(logs["loss"]), state.global_step - self._logged))
            self._logged = state.global_step
            if math.isfinite(norm := float(logs.get("grad_norm", math.nan))):
                self.steering.norms.append(norm)

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **given: Any,
    ) -> None:
        """Remember the validation loss; of several data sets, each calls."""
        if self._steering is None:
            # Outside of training.
            return
        if self._own_start:
            args.eval_on_start = self._own_start = False
        names = [name for name in metrics or {} if name.startswith("eval_") and name.endswith("_loss")]
        if self._due and names:
            # Other metrics may be called losses too; their names are longer.
            self._found.append(float((metrics or {})[min(names, key=len)]))

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        """Add the best weights to the checkpoint."""
        if self._main:
            self.steering.save(_checkpoint(args, state))

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        """Deliver the best weights."""
        self._measure(state)
        steering = self.steering
        if (steering.worse or steering.stopped) and steering.levers.has_best and not args.load_best_model_at_end:
            self.steering.levers.load_best(weights_alone=True)
            best = self.steering.history.last.best_validation_loss
            self._say(state, f"the model has the weights that validated best, at a loss of {best:.4g}")
        self.steering.levers.close()
        self._steering = None

    # What it does

    def _measure(self, state: TrainerState) -> bool:
        """Take note of an evaluation that was due, if one has ended, and say whether."""
        self._give_back_best(state)
        if not self._due or not self._found:
            return False
        loss, self._due, self._found = float(np.mean(self._found)), False, []
        self.steering.measure(state.global_step, loss)
        return True

    def _give_back_best(self, state: TrainerState) -> None:
        if self._trainers_best is not None:
            state.best_metric, state.best_global_step = self._trainers_best
            self._trainers_best = None

    def _resume(self, args: TrainingArguments, state: TrainerState, stored: dict[str, Any]) -> None:
        saved = stored.get(type(self).__name__) or {}
        saved = saved[-1] if isinstance(saved, list) else saved
        memory = self.memory or saved.get("attributes", {}).get("memory")
        if not memory:
            self._say(state, "this checkpoint knows nothing of llmo, which begins here")
            return
        folder = _checkpoint(args, state)
        if not self.steering.restore(memory, folder) and self._given["keep_best"]:
            self._say(state, f"the best weights so far are not in {folder} and are forgotten")
        self._due, self._found, self._logged = memory["due"], list(memory["found"]), memory["logged"]
        self._trainers_best = memory["best"] and tuple(memory["best"])
        if self._main and _record(args).exists():
            kept = [line for line in _record(args).read_text().splitlines() if _before(line, state.global_step)]
            write_text_atomic(_record(args), "".join(f"{line}\n" for line in kept))

    def _tell(self, args: TrainingArguments, state: TrainerState, choice: Choice) -> None:
        """Say what was done, in the log, in the trainer's history and in the record."""
        last, rate = self.steering.history.last, self.steering.levers.rate
        usual = choice.why.startswith(USUAL)
        if choice.action != "keep" or (usual and not self._told_usual):
            reason = f"{choice.cause}: {choice.evidence}; {choice.why}"
            self._say(state, f"{choice.action} ({reason}); the rate is {rate:.3g}")
        self._told_usual |= usual
        told: dict[str, Any] = {"step": state.global_step, "llmo_action": choice.action, "llmo_why": choice.why}
        state.log_history.append(told)
        losses = {"validation_loss": last.validation_loss, "train_loss": last.train_loss, "learning_rate": rate}
        known = {name: value if math.isfinite(value) else None for name, value in losses.items()}
        if self._main:
            _record(args).parent.mkdir(parents=True, exist_ok=True)
            with _record(args).open("a") as file:
                file.write(json.dumps({"step": state.global_step, **known, **vars(choice)}) + "\n")

    def _say(self, state: TrainerState, text: str) -> None:
        if self._main:
            print(f"llmo, step {state.global_step} of {state.max_steps}: {text}", flush=True)


def _log_before_saving(control: TrainerControl) -> None:
    """Have losses logged: those that are not yet are forgotten by a training that is resumed."""
    # An evaluation may be the best, and saved for that.
    control.should_log |= control.should_save or control.should_evaluate


def _stored(state: TrainerState) -> dict[str, Any]:
    """States of callbacks by the names of their classes, as a checkpoint has them."""
    stored: Any = state.stateful_callbacks
    return stored


def _record(args: TrainingArguments) -> Path:
    return Path(args.output_dir or ".") / RECORD


def _checkpoint(args: TrainingArguments, state: TrainerState) -> Path:
    return Path(args.output_dir or ".") / f"checkpoint-{state.global_step}"


def _before(line: str, step: int) -> bool:
    """Whether a line of the record is whole, and of a decision that the checkpoint knows."""
    try:
        return bool(json.loads(line)["step"] < step)
    except (ValueError, KeyError, TypeError):
        return False
