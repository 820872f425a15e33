"""Actions of the whole menu: masked where they would do nothing, and what they set."""

import pytest
import torch

from llmo import catalog
from llmo.actions.menu import MENU, WHOLE_MENU
from llmo.engine.models import build_model
from llmo.engine.next_batch import CONFIDENCE
from llmo.engine.run import Run
from llmo.hyperparameters import DROPOUT_LEVELS
from llmo.mdp.instances import draw_rescaled_instance
from llmo.mdp.mixed_instances import draw_dirty_instance
from llmo.mdp.own import own_spec
from llmo.mdp.own_source import example_own
from llmo.mdp.population import Population
from llmo.mdp.problem import build_problem
from llmo.mdp.spec import env_spec


@pytest.fixture
def run() -> Run:
    torch.set_num_threads(1)
    drawn = (draw_rescaled_instance("train", index, 2.0) for index in range(200))
    instance = next(one for one in drawn if one.shape.depth == 1 and one.interval < 12 and not one.teacher)
    run = Run(build_model(instance.shape, 0), 1, "batched")
    run.load(0, build_problem(instance))
    run.evaluate([0])
    return run


def allowed(run: Run, name: str) -> bool:
    return bool(catalog.get("actions", name)().allowed(run, 0))


def take(run: Run, *names: str) -> None:
    for name in names:
        assert allowed(run, name), name
        catalog.get("actions", name)().apply(run, 0)


def test_the_menu_is_all_there_is_and_names_each_once() -> None:
    catalog.load("actions")
    assert len(set(WHOLE_MENU)) == len(WHOLE_MENU) and WHOLE_MENU[: len(MENU)] == MENU
    registered = {name for name in catalog.KINDS["actions"].names() if not name.startswith("rate_x0.8")}
    assert set(WHOLE_MENU) | {"stop"} <= registered


def test_a_moment_that_the_optimizer_lacks_has_no_memory_to_turn(run: Run) -> None:
    assert allowed(run, "memory_more")
    for optimizer, has in (("sgd", False), ("lion", False), ("schedule_free", True), ("adamw", True)):
        take(run, f"optimizer_{optimizer}")
        assert allowed(run, "memory_more") == allowed(run, "memory_less") == has
        assert not allowed(run, f"optimizer_{optimizer}")


def test_dropout_is_turned_to_another_value_each_time(run: Run) -> None:
    assert not allowed(run, "dropout_less"), "there is none"
    found = [run.states[0].hyperparameters.dropout]
    while allowed(run, "dropout_more"):
        take(run, "dropout_more")
        found.append(run.states[0].hyperparameters.dropout)
    assert found == sorted(set(DROPOUT_LEVELS))
    decay = run.states[0].hyperparameters.weight_decay
    take(run, *["dropout_less"] * (len(found) - 1))
    assert run.states[0].hyperparameters.dropout == 0 and run.states[0].hyperparameters.weight_decay == decay


def test_a_warm_restart_is_half_a_cosine_and_a_later_decay_a_line_again(run: Run) -> None:
    assert not allowed(run, "warm_restart")
    take(run, "rate_default", "rate_decay")
    run.train([0])
    run.evaluate([0])
    take(run, "warm_restart")
    settings, share = run.states[0].hyperparameters, run.states[0].share
    peak, middle = settings.learning_rate, (1 + share) / 2
    assert settings.rate_at(share) == peak and settings.rate_at(middle) == pytest.approx(peak / 2)
    quarter = share + (1 - share) / 4
    assert settings.rate_at(quarter) == pytest.approx(peak * 0.8536, rel=1e-3)
    take(run, "rate_default", "rate_decay")
    assert run.states[0].hyperparameters.rate_at(quarter) == pytest.approx(peak * 0.75, rel=1e-3)


def test_a_rate_stays_relative_when_the_optimizer_changes(run: Run) -> None:
    take(run, "rate_default", "rate_x2")
    for optimizer in ("lion", "sgd", "schedule_free", "adamw"):
        take(run, f"optimizer_{optimizer}")
        assert run.relative_rate(0) == pytest.approx(2.0)
        assert run.weight_decay(0) * run.default_rate(0) == pytest.approx(
            run.states[0].hyperparameters.weight_decay * run.default_rate(0) / _factor(run)
        )


def test_registers_predict_along_once_something_is_in_them(run: Run) -> None:
    together = ("predict_average", "predict_vote")
    assert not any(allowed(run, name) for name in (*together, "predict_alone"))
    take(run, "save_1")
    assert not allowed(run, "predict_vote"), "for classes only"
    take(run, "predict_average")
    assert not allowed(run, "predict_average")
    take(run, "predict_alone")
    assert allowed(run, "predict_average")


def test_a_model_of_ones_own_predicts_alone() -> None:
    menu = own_spec(example_own(), WHOLE_MENU).menu
    assert "auxiliary_more" in menu and not [name for name in menu if name.startswith("predict")]


def _factor(run: Run) -> float:
    """The optimizer's default rate over AdamW's."""
    optimizer = run.states[0].hyperparameters.optimizer
    now = run.default_rate(0)
    run.change(0, optimizer="adamw")
    adamw = run.default_rate(0)
    run.change(0, optimizer=optimizer)
    return now / adamw


def test_labels_are_replaced_where_the_best_weights_are_sure() -> None:
    torch.set_num_threads(1)
    spec = env_spec("llmo/FineTune-Full-v0")
    drawn = (draw_dirty_instance("train", index) for index in range(300))
    instance = next(one for one in drawn if one.task == "tagging" and one.shape.depth == 1 and 40 < one.interval < 90)
    population = Population(spec, 1, executor="batched")
    population.reset({0: instance})
    run = population.run_of(0)
    population.step({0: spec.menu.index("rate_default")} if run.relative_rate(0) != 1 else {0: 0})
    while population.episode(0).history.last.spent < 0.8:
        population.step({0: spec.menu.index("keep")})
    take(run, "pseudo_labels_on")
    assert not allowed(run, "pseudo_labels_on") and allowed(run, "pseudo_labels_off")
    lane = run._lane(0, {0: 1})
    batch = run._next_batch([lane], run.effective([0]), run.rows[0].averaged[None])
    inputs, labels = lane.interval.inputs[0], lane.interval.labels[0]
    chances = run.executor.logits(run.delivered(0), inputs[None], labels.shape[-1])[0].softmax(-1)
    sure = (chances.max(-1).values >= CONFIDENCE) & (labels >= 0)
    assert torch.equal(batch.labels[0], torch.where(sure, chances.argmax(-1), labels))
    assert sure.any() and not sure[labels >= 0].all()
    assert run.step_cost(0) > run.cost(0, run.states[0].problem).train * run.states[0].problem.batch
