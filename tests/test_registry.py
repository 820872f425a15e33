import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmo import catalog
from llmo.catalog.declared import declarations
from llmo.errors import LlmoError
from llmo.registry import Registry, agents, valid_name

Python = Callable[..., subprocess.CompletedProcess[str]]


def colours() -> Registry[Any]:
    registry: Registry[Any] = Registry("colour")

    @registry.register("red")
    class Red:
        """Long waves.

        More about it.
        """

    @registry.register("blue")
    def blue() -> None:
        pass

    return registry


def test_names_are_sorted_and_summarised() -> None:
    registry = colours()
    assert registry.names() == ["blue", "red"]
    assert registry.summary("red") == "Long waves."
    assert registry.summary("blue") == ""
    assert registry.get("red").__name__ == "Red"


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(LlmoError, match="colour 'bleu'.*one of blue, red.*did you mean 'blue'") as caught:
        colours().get("bleu")
    assert caught.value.nearest == "blue"


def test_a_name_is_given_once() -> None:
    registry = colours()
    with pytest.raises(LlmoError, match="a name that is free"):
        registry.register("red")(colours)
    assert registry.get("red").__name__ == "Red"


def test_the_same_class_may_register_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "from llmo.registry import agents\n@agents.register('twice')\nclass Twice: 'v1'\n"
    (tmp_path / "twice_plugin.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(agents, "_entries", {})
    module = importlib.import_module("twice_plugin")
    importlib.reload(module)
    assert agents.get("twice") is module.Twice


@pytest.mark.parametrize("name", ["keep", "llmo/LanguageModel-v0", "explore-then_commit", "v1.5", "_x", "0"])
def test_good_names(name: str) -> None:
    assert valid_name("agent", name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "/x",
        "x/",
        "a//b",
        "../x",
        "a/../b",
        "a/.b",
        ".x",
        "a..b",
        "-x",
        "a b",
        "a\nb",
        "x\n",
        "é",
        "a\\b",
    ],
)
def test_bad_names(name: str) -> None:
    with pytest.raises(LlmoError):
        valid_name("agent", name)
    with pytest.raises(LlmoError):
        colours().register(name)


def test_declarations_are_read_without_importing(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text(
        '"""The file."""\nraise RuntimeError\n'
        '@agents.register("a-one")\nclass One:\n    """First.\n\n    More.\n    """\n'
        '@agents.register("bare")\ndef bare(): pass\n@tasks.register("other")\ndef other(): pass\n'
    )
    (tmp_path / "broken.py").write_text("def (")
    found = declarations(tmp_path, "agents")
    assert {name: entry.summary for name, entry in found.items()} == {"a-one": "First.", "bare": "The file."}
    assert {entry.path.name for entry in found.values()} == {"one.py"}


@pytest.mark.parametrize("kind", list(catalog.FOLDERS))
def test_declarations_agree_with_what_importing_registers(kind: str) -> None:
    catalog.load(kind)
    registry = catalog.KINDS[kind]
    for name, declaration in catalog.declared(kind).items():
        assert registry.summary(name) in (declaration.summary, "")
        assert sys.modules[f"llmo.catalog.{kind}.{declaration.path.stem}"]


@pytest.mark.parametrize("kind", list(catalog.KINDS))
def test_every_kind_loads_twice(kind: str) -> None:
    catalog.load(kind)
    names = catalog.KINDS[kind].names()
    catalog.load(kind)
    assert catalog.KINDS[kind].names() == names


def test_unknown_kinds_and_names() -> None:
    with pytest.raises(LlmoError, match="did you mean 'agents'"):
        catalog.load("agent")
    with pytest.raises(LlmoError, match="kind"):
        catalog.get("colours", "red")
    with pytest.raises(LlmoError, match="agent '../../x'"):
        catalog.get("agents", "../../x")


PLUGIN = """
from llmo.registry import agents

@agents.register("stranger")
class Stranger:
    \"\"\"Comes from elsewhere.\"\"\"

    def __init__(self, patience: int = 3) -> None:
        self.patience = patience
"""


def test_a_plugin_module_reaches_workers(python: Python, tmp_path: Path) -> None:
    """A process started later finds the plug-in that its parent was told of."""
    (tmp_path / "elsewhere.py").write_text(PLUGIN)
    child = "import llmo; print(llmo.make_agent('stranger', patience=5).patience)"
    program = (
        "import subprocess, sys; from llmo.catalog import use_plugin; use_plugin('elsewhere'); use_plugin('elsewhere');"
        f"subprocess.run([sys.executable, '-c', {child!r}], check=True)"
    )
    result = python("-c", program)
    assert result.stdout == "5\n", result.stderr


def test_an_installed_plugin_is_found(python: Python, tmp_path: Path) -> None:
    site = tmp_path / "site"
    (site / "elsewhere-1.0.dist-info").mkdir(parents=True)
    (site / "elsewhere-1.0.dist-info" / "METADATA").write_text("Name: elsewhere\nVersion: 1.0\n")
    (site / "elsewhere-1.0.dist-info" / "entry_points.txt").write_text("[llmo.plugins]\nfriend = elsewhere\n")
    (site / "elsewhere.py").write_text(PLUGIN)
    path = os.pathsep.join([str(site), os.environ["PYTHONPATH"]])
    program = "from llmo import catalog; catalog.load('agents'); print(catalog.KINDS['agents'].summary('stranger'))"
    assert python("-c", program, PYTHONPATH=path).stdout == "Comes from elsewhere.\n"
    (site / "elsewhere.py").write_text("import no_such_library")
    broken = python("-c", program, PYTHONPATH=path)
    assert "LlmoError: plug-in 'friend'" in broken.stderr
    assert "No module named 'no_such_library'" in broken.stderr


def test_parameters_of_an_agent_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agents, "_entries", {})

    @agents.register("patient")
    class Patient:
        def __init__(self, patience: int = 3) -> None:
            self.patience = patience

    assert catalog.make_agent("patient").patience == 3
    with pytest.raises(LlmoError, match="parameter of patient 'patienc'.*did you mean 'patience'"):
        catalog.make_agent("patient", patienc=4)
