"""``python -m llmo``: the same as the command ``llmo``."""

from llmo.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
