"""The plug-ins of README and docs obey their contracts, and what the README names is there."""

import re
from pathlib import Path

import pytest

from llmo import catalog
from llmo.catalog import declared
from llmo.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
DOCS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "plugins.md").read_text(), re.DOTALL)
PLUGINS = {name: block for block in (*BLOCKS, *DOCS) for name in re.findall(r'\.register\("(.+?)"\)', block)}


@pytest.mark.parametrize("name", PLUGINS)
def test_a_plug_in_of_the_readme_obeys_its_contract(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = f"readme_{list(PLUGINS).index(name)}"
    (tmp_path / f"{module}.py").write_text(PLUGINS[name])
    monkeypatch.syspath_prepend(tmp_path)
    try:
        assert main(["--plugin", module, "check", name]) == 0, capsys.readouterr().out
    finally:
        for registry in catalog.KINDS.values():
            for registered in re.findall(r'\.register\("(.+?)"', PLUGINS[name]):
                registry._entries.pop(registered, None)


def test_everything_that_plugs_in_is_shown() -> None:
    assert {"rate_x0.8", "me/SmallMenu-v0", "halve-when-worse", "smoothed_lm", "my/Digits-v0"} <= set(PLUGINS)


def test_the_readmes_program_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (program,) = (block for block in BLOCKS if "gym.make" in block)
    exec(program, {})
    assert "source_1_gap" in capsys.readouterr().out


def test_commands_and_pictures_that_are_named_exist() -> None:
    commands = set(re.findall(r"^llmo (?:--plugin \S+ )?(\w+)", README, re.MULTILINE))
    assert commands
    assert commands <= {"list", "check", "replay", *declared("experiments")}
    for picture in re.findall(r"!\[.*?\]\((.+?)\)", README):
        assert (ROOT / picture).is_file()


def test_every_room_of_the_tree_is_there() -> None:
    tree = README.partition("## The house")[2].partition("```\n")[2].partition("```")[0]
    for line in tree.splitlines():
        folder = "llmo" if line.startswith("  ") else ""
        assert (ROOT / folder / line.split()[0]).exists(), line
