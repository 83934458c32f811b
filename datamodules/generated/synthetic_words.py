"""Random choices and lists of words that the grammars of the generated tasks share.

A grammar is a function ``grammar(rng, label)`` that draws a row of a class: its texts and its target, the class
or (stsb) a score. The words are plain English, so that a pretrained encoder knows them, and combine to far more
sentences than the splits have. The label always follows from the text: there is no label noise.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")
Row = tuple[tuple[str, ...], float]
Grammar = Callable[[random.Random, int], Row]


def words(text: str) -> tuple[str, ...]:
    """Return the words between the spaces of a text."""
    return tuple(text.split())


def phrases(text: str) -> tuple[str, ...]:
    """Return the phrases between the bars of a text."""
    return tuple(text.split("|"))


def pick(rng: random.Random, items: Sequence[T]) -> T:
    """Return one of several items."""
    # rng.choice may change between versions of Python; rng.random does not.
    return items[int(rng.random() * len(items))]


def pick_other(rng: random.Random, items: Sequence[T], taken: T) -> T:
    """Return one of several items other than one that is taken."""
    return pick(rng, [item for item in items if item != taken])


def chance(rng: random.Random, probability: float) -> bool:
    """Return True with a probability."""
    return rng.random() < probability


def article(phrase: str) -> str:
    """Return a phrase behind its indefinite article."""
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def sentence(text: str, end: str = ".") -> str:
    """Return a text as a sentence."""
    return text[0].upper() + text[1:] + end


NAMES = words(
    "Anna Boris Carla David Elena Felix Greta Hugo Irene Jonas Karin Liam Maria Nadia Oscar Paula Quentin Rosa Simon "
    "Tara Ulrich Vera Walter Xenia Yusuf Zoe Amir Bianca Cedric Diana Emil Fatima Gustav Helena Ivan Julia"
)
CITIES = words(
    "Berlin Madrid Oslo Lisbon Vienna Prague Dublin Athens Warsaw Boston Chicago Denver Seattle Toronto Lima Bogota "
    "Cairo Nairobi Mumbai Tokyo Osaka Sydney Jakarta Hanoi"
)
COLORS = words("red blue green yellow black white brown purple gray orange")
JOBS = words("teacher doctor lawyer nurse baker painter pilot carpenter librarian engineer chemist musician")
NUMBERS = words("two three four five six seven eight nine ten twelve")
COMPANIES = words(
    "Acorn Bluebird Castle Delta Everest Falcon Granite Harbor Iris Juniper Keystone Lantern Meadow Northstar Orchid "
    "Pioneer Quartz Ridgeway Summit Timber"
)
TRADES = words("foods motors bank airlines software steel energy media")
