"""What is used of jsonargparse that is not public: the frames of its errors, and two faults that are mended here.

jsonargparse raises errors from errors, one per level of the configuration. Which key, value and type an error is about
stands in the frames that it came through; no sentence is read.
"""

import argparse
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NamedTuple

import jsonargparse
import lightning
from jsonargparse import ArgumentParser, Namespace, _typehints
from jsonargparse._typehints import ActionTypeHint
from lightning.pytorch.cli import LightningCLI

# Functions, and those of their variables that are read; LightningCLI's method is replaced in cli.py.
NOT_PUBLIC = (
    (_typehints, "discard_init_args_on_class_path_change", ("parser_or_action", "prev_val", "value")),
    (_typehints, "raise_union_unexpected_value", ("exceptions",)),
    (_typehints, "adapt_class_type", ("val_class",)),
    (ActionTypeHint, "_check_type", ("self", "value", "append", "cfg", "mode", "orig_val")),
    (ActionTypeHint, "instantiate_classes", ("self",)),
    (LightningCLI, "_parse_ckpt_path", ("self",)),
)
Frames = list[tuple[FrameType, int]]


class Refusal(NamedTuple):
    """What jsonargparse refused, and why.

    Args:
        keys: Names of the arguments on the way to it, outermost first.
        unknown: The rest of the key, if it is one that the parser does not know.
        value: The value that was given; a configuration's section where one of its arguments is missing.
        expected: The type hint that the value does not fit.
        cause: The first error of the chain.
        made_from: The class that the refused arguments are of.
        parser: The parser of these arguments.
    """

    keys: list[str]
    unknown: str
    value: Any
    expected: Any
    cause: BaseException
    made_from: type | None
    parser: ArgumentParser | None


def refusal_behind(error: BaseException) -> Refusal:
    """Return what a parser's error is about."""
    frames, cause = frames_to_cause(error)
    refused = list(actions_on(frames, "_check_type").items())
    action, value = refused[-1] if refused else (None, None)
    keys, unknown, parser = [action.dest for action, _ in refused], "", None
    made_from = [frame.f_locals["val_class"] for frame, _ in frames if frame.f_code.co_name == "adapt_class_type"]
    if frames and frames[-1][0].f_code.co_name == "check_values":
        variables = frames[-1][0].f_locals
        parser = getattr(cause, "subcommand_parser", variables["self"])
        unknown = variables["key"].removeprefix(f"{getattr(parser, 'subcommand', '')}.")
    elif isinstance(value, _typehints.NestedArg):
        keys, value = [*keys, value.key], value.val
    expected = getattr(action, "_typehint", None)
    return Refusal(keys, unknown, value, expected, cause, made_from[-1] if made_from else None, parser)


def frames_to_cause(error: BaseException) -> tuple[Frames, BaseException]:
    """Return the frames and lines that an error came through, and its first cause.

    Where none of the types of a union fits, it is those of the type that got furthest.
    """
    frames = list(traceback.walk_tb(error.__traceback__))
    if not frames or package_of(frames[-1][0]) != "jsonargparse":
        return frames, error
    frame = frames[-1][0]
    is_union = frame.f_code.co_name == "raise_union_unexpected_value"
    causes = frame.f_locals["exceptions"] if is_union else filter(None, [error.__cause__])
    branches = [frames_to_cause(cause) for cause in causes]
    rest, cause = max(
        branches, key=lambda each: (len(actions_on(each[0], "_check_type")), len(each[0])), default=([], error)
    )
    return frames + rest, cause


def actions_on(frames: Frames, method: str) -> dict[argparse.Action, Any]:
    """Return the parser's actions whose method is among the frames, outermost first, and the values given to them."""
    found = [frame.f_locals for frame, _ in frames if frame.f_code.co_name == method]
    return {each["self"]: each.get("orig_val") for each in found if isinstance(each["self"], argparse.Action)}


def package_of(frame: FrameType) -> str:
    """Return the name of the package that a frame's code is of."""
    return str(frame.f_globals.get("__name__")).split(".")[0]


@contextmanager
def own_defaults() -> Iterator[None]:
    """Let what takes another's place in the configuration start from its own defaults.

    jsonargparse hands every argument that both classes have from the one to the other, defaults included: SaLSA would
    run with AdamSLS's constant and growth, AdamW without its weight decay. And a list in the place of another list
    inherits arguments from the elements at the same places.

    Raises:
        RuntimeError: if jsonargparse or lightning is of a version that this was not written for.
    """
    check_private_names()
    check_type, discard = ActionTypeHint._check_type, _typehints.discard_init_args_on_class_path_change

    def check_type_of_new_list(self: Any, value: Any, append: bool = False, cfg: Any = None, mode: Any = None) -> Any:
        is_list = isinstance(value, list)
        found = check_type(self, value, append=append, cfg=None if is_list and not append else cfg, mode=mode)
        if isinstance(value, str) and isinstance(found, list) and not append:  # written out, or the name of a file
            found = check_type(self, value, mode=mode)
        return found

    ActionTypeHint._check_type = check_type_of_new_list  # type: ignore[method-assign]
    _typehints.discard_init_args_on_class_path_change = forget_arguments_of_another_class
    try:
        yield
    finally:
        ActionTypeHint._check_type = check_type  # type: ignore[method-assign]
        _typehints.discard_init_args_on_class_path_change = discard


def forget_arguments_of_another_class(parser_or_action: Any, prev_val: Any, value: Any) -> None:
    """Drop the arguments of a class whose place another class takes."""
    if prev_val and "init_args" in prev_val and prev_val["class_path"] != value["class_path"]:
        prev_val["init_args"] = Namespace()


def check_private_names() -> None:
    """Raise a RuntimeError unless all of `NOT_PUBLIC` is where it was."""
    for owner, name, variables in NOT_PUBLIC:
        code = getattr(getattr(owner, name, None), "__code__", None)
        if code is None or not set(variables) <= set(code.co_varnames):
            versions = f"jsonargparse {jsonargparse.__version__}, lightning {lightning.__version__}"
            raise RuntimeError(f"{versions}: no {name} with {', '.join(variables)}; pyproject.toml says which versions")
