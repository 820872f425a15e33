"""Data at rest: sealed files give the same examples, and whatever was done to them is noticed, with the file's name."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pyarrow import ipc, parquet

from llmo import sealing
from llmo.cli import main
from llmo.errors import LlmoError
from llmo.sealing import MAGIC, NONCE, TAG
from llmo.tasks.own.data import load_data
from llmo.tasks.own.sealed import IDENTITY, read_data, seal_file, unseal_file

KEY, OTHER = "11" * 32, "22" * 32
ROWS = [{"text": f"example {number}", "label": ("good", "bad")[number % 2]} for number in range(30)]
HEAD = IDENTITY + len(MAGIC)


@pytest.fixture(autouse=True)
def with_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMO_KEY", KEY)


def data_folder(folder: Path, suffix: str) -> Path:
    """Three splits of one format."""
    folder.mkdir()
    for name, part in (("train", ROWS[:20]), ("valid", ROWS[20:25]), ("test", ROWS[25:])):
        file, table = folder / f"{name}{suffix}", pyarrow.Table.from_pylist(part)
        if suffix == ".jsonl":
            file.write_text("".join(json.dumps(row) + "\n" for row in part))
        elif suffix == ".csv":
            file.write_text("text,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in part))
        elif suffix == ".parquet":
            parquet.write_table(table, file)
        else:
            with ipc.new_stream(file, table.schema) as sink:
                sink.write_table(table)
    return folder


def seal_folder(folder: Path) -> None:
    plain = sorted(folder.iterdir())
    assert main(["seal", str(folder)]) == 0
    for file in plain:
        file.unlink()


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet", ".arrow"])
def test_sealed_files_give_the_same_examples(tmp_path: Path, suffix: str) -> None:
    folder = data_folder(tmp_path / "data", suffix)
    plain = load_data(str(folder), "classification")
    seal_folder(folder)
    assert {file.suffix for file in folder.iterdir()} == {".sealed"}
    assert not any(b"example" in file.read_bytes() for file in folder.iterdir())
    assert load_data(str(folder), "classification") == plain
    alone = folder / f"train{suffix}.sealed"
    assert len(load_data(str(alone), "classification").training[0]) == 16


def test_sealing_and_unsealing_gives_every_bit_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "CHUNK", 100)
    folder = data_folder(tmp_path / "data", ".parquet")
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    seal_folder(folder)
    assert main(["unseal", str(folder), "--out", str(tmp_path / "plain")]) == 0
    assert {file.name: file.read_bytes() for file in (tmp_path / "plain").iterdir()} == before


def test_what_is_sealed_is_what_the_library_decrypts(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_bytes(b"some text")
    content = seal_file(tmp_path / "train.txt").read_bytes()
    identity, nonce, rest = content[:IDENTITY], content[HEAD:][:NONCE], content[HEAD + NONCE :]
    place = f"data/train.txt/{identity.hex()}/0/1".encode()
    assert AESGCM(bytes.fromhex(KEY)).decrypt(nonce, rest, place) == b"some text"


def chunks(content: bytes) -> list[bytes]:
    size = NONCE + 10 + TAG
    return [content[at : at + size] for at in range(HEAD, len(content), size)]


def swapped(content: bytes) -> bytes:
    first, second, *others = chunks(content)
    return content[:HEAD] + second + first + b"".join(others)


CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "a byte": lambda content: content[:-1] + bytes([content[-1] ^ 1]),
    "a byte of what tells files apart": lambda content: bytes([content[0] ^ 1]) + content[1:],
    "half of the last chunk": lambda content: content[:-7],
    "the last chunk": lambda content: content[:HEAD] + b"".join(chunks(content)[:-1]),
    "all chunks": lambda content: content[:HEAD],
    "everything": lambda content: b"",
    "a chunk twice": lambda content: content + chunks(content)[-1],
    "two chunks swapped": swapped,
    "never sealed": lambda content: b"plain text, which is longer than what tells files apart",
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_file_is_noticed_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    monkeypatch.setattr(sealing, "CHUNK", 10)
    plain = tmp_path / "train.txt"
    plain.write_bytes(bytes(range(40)))
    sealed = seal_file(plain)
    assert read_data(sealed) == plain.read_bytes()
    sealed.write_bytes(CHANGES[change](sealed.read_bytes()))
    with pytest.raises(LlmoError, match=r"train\.txt\.sealed"):
        read_data(sealed)


def test_chunks_of_two_files_of_one_name_do_not_mix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "CHUNK", 10)
    sealed = []
    for number in range(2):
        (tmp_path / str(number)).mkdir()
        (file := tmp_path / str(number) / "train.txt").write_bytes(bytes([number]) * 20)
        sealed.append(seal_file(file))
    one, other = (chunks(file.read_bytes()) for file in sealed)
    sealed[0].write_bytes(sealed[0].read_bytes()[:HEAD] + one[0] + other[1])
    with pytest.raises(LlmoError, match="data"):
        read_data(sealed[0])
    sealed[1].rename(tmp_path / "test.txt.sealed")
    with pytest.raises(LlmoError, match="under its own name"):
        read_data(tmp_path / "test.txt.sealed")


@pytest.mark.parametrize("key", ["", OTHER])
def test_without_its_key_a_file_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], key: str
) -> None:
    folder = data_folder(tmp_path / "data", ".jsonl")
    seal_folder(folder)
    capsys.readouterr()
    monkeypatch.setenv("LLMO_KEY", key)
    for command in (["unseal", str(folder), "--out", str(tmp_path / "plain")], ["seal", str(folder)]):
        assert main(command) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "plain").exists()
    with pytest.raises(LlmoError, match=r"train\.jsonl\.sealed.*LLMO_KEY"):
        load_data(str(folder), "classification")


def test_a_folder_is_unsealed_whole_or_not_at_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = data_folder(tmp_path / "data", ".csv")
    seal_folder(folder)
    (tmp_path / "file").write_text("mine")
    for out in ("file", "file/below"):
        with pytest.raises(LlmoError, match=f"output '.*{out}' is not usable: allowed is a folder"):
            unseal_file(folder / "test.csv.sealed", tmp_path / out)
    # The last one in order.
    (folder / "valid.csv.sealed").write_bytes(b"cut")
    assert main(["unseal", str(folder), "--out", str(tmp_path / "plain")]) == 2
    assert "valid.csv.sealed" in capsys.readouterr().err and not (tmp_path / "plain").exists()


def test_nothing_is_written_over_and_twins_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = data_folder(tmp_path / "data", ".jsonl")
    (folder / "valid.jsonl.sealed").write_text("mine")
    assert main(["seal", str(folder)]) == 2 and "valid.jsonl.sealed" in capsys.readouterr().err
    assert not (folder / "train.jsonl.sealed").exists() and (folder / "valid.jsonl.sealed").read_text() == "mine"
    (folder / "valid.jsonl.sealed").unlink()
    assert main(["seal", str(folder)]) == 0
    with pytest.raises(LlmoError, match=r"test\.jsonl\.sealed beside test\.jsonl"):
        load_data(str(folder), "classification")
    assert main(["unseal", str(folder)]) == 2 and "not there yet" in capsys.readouterr().err
