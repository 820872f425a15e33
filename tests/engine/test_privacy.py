"""Private gradients are opacus', and so is what they cost; the budget cannot be overdrawn."""

import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from llmo.engine.executors import Batch
from llmo.engine.models import ModelShape, build_model
from llmo.engine.privacy import Privacy, private_gradient
from llmo.engine.run import Run
from llmo.engine.state import Problem
from llmo.errors import LlmoError
from llmo.evaluation.compare import difference
from llmo.evaluation.result import EpisodeRecord, Job
from llmo.evaluation.rollout import decision, play
from llmo.evaluation.sections import episode
from llmo.mdp.env import TrainingEnv
from llmo.mdp.population import Population
from llmo.mdp.spec import env_spec

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from opacus import GradSampleModule
    from opacus.accountants import RDPAccountant
    from opacus.optimizers import DPOptimizer

MakeProblem = Callable[..., Problem]
SHAPE = ModelShape(8, 2)


@pytest.mark.filterwarnings("ignore")
def test_epsilon_is_that_of_opacus_accountant() -> None:
    privacy, accountant = Privacy(8.0, 1e-5, 640), RDPAccountant()
    taken = {1.0: 30, 0.7: 12, 2.0: 5}
    for noise, steps in taken.items():
        for _ in range(steps):
            accountant.step(noise_multiplier=noise, sample_rate=16 / 640)
    assert privacy.spent(taken, 16) == pytest.approx(accountant.get_epsilon(1e-5), rel=1e-6)
    assert privacy.spent({}, 16) == 0


@pytest.mark.filterwarnings("ignore")
def test_as_many_steps_as_the_budget_pays_for_and_not_one_more() -> None:
    privacy = Privacy(6.0, 1e-5, 400)
    steps = privacy.affordable({1.4: 3}, 0.7, 16, 1000)
    assert 0 < steps < 1000
    for more, pays in ((steps, True), (steps + 1, False)):
        accountant = RDPAccountant()
        for noise, count in ((1.4, 3), (0.7, more)):
            for _ in range(count):
                accountant.step(noise_multiplier=noise, sample_rate=16 / 400)
        assert (accountant.get_epsilon(1e-5) <= 6.0) == pays
    assert privacy.affordable({}, 2.8, 16, 5) == 5


@pytest.mark.parametrize("executor", ["single", "batched"])
@pytest.mark.filterwarnings("ignore")
def test_a_private_gradient_is_that_of_opacus(make_problem: MakeProblem, executor: str) -> None:
    problem = make_problem()
    run = Run(build_model(SHAPE, 0), 1, executor)
    run.load(0, problem)
    examples, clip = problem.task.validation, 0.5
    batch = Batch(examples.inputs[None], examples.labels[None], problem.task.loss)
    row = run.effective([0]).clone()
    losses, gradient = private_gradient(run._next_batch.rare, row, batch, clip, 0.0, 0)

    model = build_model(SHAPE, 0)
    for parameter, value in zip(model.parameters(), run.layout.unflatten(row[0]).values()):
        parameter.data.copy_(value)
    # Opacus does not know tied weights, so each gets a gradient of its own.
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    private = GradSampleModule(model, loss_reduction="mean")
    logits = private(input_ids=examples.inputs).logits
    loss = cross_entropy(logits.transpose(1, 2), examples.labels, reduction="none").mean(1)
    loss.mean().backward()
    samples = dict(private.named_parameters())
    embedding, head = (samples[f"_module.{name}.weight"] for name in ("model.embed_tokens", "lm_head"))
    embedding.grad_sample = embedding.grad_sample + head.grad_sample
    parameters = [parameter for parameter in private.parameters() if parameter is not head]
    optimizer = DPOptimizer(
        torch.optim.SGD(parameters, 1.0), noise_multiplier=0.0, max_grad_norm=clip, expected_batch_size=5
    )
    optimizer.pre_step()
    expected = torch.cat([parameter.grad.flatten() for parameter in parameters])
    torch.testing.assert_close(losses[0], loss.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradient[0, : run.layout.size], expected, rtol=1e-3, atol=1e-5)


def test_noise_has_its_standard_deviation_and_its_seed(make_problem: MakeProblem) -> None:
    problem = make_problem()
    run = Run(build_model(SHAPE, 0), 1, "batched")
    run.load(0, problem)
    examples = problem.task.validation
    batch = Batch(examples.inputs[None], examples.labels[None], problem.task.loss)
    row = run.effective([0]).clone()
    found = {seed: private_gradient(run.executor, row, batch, 0.5, 2.0, seed)[1] for seed in (1, 2)}
    plain = private_gradient(run.executor, row, batch, 0.5, 0.0, 1)[1]
    for gradient in found.values():
        # Five sequences: the noise of their sum is divided by five.
        assert float((gradient - plain).std()) == pytest.approx(2.0 * 0.5 / 5, rel=0.05)
    assert torch.equal(private_gradient(run.executor, row, batch, 0.5, 2.0, 1)[1], found[1])
    assert not torch.equal(found[1], found[2])


def test_training_stops_where_the_budget_of_privacy_ends(make_problem: MakeProblem) -> None:
    problem = replace(make_problem(interval=50), privacy=Privacy(3.0, 1e-5, 100), batch=2)
    run = Run(build_model(SHAPE, 0), 1)
    run.load(0, problem)
    assert math.isclose(run.evaluate([0])[0].privacy, 0)
    before = -1.0
    while run.affordable_steps(0):
        run.train([0])
        measured = run.evaluate([0])[0]
        assert before < measured.privacy <= 1
        before = measured.privacy
    assert measured.privacy > 0.9
    spent = dict(run.states[0].private_steps)
    run.load_best(0)
    assert run.states[0].private_steps == spent and run.affordable_steps(0) == 0
    run.change(0, noise=5)
    assert run.affordable_steps(0) > 0


def test_an_episode_ends_with_its_privacy_and_never_spends_more() -> None:
    torch.set_num_threads(1)
    spec = env_spec("llmo/Private-v0")
    population = Population(spec, 2)
    down, keep = (spec.menu.index(name) for name in ("noise_down", "keep"))
    population.reset({slot: spec.draw("train", slot, 3.0) for slot in range(2)})
    going = [0, 1]
    while going:
        steps = population.step({slot: down if population.mask(slot)[down] else keep for slot in going})
        assert all(step.measurement.privacy <= 1 for step in steps.values())
        going = [slot for slot in going if not steps[slot].terminated]


@pytest.mark.filterwarnings("ignore")
def test_what_is_measured_and_recorded_is_the_epsilon_of_opacus_accountant(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    spec = env_spec("llmo/Private-v0")
    plan = ["keep", "noise_up", "keep", "noise_down", "noise_down"]
    env, accountant = TrainingEnv(spec, instance=3, render_mode="ansi"), RDPAccountant()
    _, info = env.reset()
    assert info["measurement"].epsilon == 0 and info["measurement"].delta == 1e-5
    state = env.population.run_of(0).states[0]
    assert state.problem.privacy is not None
    decisions = []
    for number, name in enumerate(plan):
        taken = env.population.step({0: spec.menu.index(name)})[0]
        assert not taken.masked
        for _ in range(taken.measurement.optimizer_steps):
            accountant.step(
                noise_multiplier=state.hyperparameters.level("noise"),
                sample_rate=state.problem.batch / state.problem.privacy.examples,
            )
        assert taken.measurement.epsilon == pytest.approx(accountant.get_epsilon(1e-5), rel=1e-6)
        assert taken.measurement.privacy == taken.measurement.epsilon / state.problem.privacy.epsilon
        decisions.append(decision(number, name, "", ("none", ""), taken))
    assert (decisions[-1].epsilon, decisions[-1].delta) == (taken.measurement.epsilon, 1e-5)
    assert f"epsilon {taken.measurement.epsilon:.2f} at delta 1e-05" in env.render()
    kept = EpisodeRecord(tuple(decisions), play([Job("llmo/Private-v0", "train", 0, "keep", budget=0.1)])[0].result)
    kept.save(tmp_path / "0.jsonl")
    assert not difference(EpisodeRecord.load(tmp_path / "0.jsonl"), kept)
    page = "".join(episode(kept, kept, tmp_path))
    assert "epsilon at delta 1e-05" in page and f"{decisions[-1].epsilon:.2f}" in page


def test_training_that_is_not_private_has_no_epsilon() -> None:
    (record,) = play([Job("llmo/LanguageModel-v0", "train", 0, "keep", budget=0.1)])
    assert {(one.epsilon, one.delta) for one in record.decisions} == {(None, None)}
    env = TrainingEnv(env_spec("llmo/LanguageModel-v0"), instance=0, render_mode="ansi")
    _, info = env.reset()
    assert math.isnan(info["measurement"].epsilon) and math.isnan(info["measurement"].delta)
    assert "epsilon" not in env.render()


def test_a_budget_out_of_range_is_refused() -> None:
    for epsilon, delta, examples in ((0.0, 1e-5, 10), (1.0, 1.5, 10), (1.0, 1e-5, 0), (math.nan, 1e-5, 10)):
        with pytest.raises(LlmoError):
            Privacy(epsilon, delta, examples)
