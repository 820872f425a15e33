import math

import numpy as np
import pytest
import torch

from llmo import catalog
from llmo.agent import Space
from llmo.diagnostics.features import INDEX, NAMES

LOSSES = [6.0, 5.0, 5.0 - 1e-4, 5.2, 5.1, 4.5, 4.6, 4.7, 4.4, 4.4, 4.4, 4.4, 4.5, 3.0, 3.1, 3.2, 3.3, 3.4, 3.5, 3.6]


@pytest.mark.parametrize("patience", [0, 1, 2, 5])
@pytest.mark.parametrize("factor", [0.1, 0.5])
def test_falls_when_torch_falls(patience: int, factor: float) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=factor, patience=patience, eps=0.0)
    agent = catalog.make_agent("plateau", scratch=2.0, pretrained=1.0, factor=factor, patience=patience)
    agent.bind(Space(("keep",), NAMES))
    agent.reset([0])
    (schedule,) = agent.schedules(["scratch"])
    rates = []
    for step, loss in enumerate(LOSSES):
        theirs.step(loss)
        observation = np.zeros((1, len(NAMES)), np.float32)
        observation[0, INDEX["gain_total"]] = 3 * math.log(LOSSES[0] / loss)
        assert agent.act(observation, np.ones((1, 1), bool), np.array([step == 0])).tolist() == [0]
        assert schedule(step / len(LOSSES)) == pytest.approx(optimizer.param_groups[0]["lr"])
        rates.append(schedule(0.5))
    assert len(set(rates)) > 1


def test_each_run_has_its_own_rate_and_a_new_episode_a_fresh_one() -> None:
    agent = catalog.make_agent("plateau", scratch=2.0, pretrained=1.0, factor=0.5, patience=0)
    agent.bind(Space(("keep",), NAMES))
    agent.reset([0, 1])
    falling, stuck = agent.schedules(["scratch", "pretrained"])
    for step in range(3):
        observation = np.zeros((2, len(NAMES)), np.float32)
        observation[0, INDEX["gain_total"]] = 0.1 * step
        agent.act(observation, np.ones((2, 1), bool), np.full(2, step == 0))
    assert (falling(0.5), stuck(0.5)) == (2.0, 0.25)
    assert "falls to 0.25" in agent.explain()[1]
    agent.act(observation, np.ones((2, 1), bool), np.array([False, True]))
    assert stuck(0.0) == 1.0
