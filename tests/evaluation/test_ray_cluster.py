"""A cluster that is not there is one line, at once."""

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from llmo.cli import main
from llmo.errors import LlmoError
from llmo.evaluation.ray_cluster import _probe

WORDS = ["train", "llmo/LanguageModel-v0", "--workers", "ray"]


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port of this machine that is taken and on which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def test_a_cluster_that_is_not_there(python: Callable[..., subprocess.CompletedProcess[str]], closed_port: int) -> None:
    """In a process of its own, for Ray reads its settings when it is imported."""
    result = python("-m", "llmo", *WORDS, RAY_ADDRESS=f"127.0.0.1:{closed_port}")
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert f"RAY_ADDRESS '127.0.0.1:{closed_port}' is not usable: allowed is HOST:PORT" in result.stderr
    assert "refused" in result.stderr


@pytest.mark.parametrize("address", ["ray://127.0.0.1:10001", "somewhere", "127.0.0.1:port", ":6379"])
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(LlmoError, match="it is no HOST:PORT"):
        _probe(address)


def test_ray_is_not_installed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(WORDS) == 2
    error = capsys.readouterr().err
    assert "pip install 'llmo[ray]'" in error and error.count("\n") == 1
