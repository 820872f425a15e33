"""Every registered plug-in obeys its contract: what `llmo check` says of it, name by name."""

from functools import cache

import pytest

from llmo import catalog
from llmo.cli import main
from llmo.errors import LlmoError
from llmo.evaluation.checks import CHECKS, check

for kind in CHECKS:
    catalog.load(kind)
ACTIONS = set(catalog.KINDS["actions"].names())
# One process looks at all actions, as walks through the states of runs are made once a process.
TOGETHER = pytest.mark.xdist_group("actions")
NAMES = [
    pytest.param(name, marks=[TOGETHER] if name in ACTIONS else [])
    for name in sorted({name for kind in CHECKS for name in catalog.KINDS[kind].names()})
]


@cache
def lines(name: str) -> tuple[str, ...]:
    # `llmo check` looks at actions on every kind of run; that takes too long here.
    return tuple(check(name, kinds=1))


@pytest.mark.parametrize("name", NAMES)
def test_a_registered_plug_in_obeys_its_contract(name: str) -> None:
    assert [line for line in lines(name) if not line.startswith("ok ")] == []
    assert len(lines(name)) >= 3


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(LlmoError, match="did you mean 'tracking'"):
        check("traking")


@TOGETHER
def test_the_command_prints_the_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "noise_up"]) == 0
    assert capsys.readouterr().out.splitlines() == list(lines("noise_up"))
