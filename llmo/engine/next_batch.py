"""What the lanes train on in their next optimizer step: drawn, selected, perturbed, with dropout and soft targets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from llmo.engine.dropout import dropout_masks
from llmo.engine.executors import Batch, Executor
from llmo.engine.lanes import Lane
from llmo.engine.layout import Layout
from llmo.engine.perturbing import PASSES, against, noise, swapped
from llmo.engine.selecting import choose, sequence_losses
from llmo.engine.soft_targets import SoftTargets
from llmo.engine.streams import EMBEDDING, uniform
from llmo.kinds import IGNORED, Interface

if TYPE_CHECKING:
    from transformers import PreTrainedModel


CONFIDENCE = 0.9
"""Probability from which a prediction stands for a label."""


class NextBatch:
    """Makes batches.

    Args:
        executor: Of the lanes' rows.
        model: What they train.
        interface: How it is called.
        blocks: L, its repeated blocks.
        device: Where the rows lie.

    Attributes:
        rare: Runs passes of rare shapes.
    """

    def __init__(
        self, executor: Executor, model: PreTrainedModel, interface: Interface, blocks: int, device: torch.device
    ) -> None:
        self._executor, self._interface, self._blocks, self._device = executor, interface, blocks, device
        self._layout: Layout = executor.layout
        self._hidden = model.config.hidden_size
        # What is rare is not compiled: it would take a graph of its own.
        self.rare: Executor = getattr(executor, "program", executor)
        self._model = model
        self._soft_targets = SoftTargets(executor, interface.outputs, device)

    def __call__(self, active: Sequence[Lane], effective: Tensor, averaged: Tensor) -> Batch:
        """The batch of the lanes' next step.

        Args:
            active: The lanes, n.
            effective: What the executor runs on, [n, P].
            averaged: Running averages, [n, P].
        """
        drawn = [(lane.interval.inputs[lane.step], lane.interval.labels[lane.step]) for lane in active]
        for place, lane in enumerate(active):
            if lane.state.hyperparameters.selection != "off":
                drawn[place] = self._selected(lane, effective[place], averaged[place])
        inputs, labels = (torch.stack(parts) for parts in zip(*drawn, strict=True))
        task, positions = active[0].state.problem.task, labels.shape[-1]
        for place, lane in enumerate(active):
            if lane.state.hyperparameters.pseudo_labels and lane.best is not None:
                labels[place] = self._relabelled(lane.best, inputs[place], labels[place])
        scale = None
        if task.padded:
            scale = labels[0].numel() / task.counts(labels).sum(1).clamp(min=1)
        batch = Batch(inputs, labels, type(task).loss, self._dropout(active, inputs, positions), scale=scale)
        added = None
        if any(lane.state.hyperparameters.perturbation != "off" for lane in active):
            batch, added = self._perturbed(active, effective, batch)
        soft = self._soft_targets(active, averaged, batch.inputs, positions)
        teacher, share, heat = (None, None, None) if soft is None else (soft.teacher, soft.share, soft.temperature)
        return Batch(
            batch.inputs, labels, batch.loss, batch.masks, teacher, share, temperature=heat, added=added, scale=scale
        )

    def embeddings(self, row: Tensor) -> Tensor:
        """Embeddings of all tokens, [V, width], of a row [P]: its own, or those of the base that all share."""
        name = self._layout.embedding
        if name:
            return self._layout.unflatten(row)[name]
        embedding: Any = self._model.get_input_embeddings()
        weight: Tensor = embedding.weight.detach()
        return weight

    def _relabelled(self, best: Tensor, inputs: Tensor, labels: Tensor) -> Tensor:
        """Labels [B, P], with those that weights [P] predict with confidence (Lee 2013, "Pseudo-label")."""
        chances, predicted = self._executor.logits(best[None], inputs[None], labels.shape[-1])[0].softmax(-1).max(-1)
        return torch.where((chances >= CONFIDENCE) & (labels != IGNORED), predicted, labels)

    def _selected(self, lane: Lane, effective: Tensor, averaged: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and labels of the half of a lane's candidates that it trains on."""
        problem, selection = lane.state.problem, lane.state.hyperparameters.selection
        inputs, labels = lane.interval.inputs[lane.step], lane.interval.labels[lane.step]
        positions = labels.shape[-1]
        if selection == "clean" and problem.teacher is not None:
            logits = self._soft_targets.teacher_logits(problem.teacher, inputs, positions)[None]
        else:
            weights = averaged if selection == "clean" else effective
            logits = self.rare.logits(weights[None], inputs[None], positions)
        losses = sequence_losses(type(problem.task).loss, logits, labels[None])[0]
        share = min(1.0, (lane.state.spent + lane.step * lane.interval.cost) / problem.budget)
        places = choose(losses, selection, share)
        lane.slots.append(lane.interval.slots[lane.step][places.cpu().numpy()])
        return inputs[places], labels[places]

    def _perturbed(self, active: Sequence[Lane], effective: Tensor, batch: Batch) -> tuple[Batch, Tensor | None]:
        """The batch with some tokens swapped, and what is added to its embedded inputs."""
        inputs = batch.inputs.clone()
        added: dict[int, Tensor] = {}
        for place, lane in enumerate(active):
            mode = lane.state.hyperparameters.perturbation
            if mode == "off":
                continue
            table, here = self.embeddings(effective[place]), slice(place, place + 1)
            embedded = table[inputs[here].clamp(min=0)]
            if mode == "noise":
                seed, cursor = np.array([lane.state.problem.seed], np.uint64), np.array([lane.cursor])
                u = torch.from_numpy(uniform(seed, cursor, EMBEDDING, embedded.numel())).float()
                added[place] = noise(embedded[0], u.view(embedded.shape[1:]).to(self._device))
            elif mode == "swaps":
                rows = effective[here]
                inputs[here] = swapped(self._executor, rows, batch.rows(here), embedded, table[None])
            else:
                found = against(self._executor, effective[here], batch.rows(here), embedded, PASSES[mode])
                added[place] = found[0]
        batch = Batch(inputs, batch.labels, batch.loss, batch.masks, scale=batch.scale)
        if not added:
            return batch, None
        nothing = torch.zeros_like(next(iter(added.values())))
        return batch, torch.stack([added.get(place, nothing) for place in range(len(active))])

    def _dropout(self, active: Sequence[Lane], inputs: Tensor, positions: int) -> Tensor | None:
        """Dropout masks of the lanes' next step, [n, L, B, T, width]; None where no lane drops."""
        rates = np.array([lane.state.hyperparameters.dropout for lane in active])
        seeds = np.array([lane.state.problem.seed for lane in active], np.uint64)
        cursors = np.array([lane.cursor for lane in active])
        _, sequences, tokens = inputs.shape
        shape = (self._blocks, sequences, self._interface.hidden_tokens(tokens, positions), self._hidden)
        masks = dropout_masks(seeds, cursors, rates, shape)
        return None if masks is None else masks.to(self._device)
