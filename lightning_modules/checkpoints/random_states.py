"""The states of all random number generators that a run draws from, its loaders' own ones included."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

from optimizers.other_generators import GeneratorAccess
from optimizers.random_state import generator_states, set_generator_states

RandomStates = dict[str, Tensor]


def random_states(device: torch.device, generators: Sequence[torch.Generator] = ()) -> RandomStates:
    """Return the states of Python's, numpy's and torch's global generators and of given ones, as tensors on the CPU.

    Args:
        device: Where the model is; its generator is saved beside the CPU's.
        generators: Further generators, such as a data loader's own.

    Example::

        before = random_states(torch.device("cpu"))
        first = random.random(), torch.rand(2)
        set_random_states(before, torch.device("cpu"))  # the same numbers come again
    """
    _, python, python_normal = random.getstate()
    _, keys, *rest = np.random.get_state(legacy=True)
    states = {
        "python": _as_numbers([*python, math.nan if python_normal is None else python_normal]),
        "numpy": _as_numbers([*map(float, keys), *map(float, rest)]),
    }
    for where, state in generator_states([device]).items():
        states["torch" if where.type == "cpu" else "device"] = torch.as_tensor(state)
    return states | {f"generator{number}": each.get_state() for number, each in enumerate(generators)}


def set_random_states(states: RandomStates, device: torch.device, generators: Iterable[torch.Generator] = ()) -> None:
    """Put back what :func:`random_states` returned; a generator without a state is left as it is.

    Args:
        states: The states.
        device: Where the model is.
        generators: The further generators, in the same order.
    """
    *python, normal = states["python"].tolist()
    random.setstate((random.Random.VERSION, tuple(map(int, python)), None if math.isnan(normal) else normal))
    *keys, position, has_normal, normal = states["numpy"].tolist()
    np.random.set_state(("MT19937", np.array(keys, dtype=np.uint32), int(position), int(has_normal), normal))
    own = {torch.device("cpu"): states["torch"]}
    # A run may go on on another kind of device, whose generator has a state of another form.
    mine = generator_states([device]).get(device)
    if device.type != "cpu" and "device" in states and mine is not None:
        theirs = states["device"]
        if torch.as_tensor(mine).shape == theirs.shape:
            own[device] = theirs if isinstance(mine, Tensor) else theirs.item()
    set_generator_states(own)
    for number, generator in enumerate(generators):
        if f"generator{number}" in states:
            generator.set_state(states[f"generator{number}"])


def saved_states(generators: Iterable[GeneratorAccess]) -> list[Any]:
    """Return the states of generators that modules hold, as a checkpoint may hold them.

    Args:
        generators: The generators.
    """
    return [apply_to_collection(each.read(), np.ndarray, torch.from_numpy) for each in generators]


def put_back(states: Sequence[Any], generators: Sequence[GeneratorAccess]) -> None:
    """Put back what :func:`saved_states` returned; of another number of generators nothing is put back.

    Args:
        states: The states.
        generators: The generators, in the same order.
    """
    for state, generator in zip(states, generators, strict=True) if len(states) == len(generators) else ():
        is_torchs = isinstance(state, Tensor)
        generator.write(state if is_torchs else apply_to_collection(state, Tensor, Tensor.numpy))


def _as_numbers(values: Sequence[float]) -> Tensor:
    # Whole numbers of 32 bits are exact in float64.
    return torch.tensor(values, dtype=torch.float64)
