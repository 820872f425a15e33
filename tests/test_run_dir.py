import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from llmo.atomic import write_text_atomic
from llmo.errors import LlmoError
from llmo.run_dir import RunDir

Python = Callable[..., subprocess.CompletedProcess[str]]


def save(run: RunDir, step: int) -> None:
    run.checkpoint(step, {"x": torch.full((3,), float(step))}, {"step": step})


def checkpoints(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def lines(folder: Path) -> list[int]:
    return [json.loads(line)["n"] for line in (folder / "decisions.jsonl").read_text().splitlines()]


def test_a_checkpoint_comes_back_bit_for_bit(tmp_path: Path) -> None:
    buffer = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))
    tensors = {
        "whole": buffer,
        "view": buffer[:, 1:3],
        "bf16": buffer.bfloat16(),
        "state": np.arange(4, dtype=np.uint8),
    }
    meta = {"seed": 2**127, "rate": 0.1 + 0.2, "nan": [1, None, "x"]}
    with RunDir(tmp_path / "a" / "run") as run:
        assert run.latest_checkpoint() is None
        run.checkpoint(7, tensors, meta)
    checkpoint = RunDir(tmp_path / "a" / "run").latest_checkpoint()
    assert checkpoint is not None
    assert (checkpoint.step, checkpoint.meta) == (7, meta)
    for name, tensor in tensors.items():
        assert torch.equal(checkpoint.tensors[name], torch.as_tensor(tensor))


def test_two_checkpoints_are_kept(tmp_path: Path) -> None:
    with RunDir(tmp_path / "run") as run:
        for step in (1, 2, 5, 1_000_000, 1_000_001):
            save(run, step)
    assert checkpoints(tmp_path / "run") == ["1000000", "1000001"]


def test_a_folder_with_a_run_is_refused_unless_resumed(tmp_path: Path) -> None:
    with RunDir(tmp_path) as run:
        run.settle({"seed": 1})
    with pytest.raises(LlmoError, match="--resume"), RunDir(tmp_path):
        pass
    with RunDir(tmp_path, resume=True):
        assert json.loads((tmp_path / "config.json").read_text()) == {"seed": 1}


def test_a_run_that_died_before_it_wrote_does_not_block_its_folder(tmp_path: Path) -> None:
    with RunDir(tmp_path):
        pass
    with RunDir(tmp_path):
        pass


def test_a_file_is_no_run_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(LlmoError, match="not a file"), RunDir(path):
            pass


def test_a_folder_in_use_is_refused_with_its_process(tmp_path: Path, python: Python) -> None:
    program = f"from llmo.run_dir import RunDir\nwith RunDir({str(tmp_path / 'run')!r}, resume=True): pass"
    with RunDir(tmp_path / "run") as run:
        result = python("-c", program)
        assert f"process {(run.path / 'lock').read_text().strip()} is using" in result.stderr
    assert python("-c", program).returncode == 0


def test_a_line_that_was_cut_short_is_dropped(tmp_path: Path) -> None:
    with RunDir(tmp_path) as run:
        for n in range(3):
            run.append({"n": n})
    with (tmp_path / "decisions.jsonl").open("a") as file:
        file.write('{"n": 3, "lo')
    with RunDir(tmp_path, resume=True) as run:
        run.append({"n": 4})
        assert lines(tmp_path) == [0, 1, 2, 4]


def test_records_go_back_with_the_checkpoint(tmp_path: Path) -> None:
    with RunDir(tmp_path) as run:
        run.append({"n": 0})
        save(run, 1)
        run.append({"n": 1})
        run.append({"n": 1}, "later.jsonl")
    with RunDir(tmp_path, resume=True) as run:
        run.rewind(run.latest_checkpoint())
        assert (tmp_path / "later.jsonl").read_text() == ""
        run.append({"n": 2})
        assert lines(tmp_path) == [0, 2]
        run.rewind(None)
        assert lines(tmp_path) == []


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut, flip, Path.unlink])
@pytest.mark.parametrize("name", ["tensors.safetensors", "meta.json", "manifest.json"])
def test_a_damaged_checkpoint_is_named_and_the_older_one_loads(
    tmp_path: Path, damage: Callable[[Path], None], name: str
) -> None:
    with RunDir(tmp_path) as run:
        save(run, 1)
        save(run, 2)
        damage(tmp_path / "checkpoints" / "000002" / name)
        with pytest.warns(UserWarning, match="000002"):
            checkpoint = run.latest_checkpoint()
    assert run.skipped == ["000002"]
    assert checkpoint is not None
    assert checkpoint.step == 1


def test_broken_checkpoints_do_not_push_out_good_ones(tmp_path: Path) -> None:
    with RunDir(tmp_path) as run:
        for step in (10, 20):
            save(run, step)
            cut(tmp_path / "checkpoints" / f"0000{step}" / "meta.json")
        save(run, 5)
        with pytest.warns(UserWarning, match="0000"):
            checkpoint = run.latest_checkpoint()
        assert checkpoint is not None
        assert checkpoint.step == 5
        save(run, 10)
        assert checkpoints(tmp_path) == ["000005", "000010", "000020"]


def test_what_a_killed_process_left_is_cleared(tmp_path: Path) -> None:
    with RunDir(tmp_path) as run:
        save(run, 1)
    (tmp_path / "checkpoints" / ".000002.tmp").mkdir()
    (tmp_path / "checkpoints" / ".000002.tmp" / "meta.json").touch()
    (tmp_path / ".config.json.1.tmp").touch()
    with RunDir(tmp_path, resume=True) as run:
        save(run, 2)
    assert checkpoints(tmp_path) == ["000001", "000002"]
    assert not (tmp_path / ".config.json.1.tmp").exists()


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    write_text_atomic(tmp_path / "file", "old")
    with pytest.raises(UnicodeEncodeError):
        write_text_atomic(tmp_path / "file", "\udc80")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file", "old")]


def test_a_full_disk_costs_only_the_checkpoint_being_written(python: Python, tmp_path: Path) -> None:
    """The kernel refuses the write (EFBIG, by a limit on file size), as it would on a full disk."""
    program = """
import resource, signal
import torch
from llmo.atomic import write_text_atomic
from llmo.run_dir import RunDir
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with RunDir("run") as run:
    run.checkpoint(1, {"x": torch.ones(10)}, {})
    run.settle({"small": 1})
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    for write in (
        lambda: run.checkpoint(2, {"x": torch.ones(100_000)}, {}),
        lambda: write_text_atomic("run/config.json", "x" * 200_000),
    ):
        try:
            write()
        except OSError as error:
            print(error.errno)
    print(run.latest_checkpoint().step)
"""
    result = python("-c", program)
    assert result.stdout.split() == ["27", "27", "1"], result.stderr
    assert checkpoints(tmp_path / "run") == ["000001"]
    assert json.loads((tmp_path / "run" / "config.json").read_text()) == {"small": 1}
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["checkpoints", "config.json", "lock"]


def test_kill_9_at_any_moment_leaves_a_checkpoint_that_loads(python: Python) -> None:
    """Children save as fast as they can and are killed; each goes on from what the one before left."""
    program = """
import os, signal, time, warnings
import torch
from llmo.run_dir import RunDir
warnings.simplefilter("error")
steps = []
for attempt in range(12):
    child = os.fork()
    if child == 0:
        with RunDir("run", resume=True) as run:
            checkpoint = run.latest_checkpoint()
            run.rewind(checkpoint)
            step = checkpoint.step if checkpoint else 0
            while True:
                step += 1
                run.append({"n": step})
                run.checkpoint(step, {"x": torch.full((20_000,), float(step))}, {"step": step})
    time.sleep(0.1 + 0.013 * attempt)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    run = RunDir("run")
    checkpoint = run.latest_checkpoint()
    assert run.skipped == [], run.skipped
    if checkpoint is not None:
        assert checkpoint.meta["step"] == checkpoint.step
        assert torch.equal(checkpoint.tensors["x"], torch.full((20_000,), float(checkpoint.step)))
    steps.append(checkpoint.step if checkpoint else 0)
assert steps == sorted(steps) and steps[-1] > steps[0], steps
with RunDir("run", resume=True) as run:
    run.rewind(run.latest_checkpoint())
assert len(open("run/decisions.jsonl").readlines()) == steps[-1]
print("whole")
"""
    result = python("-c", program)
    assert result.stdout == "whole\n", result.stderr


def test_a_record_that_a_crash_has_cut_short_is_not_filled_up(tmp_path: Path) -> None:
    with RunDir(tmp_path) as run:
        for number in range(3):
            run.append({"a": number}, "record.jsonl")
        run.checkpoint(1, {"x": torch.ones(1)}, {})
    file = tmp_path / "record.jsonl"
    file.write_bytes(file.read_bytes()[:-3])
    with RunDir(tmp_path, resume=True) as run:
        run.rewind(run.latest_checkpoint())
        run.append({"a": 3}, "record.jsonl")
    assert [json.loads(line)["a"] for line in file.read_text().splitlines()] == [0, 1, 3]


def test_a_resumed_run_must_have_its_own_settings(tmp_path: Path) -> None:
    with RunDir(tmp_path) as run:
        run.settle({"seed": 1})
        run.settle({"seed": 1})
        with pytest.raises(LlmoError, match="seed of a resumed run 2"):
            run.settle({"seed": 2})
        (tmp_path / "config.json").write_text("[")
        with pytest.raises(LlmoError, match="config.json"):
            run.settle({"seed": 1})
