"""The command line's parser, which says in one line what is wrong with a configuration."""

import difflib
import errno
import inspect
import linecache
import os
import re
import sysconfig
import traceback
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from pydoc import locate
from types import FrameType
from typing import Any, NoReturn, get_args, get_type_hints

import torch
from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import early_stopping
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.trainer.connectors import checkpoint_connector
from lightning.pytorch.utilities.exceptions import MisconfigurationException

import optimizers
from datamodules import GLUEDataModule, TextDataModule
from lightning_modules.checkpoints.hyperparameter_check import argument_names, constructors
from linetune import PACKAGES
from linetune.arguments import configs_first, export_arguments
from linetune.config_keys import check_keys
from linetune.given_classes import given_class
from linetune.jsonargparse_private import Frames, own_defaults, package_of, refusal_behind

SUBCOMMANDS = ("fit", "validate", "test", "predict", "export")
# What jsonargparse puts before the keys of a subcommand.
_SUBCOMMAND_OF_KEY = re.compile(rf"\b({'|'.join(SUBCOMMANDS)})\.")
# Of an entry of a list or a dict.
_NOT_TEXT = re.compile(r"^Expected a <class 'str'>\. Got value: (True|False|None|[\d.]+)$")
# What may be given in place of the classes of linetune's own that are the defaults.
_CLASSES_OF_ONES_OWN = {
    "model": "the import path of a LightningModule",
    "data": "the import path of a LightningDataModule",
}


class OneLineErrorParser(LightningArgumentParser):
    """Raises a MisconfigurationException of one line: the key, what was given, what is expected, where help is.

    A class may have a dict ``renamed_arguments``: arguments that it had once, each with a word on what is in its place;
    ``class_path`` is the class that an argument of this type took.
    What is given on the command line wins over configs, wherever it stands.
    """

    config_file: Any = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # jsonargparse makes parsers of its own for the help of a class.
        super().__init__(*args, **{"prog": "linetune", **kwargs})

    def parse_args(self, args: Any = None, *others: Any, **kwargs: Any) -> Namespace:  # type: ignore[override]
        if hasattr(self, "subcommand"):
            args = configs_first(args)
            if self.subcommand == "export":
                args = export_arguments(args)
        return super().parse_args(args, *others, **kwargs)

    def parse_path(self, path: Any, *args: Any, **kwargs: Any) -> Namespace:
        self.config_file = path
        check_keys(str(path))
        try:
            parsed = super().parse_path(path, *args, **kwargs)
        except UnicodeDecodeError as error:
            raise MisconfigurationException(f"{path}: not UTF-8 text, at byte {error.start}") from error
        self.config_file = None
        return parsed

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:
            super().error(message, ex)  # a parser that tries one of several types reports to the one that asked it to
        where = "" if self.config_file is None else f"{self.config_file}: "
        if "are required: " in message:
            message = _SUBCOMMAND_OF_KEY.sub("--", message)  # as it is typed
        raise MisconfigurationException(f"{where}{explanation(self, message, ex)} (see {help_for(self)})") from ex


def help_for(parser: ArgumentParser) -> str:
    """Return which options print the help of a parser's subcommand, or of the program where none was given."""
    given = [getattr(parser, "subcommand", None), *(getattr(parser, "args", None) or [])[:1]]
    command = next((name for name in given if name in SUBCOMMANDS), None)
    model, _ = given_class(getattr(parser, "args", None) or [], "model") or ("SequenceClassifier", None)
    options = ("--help", f"--model.help {model}", "--model.optimizer.help CLASS")
    return "--help" if command is None else ", ".join(f"{command} {option}" for option in options)


def explanation(parser: ArgumentParser, message: str, error: BaseException | None) -> str:
    """Return which key is wrong, what was given and what is expected; the message where the error tells no more."""
    if error is None:
        given = [argument[2:].partition("=")[0] for argument in parser.args if argument.startswith("--")]
        return message + "".join(allowed_keys(parser, [], key, parser) for key in given)
    refusal = refusal_behind(error)
    keys, value, made_from = refusal.keys, refusal.value, refusal.made_from
    if refusal.parser is not None:
        now = getattr(made_from, "renamed_arguments", {}).get(refusal.unknown.split(".")[0])
        whole = refusal.parser if hasattr(refusal.parser, "subcommand") else parser
        allowed = f"; {now}" if now else allowed_keys(refusal.parser, keys, refusal.unknown, whole)
        return f"{'.'.join([*keys, refusal.unknown])} is not accepted{allowed}"
    if not keys:
        return message
    if type(refusal.cause) is ValueError and isinstance(value, str | int | float):
        said = f"expected {inspect.formatannotation(refusal.expected)}, got {value!r}"
    elif not_text := _NOT_TEXT.search(str(refusal.cause)):
        said = (
            f"expected a text, got {not_text[1]}; YAML reads yes, no, on, off, true, false, null and digits as other "
            "values: write it in quotes"
        )
    elif "got NestedArg(" in str(refusal.cause):
        said = "it is an argument of a class, and none is given before it; a function takes none from a configuration"
    elif not isinstance(value, str) and is_about_a_form(refusal.cause):
        said = f"{value!r} is not allowed"
    elif made_from is not None and not isinstance(value, str):
        said = f"{made_from.__qualname__}: {refusal.cause}"
    else:
        said = str(refusal.cause)
    allowed = allowed_optimizers() if keys == ["model", "optimizer"] else ""
    if len(keys) == 1 and keys[0] in _CLASSES_OF_ONES_OWN and made_from is None:
        allowed = f"; allowed: {_CLASSES_OF_ONES_OWN[keys[0]]}, as FILE.CLASS for FILE.py in the folder that you are in"
    return f"{'.'.join(keys)}: {said}{place_in_ones_own_file(refusal.cause)}{allowed}{class_path_now(refusal.expected)}"


def place_in_ones_own_file(cause: BaseException) -> str:
    """Return where an error came up in a file that a class was looked for in, unless that file is installed."""
    frames = [(frame, line) for frame, line in traceback.walk_tb(cause.__traceback__) if not _is_machinery(frame)]
    if not any(frame.f_code.co_name == "<module>" for frame, _ in frames):
        return ""  # it was not imported, or has a syntax error, which names its place
    frame, line = frames[-1]
    return f" ({os.path.relpath(frame.f_code.co_filename)}, line {line})"


def _is_machinery(frame: FrameType) -> bool:
    """Return whether a frame is of Python, of an installed package or of the command line."""
    file, paths = frame.f_code.co_filename, sysconfig.get_paths()
    installed = file.startswith(("<", paths["stdlib"], paths["purelib"], paths["platlib"]))
    return installed or package_of(frame) in ("cli", "linetune", "__main__", *PACKAGES)


def is_about_a_form(cause: BaseException) -> bool:
    """Return whether jsonargparse has met another form of value than it reckons with, a list for a section, say."""
    frames = list(traceback.walk_tb(cause.__traceback__))
    if type(cause) not in (AttributeError, TypeError) or not frames or package_of(frames[-1][0]) != "jsonargparse":
        return False
    return not linecache.getline(frames[-1][0].f_code.co_filename, frames[-1][1]).lstrip().startswith("raise ")


def class_path_now(expected: Any) -> str:
    """Return where a class goes now that an argument took once, if one of the types expected there says so."""
    types = (expected, *get_args(expected))
    now = [getattr(each, "renamed_arguments", {}).get("class_path") for each in types]
    return "".join(f"; {word}" for word in now if word)


def allowed_keys(level: ArgumentParser, above: list[str], key: str, parser: ArgumentParser) -> str:
    """Return where a key belongs that a level of the configuration does not know, or which keys it knows; or nothing.

    Args:
        level: The parser of the level.
        above: The keys of the levels above.
        key: The key, perhaps with more of it below.
        parser: The parser of the whole configuration.
    """
    known, prefix = {action.dest for action in level._actions}, ""
    for name in key.split("."):
        names = {dest.removeprefix(prefix).split(".")[0] for dest in known if dest.startswith(prefix)} - {"help"}
        if name not in names:
            break
        prefix += f"{name}."
    if name in names or not names:
        return ""  # known, or an argument of a class, which has a parser of its own
    if ".".join(above) == "trainer.callbacks":
        has = difflib.get_close_matches(name, names, n=3) or sorted(names)
        return f"; it goes to the last callback of the list, which has {', '.join(has)}; a list in a file replaces it"
    if name in ("lr", "learning_rate") and "optimizer" not in above:
        return f"; {name} belongs to model.optimizer.init_args.lr, of an optimizer that has it"
    if above == ["data"]:
        of = [each.__name__ for each in (GLUEDataModule, TextDataModule) if name in inspect.signature(each).parameters]
        if of:
            return f"; {name} is an argument of {of[0]}, another class: --data datamodules.{of[0]} before it"
    defaults: dict[str, Any] = {each: locate(parser.get_default(each)["class_path"]) for each in ("model", "data")}
    given = {each: given_class(parser.args, each) or ("", owner) for each, owner in defaults.items()}
    owners: dict[str, Any] = {each: owner for each, (_, owner) in given.items()} | {"trainer": Trainer}
    # What the model does itself is refused in the trainer.
    belongs = [f"{at}.{name}" for at, owner in owners.items() if name in names_of_arguments(owner)]
    belongs = [each for each in belongs if not each.startswith("trainer.")] or belongs
    options = [key for at in ("model", "data") for key in keys_of_options(owners[at], at)]
    belongs = belongs or [key for key in options if key.rpartition(".")[2] == name]
    if above in (["model"], ["data"]) and not belongs and name in names_of_arguments(defaults[above[0]]):
        return f"; {name} is an argument of {defaults[above[0]].__name__}, another class"
    if belongs:
        return f"; {name} belongs to {' or '.join(belongs)}"
    close = difflib.get_close_matches(name, names, n=3)
    if not close and not above:
        below = {inner: f"{at}.{inner}" for at, owner in owners.items() for inner in names_of_arguments(owner)}
        close = [below[inner] for inner in difflib.get_close_matches(name, below, n=3)]
    if not close and len(above) < 2:
        last = [key.rpartition(".")[2] for key in options]
        near = difflib.get_close_matches(name, last, n=3)
        close = [key for key, one in zip(options, last, strict=True) if one in near]
    if close:
        return f"; close to {name}: {', '.join(close)}"
    return f"; allowed: {', '.join(sorted(names))}" if len(names) <= 12 else ""


def names_of_arguments(of: type) -> set[str]:
    """Return the names of a class's arguments, those that it hands on to its bases (``**options``) among them."""
    return {name for _, init in constructors(of) for name in argument_names(init)}


def keys_of_options(of: type, at: str) -> list[str]:
    """Return the keys of the options that a class takes together as one argument, a dataclass, as those of its loss.

    Args:
        of: The class.
        at: The key of the class itself.
    """
    hints = [hint for _, init in constructors(of) for hint in _hints(init).items()]
    options = [(argument, taken) for argument, hint in hints for taken in (hint, *get_args(hint))]
    found = (
        f"{at}.{argument}.{field.name}"
        for argument, taken in options
        if isinstance(taken, type) and is_dataclass(taken)
        for field in fields(taken)
        if field.init
    )
    return list(dict.fromkeys(found))


def _hints(init: Callable[..., None]) -> dict[str, Any]:
    try:
        return get_type_hints(init)
    except NameError:  # a class of the user's own may name types that are imported for type checkers alone
        return {}


def allowed_optimizers() -> str:
    """Return which optimizers may be given: linetune's own that need nothing but parameters, and others."""
    public = [getattr(optimizers, name) for name in sorted(optimizers.__all__)]
    classes = [item for item in public if isinstance(item, type) and issubclass(item, torch.optim.Optimizer)]
    own = [f"optimizers.{item.__name__}" for item in classes if not needed_arguments(item)[1:]]
    return f"; allowed: {', '.join(own)}, or the import path of any torch optimizer"


def needed_arguments(of: type) -> list[str]:
    """Return the names of the arguments that have to be given."""
    many = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(of).parameters.values()
    return [each.name for each in parameters if each.default is each.empty and each.kind not in many]


def refuses_arguments(frames: Frames, cause: BaseException) -> bool:
    """Return whether a class that the configuration names raised an error about its arguments, on purpose.

    A class of the user's own, neither ours nor installed, is never taken to do so: its traceback shows where to mend.
    """
    if not isinstance(cause, TypeError | ValueError | ImportError):
        return False
    machinery = (LightningCLI.__module__, "cli", "__main__", __name__, own_defaults.__module__)
    inside = [
        (frame, line)
        for frame, line in frames
        if package_of(frame) != "jsonargparse" and frame.f_globals.get("__name__") not in machinery
    ]
    if not inside:
        return True  # called with arguments that it does not take
    (first, _), (last, line) = inside[0], inside[-1]
    file = last.f_code.co_filename
    is_raised = linecache.getline(file, line).lstrip().startswith("raise ")
    is_installed = file.startswith((sysconfig.get_path("purelib"), sysconfig.get_path("platlib")))
    return is_raised and package_of(first) == package_of(last) and (is_installed or package_of(last) in PACKAGES)


def line_about_what_was_given(error: OSError | ValueError | RuntimeError, config: Namespace) -> str | None:
    """Return a line about a path or an argument of the trainer in a configuration, if an error is about one.

    Args:
        error: An error that was raised while the configuration's objects worked.
        config: The configuration of the subcommand.
    """
    if isinstance(error, OSError):
        if error.filename is None:
            return str(error) if error.errno in (errno.ENOSPC, errno.EDQUOT) else None
        path = Path(str(error.filename)).absolute()
        above = [name for each in (path, *path.parents) for name in (str(each), os.path.relpath(each))]
        if error.errno in (errno.ENOSPC, errno.EDQUOT) or any(repr(name) in repr(config) for name in above):
            return str(error)
        # Where a run writes without a word on where.
        folder = Path(config.trainer.get("default_root_dir") or "").absolute()
        may_not = isinstance(error, PermissionError) or error.errno == errno.EROFS
        return f"trainer.default_root_dir: {error}" if may_not and folder in path.parents else None
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    if isinstance(error, RuntimeError):
        is_about_monitor = frame.f_globals.get("__name__") == early_stopping.__name__
        return f"trainer.callbacks: {error}" if is_about_monitor else None
    if frame.f_globals.get("__name__") == checkpoint_connector.__name__:
        return f"ckpt_path: {error}"
    for name, parameter in inspect.signature(Trainer).parameters.items():
        value = config.trainer.get(name)
        if package_of(frame) == "lightning" and f"`{name}`" in str(error) and value != parameter.default:
            return f"trainer.{name}: {value!r} is not allowed: {error}"
    return None
