"""The command line's arguments before they are parsed: their order, and the configs among them."""

from collections.abc import Sequence
from itertools import islice, zip_longest

from lightning.pytorch.utilities.exceptions import MisconfigurationException

from linetune.config_files import check_is_there, config_of_checkpoint, named_config

# How a config is given: before its path, or in one word with it.
_CONFIG = ("-c", "--config")
_CONFIG_WITH_VALUE = ("-c=", "--config=")


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


def check_configs(arguments: Sequence[str]) -> None:
    """Refuse a configuration that is not there.

    Args:
        arguments: The command line's.

    Raises:
        MisconfigurationException: names it, and those that are there under a similar name.
    """
    for config in configs_among(arguments):
        check_is_there(config)


def configs_among(arguments: Sequence[str]) -> list[str]:
    """Return the configurations that the arguments name, those named ``linetune:NAME`` as paths."""
    found = []
    for argument, following in zip_longest(arguments, arguments[1:]):
        if argument in _CONFIG and following is not None:
            found.append(named_config(following))
        elif argument.startswith(_CONFIG_WITH_VALUE):
            found.append(named_config(argument.partition("=")[2]))
    return found


def configs_first(arguments: list[str]) -> list[str]:
    """Return the arguments with the configs in front: what is given on the command line wins wherever it stands.

    Configs that are named ``linetune:NAME`` become paths.
    """
    configs: list[str] = []
    others: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if argument in _CONFIG:
            configs += [argument, *map(named_config, islice(rest, 1))]
        elif argument.startswith(_CONFIG_WITH_VALUE):
            configs.append(named_config(argument))
        else:
            others.append(argument)
    return configs + others


def export_arguments(arguments: list[str]) -> list[str]:
    """Return the arguments of ``export`` with the configuration of the checkpoint's run, unless one is given.

    Raises:
        MisconfigurationException: there is neither a checkpoint nor a configuration, or none beside the checkpoint, or
            no folder to write.
    """
    # A switch, as people write one; the parser's own take true or false.
    following = [*arguments, "--"][1:]
    arguments = [
        "--onnx=true" if argument == "--onnx" and after.startswith("--") else argument
        for argument, after in zip(arguments, following, strict=True)
    ]
    has_config = any(argument in _CONFIG or argument.startswith(_CONFIG_WITH_VALUE) for argument in arguments)
    path = value_of(arguments, "--ckpt_path")
    to = value_of(arguments, "--to")
    if has_config or {"-h", "--help"} & set(arguments) or (to is None and path is None):
        return arguments
    if path is None:
        raise MisconfigurationException("ckpt_path: export needs a checkpoint; give --ckpt_path FILE")
    if to is None:
        raise MisconfigurationException("to: export needs a folder to write; give --to FOLDER")
    return ["--config", str(config_of_checkpoint(path)), *arguments]


def value_of(arguments: Sequence[str], option: str) -> str | None:
    """Return the last value that the arguments give to an option, as the parser takes it; None without one."""
    value = None
    for argument, following in zip_longest(arguments, arguments[1:]):
        if argument == option:
            value = following or value
        elif argument.startswith(f"{option}="):
            value = argument.partition("=")[2]
    return value
