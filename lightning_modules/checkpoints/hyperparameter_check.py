"""Refusing a checkpoint whose hyperparameters are not what a class takes as arguments: another program's, or edited."""

from __future__ import annotations

import dataclasses
import inspect
import re
import reprlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from lightning_modules.errors import ModelError

_NUMBERS: dict[Any, type] = {int: Integral, float: Real}
_PACKAGE = __name__.partition(".")[0]


def check_arguments(checkpoint: Mapping[str, Any], takes: type, given: Collection[str]) -> None:
    """Check that a class can be made with the hyperparameters of a checkpoint.

    Args:
        checkpoint: A Lightning checkpoint.
        takes: The class that `load_from_checkpoint` makes.
        given: Names of the arguments that are given in place of those in the checkpoint.

    Raises:
        ModelError: if one has a name that the class does not take, or a value of another kind than its annotation says.
    """
    stored, parameters = checkpoint.get("hyper_parameters", {}), _parameters(takes)
    if checkpoint.get("hparams_name") in list(parameters):
        return  # one argument takes them all
    check_kinds(stored, takes, given)
    first = next(each for each in takes.__mro__ if "__init__" in vars(each))
    if not _is_own(first):
        return  # it may take anything as **kwargs, or not; without these Lightning leaves out what it does not know
    unknown = [name for name in stored if name not in parameters and name not in given and name[:1] != "_"]
    if unknown:
        raise ModelError(
            f"ckpt_path: hyper_parameters of the checkpoint has {unknown[0]}, which {takes.__name__} does not take"
        )


def check_kinds(stored: Mapping[str, Any], takes: type, given: Collection[str] = ()) -> None:
    """Check that the hyperparameters of a checkpoint are of the kinds that a class's annotations say, if it is ours.

    Args:
        stored: The hyperparameters by name; names that the class does not have are not looked at.
        takes: The class.
        given: Names that are not looked at.

    Raises:
        ModelError: if a value is of another kind, or a name is no text.
    """
    for name, hint in _parameters(takes).items():
        if name in stored and name not in given and not _fits(stored[name], hint):
            kind = re.sub(r"\b(?:\w+\.)+", "", inspect.formatannotation(hint))
            shown = reprlib.repr(stored[name])
            raise ModelError(f"ckpt_path: hyper_parameters of the checkpoint has {name} {shown}, which is not {kind}")
    for name in stored:
        if not isinstance(name, str):
            raise ModelError(f"ckpt_path: hyper_parameters of the checkpoint has {name!r} for the name of one")


def _parameters(takes: type) -> dict[str, Any]:
    """Return the annotations of a class's arguments by name, also of those that it hands on to its base classes.

    Those of a user's own class are Any: it may be used otherwise than it is annotated.
    """
    found: dict[str, Any] = {}
    for each, init in constructors(takes):
        hints = get_type_hints(init) if _is_own(each) else {}
        found |= {name: hints.get(name, Any) for name in argument_names(init) if name not in found}
    return found


def constructors(of: type) -> Iterator[tuple[type, Callable[..., None]]]:
    """Yield the classes that take a class's arguments, and their ``__init__``: itself, and bases that it hands on to.

    It hands on what it does not name if it takes any argument by keyword (``**options``).
    """
    for each in of.__mro__:
        if "__init__" in vars(each):
            init = vars(each)["__init__"]
            yield each, init
            if not any(one.kind is one.VAR_KEYWORD for one in inspect.signature(init).parameters.values()):
                return


def argument_names(init: Callable[..., None]) -> list[str]:
    """Return the names of the arguments of an ``__init__``, without those that stand for any others."""
    _, *arguments = inspect.signature(init).parameters.values()
    return [each.name for each in arguments if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)]


def _is_own(of: type) -> bool:
    return of.__module__.partition(".")[0] == _PACKAGE


def _fits(value: Any, hint: Any) -> bool:
    """Return whether a value is of the kind of an annotation; of those that are not known here, any is."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, each) for each in arguments)
    if origin is Literal:
        return any(type(value) is type(each) and value == each for each in arguments)
    if hint in _NUMBERS:
        return isinstance(value, _NUMBERS[hint]) and not isinstance(value, bool)
    if hint in (str, bool, NoneType):
        return isinstance(value, hint)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return isinstance(value, hint) or (isinstance(value, Mapping) and _fits_fields(value, hint))
    if origin is not None and isinstance(origin, type):
        if issubclass(origin, Mapping):
            pairs = value.items() if isinstance(value, Mapping) else ()
            keys, values = arguments if len(arguments) == 2 else (Any, Any)
            return isinstance(value, Mapping) and all(_fits(k, keys) and _fits(v, values) for k, v in pairs)
        if issubclass(origin, Sequence):
            kinds = [each for each in arguments if each is not Ellipsis] or [Any]
            is_sequence = isinstance(value, Sequence) and not isinstance(value, str | bytes)
            return is_sequence and all(any(_fits(each, kind) for kind in kinds) for each in value)
    return True


def _fits_fields(value: Mapping[str, Any], hint: type) -> bool:
    hints = get_type_hints(hint)
    return all(name in hints and _fits(each, hints[name]) for name, each in value.items())
