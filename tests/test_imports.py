"""Imports run one way, plug-ins stay apart, and starting is light."""

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PLUGIN_FOLDERS = ("envs", "agents", "experiments")
# Each may import only what stands to its left. `catalog` imports plug-ins at run time only, so it can stand so early.
ORDER = """
__init__ errors registry catalog measurement hyperparameters kinds budget sealing atomic run_dir policy_file
tasks diagnostics agent familiar cautious learned rules schedules engine actions mdp trainer evaluation command_line
cli __main__
""".split()


def imports(tree: ast.AST, package: str) -> Iterator[str]:
    """Full names of what is imported at run time; relative names are resolved from `package`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*base, *filter(None, [node.module])])
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for child in node.orelse:
                yield from imports(ast.Module([child], []), package)
        else:
            yield from imports(node, package)


def is_plugin(name: str) -> bool:
    parts = name.removeprefix("llmo.catalog.").split(".")
    return parts[0] in PLUGIN_FOLDERS


def broken_rules(root: Path) -> list[str]:
    """What is imported against the rules in a tree that is laid out like this repository."""
    broken = []
    for path in sorted((root / "llmo").rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        own = parts[1]
        if own not in ORDER:
            broken.append(f"{path.name}: {own} has no place in the order")
            continue
        for name in imports(ast.parse(path.read_text()), ".".join(parts[:-1])):
            top, other = f"{name}.__init__".split(".")[:2]
            if is_plugin(name):
                broken.append(f"{path.name} imports a plug-in: {name}")
            elif top == "llmo" and other not in (own, "__version__"):
                if other not in ORDER or ORDER.index(other) > ORDER.index(own):
                    broken.append(f"{own} ({path.name}) imports {name}, which is not to its left")
    for folder in PLUGIN_FOLDERS:
        for path in sorted((root / folder).glob("*.py")):
            for name in filter(is_plugin, imports(ast.parse(path.read_text()), f"llmo.catalog.{folder}")):
                broken.append(f"{folder}/{path.name} imports a plug-in: {name}")
    return broken


def test_imports_run_one_way() -> None:
    assert broken_rules(ROOT) == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("llmo/registry.py", "from llmo.cli import main"),
        ("llmo/registry.py", "def f():\n    import llmo.mdp.env"),
        ("llmo/tasks/text.py", "from llmo import engine"),
        ("llmo/tasks/text.py", "from ..engine import run"),
        ("llmo/tasks/text.py", "from llmo import make_agent"),
        ("llmo/novelty.py", ""),
        ("llmo/cli.py", "from llmo.catalog.agents.plateau import Plateau"),
        ("llmo/cli.py", "from llmo.catalog import agents"),
        ("llmo/cli.py", "import agents.plateau"),
        ("agents/one.py", "from llmo.catalog.agents import two"),
        ("agents/one.py", "from . import two"),
        ("agents/one.py", "from agents.two import Two"),
    ],
)
def test_a_planted_import_is_found(tmp_path: Path, path: str, source: str) -> None:
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_text(source)
    assert len(broken_rules(tmp_path)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("llmo/cli.py", "from llmo import __version__, catalog\nfrom llmo.errors import LlmoError"),
        ("llmo/engine/run.py", "from llmo.engine.models import build_model\nfrom .batches import x\nimport torch"),
        ("llmo/registry.py", "if TYPE_CHECKING:\n    from llmo.agent import Agent"),
        ("agents/one.py", "import torch\nfrom llmo.registry import agents\nfrom llmo import catalog"),
    ],
)
def test_a_proper_import_is_not(tmp_path: Path, path: str, source: str) -> None:
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_text(source)
    assert broken_rules(tmp_path) == []


@pytest.mark.parametrize(
    "statement",
    [
        "import llmo; llmo.LlmoError; llmo.__version__",
        "from llmo.cli import main; main(['--help'])",
        "import llmo.run_dir",
    ],
)
def test_starting_imports_nothing_heavy(
    python: Callable[..., subprocess.CompletedProcess[str]], statement: str
) -> None:
    heavy = "{'torch', 'numpy', 'gymnasium', 'jsonargparse', 'transformers', 'matplotlib', 'rich'}"
    result = python("-c", f"{statement}; import sys; print('heavy:', sorted({heavy} & sys.modules.keys()))")
    assert result.stdout.endswith("heavy: []\n"), result.stdout + result.stderr


@pytest.mark.parametrize(
    "order", ["import gymnasium, llmo", "import llmo, gymnasium", "import llmo, llmo.catalog, gymnasium"]
)
def test_gymnasium_knows_the_environments(python: Callable[..., subprocess.CompletedProcess[str]], order: str) -> None:
    """In whatever order the two are imported."""
    program = f"{order}; from llmo.catalog import declared; print(set(declared('envs')) <= gymnasium.registry.keys())"
    result = python("-c", program)
    assert result.stdout == "True\n", result.stderr


def test_no_plugin_file_takes_a_name_of_the_standard_library() -> None:
    names = {path.stem for folder in PLUGIN_FOLDERS for path in (ROOT / folder).glob("*.py")}
    assert names & sys.stdlib_module_names == set()
