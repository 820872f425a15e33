"""Actions on the structure of a model are masked where it cannot change."""

from collections.abc import Callable
from typing import Any

import torch

from llmo import catalog
from llmo.engine.layout import Layout
from llmo.engine.models import ModelShape, build_model
from llmo.engine.run import Run
from llmo.engine.state import Problem

MakeProblem = Callable[..., Problem]
ACTIONS = ("block_remove", "block_add", "units_prune", "units_widen", "heads_prune", "student_smaller")


def started(make_problem: MakeProblem, family: Any) -> Run:
    model = build_model(ModelShape(8, 3, family), 0)
    run = Run(model, 1, "single")
    run.load(0, make_problem(weights=Layout(model).flatten(model)))
    run.evaluate([0])
    return run


def test_masks_are_right_where_a_structure_cannot_change(make_problem: MakeProblem) -> None:
    def allowed(run: Run) -> set[str]:
        return {name for name in ACTIONS if catalog.get("actions", name)().allowed(run, 0)}

    shrinking = {"block_remove", "units_prune", "heads_prune", "student_smaller"}
    run = started(make_problem, "llama")
    start = run.snapshot(0)
    assert allowed(run) == shrinking
    for change in (run.fresh_adapter, run.quantise, lambda row: run.freeze(row, 1)):
        change(0)
        assert not allowed(run)
        run.restore(0, start)
    while allowed(run) & shrinking:
        for name in sorted(allowed(run) & shrinking - {"student_smaller"}):
            catalog.get("actions", name)().apply(run, 0)
    assert run.states[0].structure.removed == (2, 18, 1) and allowed(run) == {"block_add", "units_widen"}
    assert not catalog.get("actions", "adapter_dora")().allowed(run, 0)
    run.prune_more(0)
    assert not allowed(run), "zeros would stay zeros"
    run.restore(0, start)
    run.states[0].spent = run.states[0].problem.budget - 2 * run.step_cost(0)
    assert allowed(run) == {"units_prune", "student_smaller"}, "the others look at data first"
    frozen = Run(build_model(ModelShape(8, 3), 0), 1, "single", frozen=True)
    frozen.load(0, make_problem(weights=torch.zeros(frozen.layout.size), rank=2))
    frozen.evaluate([0])
    assert not allowed(frozen)
    gpt2 = started(make_problem, "gpt2")
    assert allowed(gpt2) == shrinking - {"heads_prune"}


def test_a_larger_model_comes_back_only_while_the_budget_pays_for_validating_it(make_problem: MakeProblem) -> None:
    run = started(make_problem, "llama")
    state = run.states[0]
    names = ("rollback", "load_1", "swap_1", "block_add")
    back = [catalog.get("actions", name)() for name in names]
    run.save(0, back[1].register)
    run.remove_block(0)
    state.priced = state.best_priced + 1
    assert all(action.allowed(run, 0) for action in back)
    whole = run.evaluation_cost(0) * run.cost(0, state.problem).forward / run.saved_cost(0, state.structure)
    state.spent = state.problem.budget - whole
    assert all(action.allowed(run, 0) for action in back)
    state.spent += 1
    assert not any(action.allowed(run, 0) for action in back)
    run.load_saved(0, back[1].register)
    assert run.evaluation_cost(0) > state.problem.budget - state.spent, "it would have been overdrawn"
