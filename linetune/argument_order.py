"""The order of the command line's arguments."""

from collections.abc import Sequence

from lightning.pytorch.utilities.exceptions import MisconfigurationException


def check_argument_order(arguments: Sequence[str]) -> None:
    """Refuse an argument of a class that stands before the class.

    A class that takes another's place starts from its own defaults, so that what was given for the one before it, by
    the command line as by a configuration, is gone: the argument would be lost without a word.

    Args:
        arguments: The command line's, each ``--KEY=VALUE`` or ``--KEY`` and ``VALUE``.

    Raises:
        MisconfigurationException: names the argument, and where it has to stand.
    """
    given: list[str] = []
    for argument in arguments:
        if not argument.startswith("--"):
            continue
        key = argument.removeprefix("--").partition("=")[0].removesuffix(".class_path")
        early = next((other for other in given if other.startswith(f"{key}.")), None)
        if early and key not in given:
            raise MisconfigurationException(f"--{early}: it would be lost before --{key}; give it after that")
        given.append(key)
