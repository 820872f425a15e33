"""What is sealed: not to be read, not to be changed, and a run that is continued says when the key is missing."""

from pathlib import Path

import pytest
import torch
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from llmo import sealing
from llmo.errors import LlmoError
from llmo.run_dir import RunDir
from llmo.sealing import MAGIC, NONCE, seal, unseal

KEY, OTHER = "11" * 32, "22" * 32


@pytest.fixture(autouse=True)
def with_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMO_KEY", KEY)


def test_what_is_sealed_is_what_the_library_decrypts() -> None:
    sealed = seal(b"weights", "here")
    assert sealed.startswith(MAGIC) and b"weights" not in sealed
    nonce, rest = sealed[len(MAGIC) :][:NONCE], sealed[len(MAGIC) + NONCE :]
    assert AESGCM(bytes.fromhex(KEY)).decrypt(nonce, rest, b"here/0/1") == b"weights"
    assert unseal(sealed, "here") == b"weights" and seal(b"weights", "here") != sealed


def test_large_contents_go_in_chunks_that_cannot_change_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "CHUNK", 10)
    content = bytes(range(35))
    sealed = seal(content, "here")
    assert unseal(sealed, "here") == content and unseal(seal(b"", "here"), "here") == b""
    size, head = NONCE + 10 + sealing.TAG, len(MAGIC)
    first, second = sealed[head : head + size], sealed[head + size : head + 2 * size]
    with pytest.raises(LlmoError, match="key"):
        unseal(sealed[:head] + second + first + sealed[head + 2 * size :], "here")


def test_without_a_key_nothing_is_sealed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLMO_KEY")
    assert seal(b"weights", "here") == b"weights" == unseal(b"weights", "here")


@pytest.mark.parametrize("bad", ["11", "zz" * 32, "1" * 63])
def test_a_key_that_is_none_is_refused_and_not_told(bad: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMO_KEY", bad)
    with pytest.raises(LlmoError, match="64 hexadecimal digits") as error:
        seal(b"weights", "here")
    assert bad not in str(error.value)


def test_what_was_not_sealed_or_belongs_elsewhere_is_not_taken_for_sealed() -> None:
    for content, place in ((b"weights", "here"), (seal(b"weights", "there"), "here")):
        with pytest.raises(LlmoError, match="key"):
            unseal(content, place)


def test_a_changed_byte_is_noticed() -> None:
    sealed = bytearray(seal(b"weights", "here"))
    sealed[-1] ^= 1
    with pytest.raises(LlmoError, match="altered"):
        unseal(bytes(sealed), "here")


def test_checkpoints_are_sealed_and_a_wrong_key_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with RunDir(tmp_path / "run") as run:
        run.checkpoint(1, {"w": torch.arange(3.0)}, {"secret": "loss"})
        files = [path.read_bytes() for path in (tmp_path / "run" / "checkpoints" / "000001").iterdir()]
        assert not any(b"secret" in content or b'"w"' in content for content in files)
        found = run.latest_checkpoint()
        assert (
            found is not None and torch.equal(found.tensors["w"], torch.arange(3.0)) and found.meta["secret"] == "loss"
        )
        for key in ("", OTHER):
            monkeypatch.setenv("LLMO_KEY", key)
            with pytest.raises(LlmoError, match="that of the run"):
                run.latest_checkpoint()
