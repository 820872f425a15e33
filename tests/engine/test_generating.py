"""What a model writes, against a chain of known probabilities, and what of it is kept."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from llmo.engine.generating import BEAMS, TOP_P, generate, worth_keeping
from llmo.engine.models import ModelShape, build_model
from llmo.engine.run import Run
from llmo.engine.state import Problem
from llmo.tasks.causal_lm import CausalLM

MakeProblem = Callable[..., Problem]
# Next tokens depend on the last one only. From 0, the likelier first step leads where nothing is likely.
CHAIN = torch.tensor(
    [
        [0.0, 0.55, 0.45, 0.0, 0.0],
        [0.2, 0.2, 0.2, 0.2, 0.2],
        [0.0, 0.0, 0.0, 1.0, 0.0],
        [0.0, 0.0, 0.0, 0.3, 0.7],
        [0.9, 0.1, 0.0, 0.0, 0.0],
    ]
)


def logits(ids: torch.Tensor) -> torch.Tensor:
    return CHAIN.clamp(min=1e-9).log()[ids]


def test_greedy_takes_the_likeliest_and_a_beam_sees_further() -> None:
    begun = torch.tensor([[0], [3]])
    assert generate(logits, begun, 4, "greedy", 0, 0).tolist() == [[0, 1, 0, 1], [3, 4, 0, 1]]
    # 0.45 * 1 * 0.7 is more than 0.55 * 0.2 * 0.55.
    assert generate(logits, begun, 4, "beam", 0, 0)[0].tolist() == [0, 2, 3, 4]
    assert BEAMS == 3


@pytest.mark.parametrize("decoding", ["top_k", "top_p"])
def test_what_is_drawn_follows_the_probabilities(decoding) -> None:  # type: ignore[no-untyped-def]
    begun = torch.zeros(4000, 1, dtype=torch.long)
    found = generate(logits, begun, 3, decoding, 7, 3)
    assert abs(float((found[:, 1] == 1).double().mean()) - 0.55) < 0.03
    assert (found[found[:, 1] == 2][:, 2] == 3).all()
    again = generate(logits, begun, 3, decoding, 7, 3)
    assert torch.equal(found, again) and not torch.equal(found, generate(logits, begun, 3, decoding, 7, 4))


def test_a_nucleus_leaves_the_tail_out() -> None:
    """From 4 the first token holds 0.9 alone."""
    assert TOP_P == 0.9
    found = generate(logits, torch.full((500, 1), 4), 2, "top_p", 1, 1)
    assert (found[:, 1] == 0).all()
    found = generate(logits, torch.full((500, 1), 4), 2, "top_k", 1, 1)
    assert (found[:, 1] == 1).any()


def test_what_repeats_itself_or_another_is_dropped_and_the_likelier_half_is_kept() -> None:
    rng = np.random.default_rng(0)
    lively = torch.from_numpy(rng.permutation(60).reshape(6, 10))
    dull = torch.ones(1, 10, dtype=torch.long)
    ids = torch.cat([lively, dull, lively[:2]])
    likelihood = torch.tensor([-1.0, -6.0, -2.0, -3.0, -4.0, -5.0, 0.0, 0.0, 0.0])
    assert worth_keeping(ids, likelihood).tolist() == [0, 2, 3]
    # Where all are dull, something is kept all the same.
    assert worth_keeping(dull.repeat(4, 1), torch.zeros(4)).tolist() == [0]


@pytest.mark.parametrize("executor", ["single", "batched"])
def test_a_run_trains_on_what_it_has_written(make_problem: MakeProblem, executor: str) -> None:
    rng = np.random.default_rng(0)
    text = np.tile(rng.permutation(64)[:40], 30).astype(np.int16)
    held = np.stack([text[start : start + 9] for start in range(5)]).astype(np.int64)
    problem = replace(make_problem(interval=250, learning_rate=0.02), task=CausalLM((text,) * 3, held, held))
    run = Run(build_model(ModelShape(8, 2), 0), 1, executor)
    run.load(0, problem)
    run.evaluate([0])
    run.train([0])
    run.evaluate([0])
    state, cost = run.states[0], run.cost(0, problem)
    spent = state.spent
    run.write(0, "greedy")
    written = run.rows[0].kept("generated")
    assert written is not None and written.shape[1] == 9 and 1 <= len(written) <= 16
    assert state.spent - spent == pytest.approx(2 * 32 * cost.forward)
    assert state.hyperparameters.generated == 1
    lane = run._lane(0, {0: 250})
    own = lane.interval.slots == -1
    assert 0.05 < own.mean() < 0.3
    rows = torch.cat([lane.interval.inputs, lane.interval.labels[..., -1:]], -1)[torch.from_numpy(own)]
    assert {tuple(row) for row in rows.tolist()} <= {tuple(row) for row in written.tolist()}
    # Weights that know the text write it.
    whole = {tuple(np.roll(text[:40], -start)[:9].tolist()) for start in range(40)}
    assert sum(tuple(row) in whole for row in written.tolist()) >= len(written) // 2
