"""What the lanes train on in their next optimizer step: drawn, selected, perturbed, with dropout and soft targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from llmo.engine.auxiliary import can_predict_input, weight_on_mean, what_is_read
from llmo.engine.dropout import dropout_masks
from llmo.engine.embedding import input_embedding
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
        parts: In how many parts a batch is looked at.

    Attributes:
        rare: Runs passes of rare shapes.
        embedded: Whether what the model reads are tokens that it embeds.
        predicts_input: Whether it can predict what it reads.
    """

    def __init__(
        self,
        executor: Executor,
        model: PreTrainedModel,
        interface: Interface,
        blocks: int,
        device: torch.device,
        parts: int,
    ) -> None:
        self._executor, self._interface, self._blocks, self._device = executor, interface, blocks, device
        self._layout: Layout = executor.layout
        self._parts = parts
        self._hidden = model.config.hidden_size
        # What is rare is not compiled: it would take a graph of its own.
        self.rare: Executor = getattr(executor, "program", executor)
        self._embedding = input_embedding(model)
        self.embedded = self._embedding is not None
        self.predicts_input = can_predict_input(model, interface.kind)
        self._soft_targets = SoftTargets(executor, interface.outputs, device)

    def __call__(self, active: Sequence[Lane], effective: Tensor, averaged: Tensor) -> Batch:
        """The batch of the lanes' next step.

        Args:
            active: The lanes, n.
            effective: What the executor runs on, [n, P].
            averaged: Running averages, [n, P].
        """
        drawn = [(lane.interval.inputs[lane.step], lane.interval.labels[lane.step]) for lane in active]
        if any(lane.state.hyperparameters.selection != "off" for lane in active):
            self._select(active, drawn, effective, averaged)
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
        batch = replace(batch, teacher=teacher, share=share, temperature=heat, added=added)
        settings = [lane.state.hyperparameters for lane in active]
        if not self.predicts_input or not any(one.auxiliary for one in settings):
            return batch
        read = what_is_read(batch.inputs, labels, self._interface.kind)
        weights = [weight_on_mean(one, part) for one, part in zip(settings, read, strict=True)]
        return replace(batch, read=read, read_weight=torch.tensor(weights, device=self._device))

    def embeddings(self, row: Tensor) -> Tensor:
        """Embeddings of all tokens, [V, width], of a row [P]: its own, or those of the base that all share."""
        name = self._layout.embedding
        if name:
            return self._layout.unflatten(row)[name]
        embedding: Any = self._embedding
        weight: Tensor = embedding.weight.detach()
        return weight

    def _relabelled(self, best: Tensor, inputs: Tensor, labels: Tensor) -> Tensor:
        """Labels [B, P], with those that weights [P] predict with confidence (Lee 2013, "Pseudo-label")."""
        found = []
        for ids, targets in zip(inputs.chunk(self._parts), labels.chunk(self._parts), strict=True):
            chances, predicted = self._executor.logits(best[None], ids[None], labels.shape[-1])[0].softmax(-1).max(-1)
            found.append(torch.where((chances >= CONFIDENCE) & (targets != IGNORED), predicted, targets))
        return torch.cat(found)

    def _select(
        self, active: Sequence[Lane], drawn: list[tuple[Tensor, Tensor]], effective: Tensor, averaged: Tensor
    ) -> None:
        """Leave of the candidates that lanes have drawn the half that each trains on, in place."""
        looked_at: dict[int, Tensor] = {}
        found: dict[int, Tensor] = {}
        loss = type(active[0].state.problem.task).loss
        for place, lane in enumerate(active):
            selection, teacher = lane.state.hyperparameters.selection, lane.state.problem.teacher
            if selection == "clean" and teacher is not None:
                inputs, labels = drawn[place]
                logits = self._soft_targets.teacher_logits(teacher, inputs, labels.shape[-1])
                found[place] = sequence_losses(loss, logits[None], labels[None])[0]
            elif selection != "off":
                looked_at[place] = averaged[place] if selection == "clean" else effective[place]
        if looked_at:
            rows = torch.stack(list(looked_at.values()))
            inputs, labels = (torch.stack([drawn[place][part] for place in looked_at]) for part in (0, 1))
            losses = [
                sequence_losses(loss, self.rare.logits(rows, ids, labels.shape[-1]), targets)
                for ids, targets in zip(inputs.chunk(self._parts, 1), labels.chunk(self._parts, 1), strict=True)
            ]
            found |= dict(zip(looked_at, torch.cat(losses, 1), strict=True))
        for place, losses_here in found.items():
            lane, (inputs, labels) = active[place], drawn[place]
            share = min(1.0, (lane.state.spent + lane.step * lane.interval.cost) / lane.state.problem.budget)
            places = choose(losses_here, lane.state.hyperparameters.selection, share)
            lane.slots.append(lane.interval.slots[lane.step][places.cpu().numpy()])
            drawn[place] = inputs[places], labels[places]

    def _perturbed(self, active: Sequence[Lane], effective: Tensor, batch: Batch) -> tuple[Batch, Tensor | None]:
        """The batch with some tokens swapped, and what is added to its embedded inputs."""
        modes = [lane.state.hyperparameters.perturbation for lane in active]
        inputs = batch.inputs.clone()
        added: dict[int, Tensor] = {}
        for mode in sorted(set(modes) - {"off"}):
            places = [place for place, other in enumerate(modes) if other == mode]
            tables = torch.stack([self.embeddings(effective[place]) for place in places])
            embedded = torch.stack(
                [table[ids.clamp(min=0)] for table, ids in zip(tables, batch.inputs[places], strict=True)]
            )
            if mode == "noise":
                for place, one in zip(places, embedded, strict=True):
                    added[place] = noise(one, self._uniform(active[place], one))
            elif mode == "swaps":
                inputs[places] = swapped(self.rare, effective[places], batch.rows(places), embedded, tables)
            else:
                found = against(self.rare, effective[places], batch.rows(places), embedded, PASSES[mode])
                added |= dict(zip(places, found, strict=True))
        batch = Batch(inputs, batch.labels, batch.loss, batch.masks, scale=batch.scale)
        if not added:
            return batch, None
        nothing = torch.zeros_like(next(iter(added.values())))
        return batch, torch.stack([added.get(place, nothing) for place in range(len(active))])

    def _uniform(self, lane: Lane, like: Tensor) -> Tensor:
        """Uniform numbers of a lane's next step."""
        seed, cursor = np.array([lane.state.problem.seed], np.uint64), np.array([lane.cursor])
        u = torch.from_numpy(uniform(seed, cursor, EMBEDDING, like.numel())).float()
        return u.view(like.shape).to(self._device)

    def _dropout(self, active: Sequence[Lane], inputs: Tensor, positions: int) -> Tensor | None:
        """Dropout masks of the lanes' next step, [n, L, B, T, width]; None where no lane drops."""
        rates = np.array([lane.state.hyperparameters.dropout for lane in active])
        seeds = np.array([lane.state.problem.seed for lane in active], np.uint64)
        cursors = np.array([lane.cursor for lane in active])
        _, sequences, tokens = inputs.shape
        shape = (self._blocks, sequences, self._interface.hidden_tokens(tokens, positions), self._hidden)
        masks = dropout_masks(seeds, cursors, rates, shape)
        for place, lane in enumerate(active if masks is not None else ()):
            # An absent block drops nothing.
            masks[place, list(lane.state.structure.blocks)] = 1  # type: ignore[index]
        return None if masks is None else masks.to(self._device)
