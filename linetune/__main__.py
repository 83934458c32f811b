"""The console command ``linetune``, also ``python -m linetune``."""

import sys
from pathlib import Path

import linetune


def main() -> None:
    """Run the command line, found beside this package whatever the current folder holds."""
    home = str(Path(linetune.__file__).resolve().parent.parent)
    sys.path.insert(0, home)
    try:
        import cli
    finally:
        sys.path.remove(home)
    cli.main()


if __name__ == "__main__":
    main()
