"""Data encrypted at rest: what `llmo improve --data` reads may be sealed.

export LLMO_KEY=$(openssl rand -hex 32)
llmo seal recipes            # recipes/train.jsonl.sealed and so on; then remove the plain files
llmo unseal recipes --out plain
"""

from __future__ import annotations

from pathlib import Path

from llmo.errors import LlmoError
from llmo.registry import experiments


@experiments.register("seal")
def seal(path: Path) -> None:
    """Encrypt a user's data files with the key in LLMO_KEY: NAME.sealed beside each.

    Args:
        path: A data file, or a folder of them. The plain files stay, to be removed by whoever has checked the others.

    Raises:
        LlmoError: There is no key, nothing to be sealed, or something would be written over.
    """
    from llmo.sealing import check_key
    from llmo.tasks.own.files import TABLES, TEXT
    from llmo.tasks.own.sealed import SUFFIX, check_free, seal_file

    check_key()
    files = _files(path, (*TEXT, *TABLES))
    for file in files:
        check_free(file.with_name(file.name + SUFFIX))
    for file in files:
        print(f"{seal_file(file)} is sealed; {file} is plain and can be removed")


@experiments.register("unseal")
def unseal(path: Path, out: Path | None = None) -> None:
    """Decrypt what `llmo seal` has encrypted.

    Args:
        path: A sealed file, or a folder of them.
        out: Folder for the plain files; by default they are written beside the sealed ones.

    Raises:
        LlmoError: There is no key, another one, nothing to be unsealed, or something would be written over.
    """
    from llmo.sealing import check_key
    from llmo.tasks.own.sealed import SUFFIX, check_free, plain_name, read_data, unseal_file

    check_key()
    targets = {file: out or file.parent for file in _files(path, (SUFFIX,))}
    for file, folder in targets.items():
        check_free(folder / plain_name(file).name)
        # Where one of them cannot be opened, none is written.
        read_data(file)
    for file, folder in targets.items():
        print(f"{unseal_file(file, folder)} is plain")


def _files(path: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """The files of a folder, or a file alone, that end in one of some suffixes."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    found = [file for file in files if file.is_file() and file.suffix in suffixes]
    if not found:
        raise LlmoError("data", str(path), f"a file that ends in {', '.join(suffixes)}, or a folder with some")
    return found
