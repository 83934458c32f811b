"""The console command ``linetune``, also ``python -m linetune``."""

import sys

from linetune import HOME


def main() -> None:
    """Run the command line, found beside this package whatever the current folder holds."""
    sys.path.insert(0, str(HOME))
    try:
        import cli
    finally:
        sys.path.remove(str(HOME))
    cli.main()


if __name__ == "__main__":
    main()
