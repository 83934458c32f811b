"""Where configs are: linetune's own by their names, and the one of a finished run."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from linetune import HOME
from linetune.run_of_checkpoint import config_named_in
from linetune.trainer_section import listed

PREFIX = "linetune:"


def config_folder() -> Path:
    """Return the folder of linetune's own configs: in the installed package, or in the clone."""
    installed = HOME / "linetune" / "configs"
    return installed if installed.is_dir() else HOME / "configs"


def named_config(argument: str) -> str:
    """Return the path of a config that is named ``linetune:NAME``; anything else as it is.

    Args:
        argument: The name, perhaps with ``--config=`` in front.

    Raises:
        MisconfigurationException: there is no config of this name; it lists those that there are.
    """
    option, _, name = argument.partition(PREFIX)
    if PREFIX not in argument or option not in ("", "--config=", "-c="):
        return argument
    folder = config_folder()
    path = folder / f"{name.removesuffix('.yaml')}.yaml"
    if not path.is_file():
        names = _shipped()
        close = [PREFIX + each for each in _near(name, names)]
        near = f"close to it: {', '.join(close)}" if close else f"there are {', '.join(names)}"
        raise MisconfigurationException(f"config: there is no {PREFIX}{name}; {near}")
    return f"{option}{path}"


def check_is_there(config: str) -> None:
    """Refuse a configuration that is the path of no file.

    Args:
        config: The path. What the parser takes besides is not looked at: text that is a configuration itself, the
            standard input (``-``), an address.

    Raises:
        MisconfigurationException: there is no such file; it names those that are there under a similar name.
    """
    if config == "-" or "://" in config or _is_mapping(config):
        return
    file = Path(config).expanduser()
    if config and os.path.exists(file):
        if file.is_dir():
            raise MisconfigurationException(f"config: {config} is a folder; give a file, such as its config.yaml")
        return
    siblings = {str(each) for ending in ("*.yaml", "*.yml") for each in file.parent.glob(ending)} if config else set()
    close = difflib.get_close_matches(str(file), siblings, n=3, cutoff=0.8)
    close += [PREFIX + each for each in _near(config, _shipped())] if not close else []
    near = f"close to it: {', '.join(close)}" if close else f"give a path, or a shipped one as {PREFIX}quickstart"
    raise MisconfigurationException(f"config: there is no file {config!r}; {near}")


def _shipped() -> list[str]:
    """Return the names of linetune's own configs, without those of studies, which another program reads."""
    folder = config_folder()
    names = sorted(file.relative_to(folder).with_suffix("").as_posix() for file in folder.rglob("*.yaml"))
    return [name for name in names if not name.startswith("studies/")]


def _near(name: str, names: Sequence[str]) -> list[str]:
    """Return the names that a name is close to: as a whole, or by their last parts."""
    name = name.removesuffix(".yaml").removesuffix(".yml").removeprefix("configs/")
    if name in names:
        return [name]
    whole = difflib.get_close_matches(name, names, n=3, cutoff=0.8)
    last = difflib.get_close_matches(Path(name).name, {Path(each).name for each in names}, n=3, cutoff=0.8)
    return whole or [each for each in names if Path(each).name in last]


def _is_mapping(text: str) -> bool:
    try:
        return isinstance(yaml.safe_load(text), dict)
    except yaml.YAMLError:
        return False


def config_of_checkpoint(path: str) -> Path:
    """Return the configuration of a checkpoint's run: the one beside its ``checkpoints``, or the one that it names.

    Raises:
        MisconfigurationException: there is none, or nothing tells which of several it is.
    """
    checkpoint = Path(path).expanduser().absolute()
    folder = checkpoint.parent
    file, named = folder.parent / "config.yaml", config_named_in(checkpoint)
    # A run's folder may be a copy; any other one may lie beside a configuration that has nothing to do with it.
    is_in_run = folder.name == "checkpoints" and file.is_file()
    is_beside = named is not None and named.parent.resolve() == folder.parent.resolve()
    if named is not None and named.is_file() and (is_beside or not is_in_run):
        # A configuration decides what code runs: a checkpoint from elsewhere must not choose one.
        if not is_beside and not _saves_into(named, folder):
            raise MisconfigurationException(f"config: {path} is not where {named} saves checkpoints; give --config")
        return named
    if not file.is_file():
        if path not in ("best", "last") and not checkpoint.exists():
            raise MisconfigurationException(f"ckpt_path: {path} does not exist")
        if (checkpoint / "checkpoints").is_dir():
            raise MisconfigurationException(f"ckpt_path: {path} is the folder of a run; give a file in its checkpoints")
        if checkpoint.is_dir():
            raise MisconfigurationException(f"ckpt_path: {path} is a folder; give a checkpoint, such as best.ckpt")
        raise MisconfigurationException(f"config: there is no {file} beside the checkpoint; give --config")
    if several := configs_in(file.parent):
        raise MisconfigurationException(f"config: {several}; give --config")
    return file


def _saves_into(config: Path, folder: Path) -> bool:
    """Return whether a ModelCheckpoint of a saved configuration has a folder as its `dirpath`."""
    try:
        saved = yaml.safe_load(config.read_text(encoding="utf-8"))
        given = [each for each in listed(saved["trainer"], "callbacks") if _has_own_folder(each)]
        own = [Path(each["init_args"]["dirpath"]).expanduser() for each in given]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError):
        return False
    # One that is relative was so to the folder in which the run was started.
    return any(each.resolve() == folder.resolve() or folder.parts[-len(each.parts) :] == each.parts for each in own)


def _has_own_folder(callback: Any) -> bool:
    return isinstance(callback, dict) and bool((callback.get("init_args") or {}).get("dirpath"))


def configs_in(folder: Path) -> str:
    """Return a sentence about the fits whose configurations share a folder, as those without a logger do; else nothing.

    Their checkpoints lie in one folder as well, and do not say which configuration they are of.
    """
    others = [file for file in sorted(folder.glob("config-v*.yaml")) if is_of_fit(file)]
    names = ", ".join(file.name for file in others)
    return f"{folder} holds the configurations of several runs (config.yaml, {names})" if others else ""


def is_of_fit(config: Path) -> bool:
    """Return whether a configuration that was saved is not one of `validate`, `test` or `predict`, by their options."""
    lines = config.read_text(encoding="utf-8", errors="replace").splitlines()
    return not any(line.startswith(("verbose:", "return_predictions:")) for line in lines)
