"""Grammars of the tasks about what follows from a text: mnli with ax, qnli, rte and wnli."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

from datamodules.generated.synthetic_words import (
    CITIES,
    COLORS,
    COMPANIES,
    JOBS,
    NAMES,
    NUMBERS,
    TRADES,
    Grammar,
    Row,
    article,
    chance,
    pick,
    pick_other,
    sentence,
    words,
)

# mnli and ax: a report, and a sentence that follows from it, contradicts it, or does neither.


class Genre(NamedTuple):
    """Vocabulary of the texts of one genre.

    Args:
        deeds: Verbs in the past and in their base form.
        objects: Things, and what kind of things they are.
        places: Where it happens.
        openings: Begin a report.
        additions: Reasons that a report does not give.
    """

    deeds: Sequence[tuple[str, str]]
    objects: Sequence[tuple[str, str]]
    places: Sequence[str]
    openings: Sequence[str]
    additions: Sequence[str]


TOWN = Genre(
    deeds=(("bought", "buy"), ("sold", "sell"), ("carried", "carry"), ("found", "find"), ("counted", "count")),
    objects=(
        ("apples", "fruit"), ("pears", "fruit"), ("roses", "flowers"), ("tulips", "flowers"), ("hammers", "tools"),
        ("saws", "tools"), ("chairs", "furniture"), ("tables", "furniture"), ("novels", "books"), ("shirts", "clothes"),
    ),
    places=("at the market", "in the old town", "near the harbor", "at the fair", "in a small shop", "by the church"),
    openings=("", "Yesterday ", "In the morning ", "After lunch "),
    additions=("for a birthday party", "to please a friend", "with money from the bank", "because of a letter"),
)  # fmt: skip
EXPEDITION = Genre(
    deeds=(("photographed", "photograph"), ("studied", "study"), ("followed", "follow"), ("described", "describe")),
    objects=(
        ("wolves", "animals"), ("bears", "animals"), ("eagles", "birds"), ("owls", "birds"), ("salmon", "fish"),
        ("beetles", "insects"), ("butterflies", "insects"), ("oaks", "trees"), ("pines", "trees"),
    ),
    places=("in the mountains", "near the glacier", "on the island", "in the valley", "along the coast"),
    openings=("During the expedition ", "According to the report ", "On the second day ", "In the field notes "),
    additions=("for a national museum", "to win a prize", "with a borrowed camera", "because of a strange rumor"),
)  # fmt: skip


def natural_language_inference(genre: Genre) -> Grammar:
    def rows(rng: random.Random, label: int) -> Row:
        name, job, number = pick(rng, NAMES), pick(rng, JOBS), pick(rng, NUMBERS)
        past, base = pick(rng, genre.deeds)
        thing, kind = pick(rng, genre.objects)
        place = pick(rng, genre.places)
        premise = f"{pick(rng, genre.openings)}{name} , {article(job)} , {past} {number} {thing} {place} ."
        if label == 0:
            hypothesis = pick(
                rng,
                (
                    f"{name} {past} {thing} {place}",
                    f"{name} {past} some {kind} {place}",
                    f"{article(job)} called {name} {past} {thing}",
                    f"{name} {past} {number} {thing}",
                ),
            )
        elif label == 1:
            addition = pick(rng, genre.additions)
            hypothesis = pick(
                rng,
                (
                    f"{name} {past} {thing} {place} {addition}",
                    f"{name} {past} {number} {thing} {addition}",
                    f"{name} the {job} {past} some {kind} {addition}",
                ),
            )
        else:
            other_job, other_number = pick_other(rng, JOBS, job), pick_other(rng, NUMBERS, number)
            other_place = pick_other(rng, genre.places, place)
            hypothesis = pick(
                rng,
                (
                    f"{name} did not {base} any {thing} {place}",
                    f"{name} {past} no {kind} {place}",
                    f"{name} is not {article(job)} but {article(other_job)}",
                    f"{name} {past} exactly {other_number} {thing}",
                    f"{name} {past} the {number} {thing} {other_place}",
                ),
            )
        return (premise, sentence(hypothesis, " .")), label

    return rows


# qnli: does the sentence answer the question?

FACTS = (
    ("Where does {name} live?", "{name} lives in {city} , close to the {color} bridge ."),
    ("What does {name} do for a living?", "{name} earns a living as {job} in {city} ."),
    ("When was {name} born?", "{name} was born in {year} in {city} ."),
    ("What instrument does {name} play?", "{name} plays the {color} {instrument} in {city} ."),
    ("How many children does {name} have?", "{name} has {number} children , all of them in {city} ."),
    ("What color is the car that {name} drives?", "{name} drives a {color} car through {city} ."),
    ("Which animal does {name} keep at home?", "{name} keeps a {color} {animal} at home in {city} ."),
)
INSTRUMENTS = words("violin cello trumpet flute harp guitar drum")
ANIMALS = words("cat dog parrot rabbit hamster turtle snake")


def qnli(rng: random.Random, label: int) -> Row:
    name, fact = pick(rng, NAMES), pick(rng, range(len(FACTS)))
    told_name, told_fact = name, fact
    if label and chance(rng, 0.8):
        told_fact = pick_other(rng, range(len(FACTS)), fact)
    elif label:
        told_name = pick_other(rng, NAMES, name)
    surname = pick(rng, COMPANIES)
    question = FACTS[fact][0].format(name=f"{name} {surname}")
    answer = FACTS[told_fact][1].format(
        name=f"{told_name} {surname}",
        city=pick(rng, CITIES),
        color=pick(rng, COLORS),
        job=article(pick(rng, JOBS)),
        year=1900 + pick(rng, range(100)),
        instrument=pick(rng, INSTRUMENTS),
        number=pick(rng, NUMBERS),
        animal=pick(rng, ANIMALS),
    )
    return (question, answer), label


# rte: does the second sentence follow from the news?

FACILITIES = ("factory", "hospital", "school", "warehouse", "laboratory", "museum", "airport", "stadium")


def rte(rng: random.Random, label: int) -> Row:
    company, city = f"{pick(rng, COMPANIES)} {pick(rng, TRADES)}", pick(rng, CITIES)
    facility, number = pick(rng, FACILITIES), pick(rng, NUMBERS)
    opened = chance(rng, 0.5)
    deed = "opened" if opened else "closed"
    news = pick(
        rng,
        (
            f"{company} {deed} {article(facility)} in {city} after {number} years of debate .",
            f"After {number} years of debate , {article(facility)} in {city} was {deed} by {company} .",
        ),
    )
    if label == 0:
        claim = pick(
            rng,
            (
                f"{company} {deed} {article(facility)} in {city} .",
                f"{company} {deed} {article(facility)} .",
                f"There was a debate about {article(facility)} of {company} in {city} .",
            ),
        )
    else:
        other = "closed" if opened else "opened"
        claim = pick(
            rng,
            (
                f"{company} {other} {article(facility)} in {city} .",
                f"{company} {deed} {article(pick_other(rng, FACILITIES, facility))} in {city} .",
                f"{company} {deed} {article(facility)} in {pick_other(rng, CITIES, city)} .",
            ),
        )
    return (news, claim), label


# wnli: which of two things does "it" mean?

# Sentence with two things, reasons that describe the first, reasons that describe the second.
SCHEMAS = (
    ("The {a} did not fit into the {b} because it was too {reason}.", ("large", "wide"), ("small", "narrow")),
    ("The {a} crushed the {b} because it was very {reason}.", ("heavy", "solid"), ("fragile", "thin")),
    ("The {a} could not cover the {b} because it was too {reason}.", ("short", "little"), ("long", "big")),
    ("The {a} was put above the {b} because it was very {reason}.", ("light", "dry"), ("strong", "sturdy")),
)
CONTAINERS = words("box suitcase drawer basket cupboard bag chest crate")
CONTENTS = words("trophy lamp book clock vase statue radio kettle globe mirror")


def wnli(rng: random.Random, label: int) -> Row:
    frame, about_first, about_second = pick(rng, SCHEMAS)
    owner = pick(rng, NAMES)
    first = f"{pick(rng, COLORS)} {pick(rng, CONTENTS)}"
    second = f"{pick(rng, COLORS)} {pick(rng, CONTAINERS)} of {owner}"
    means_first = chance(rng, 0.5)
    reason = pick(rng, about_first if means_first else about_second)
    text = frame.format(a=first, b=second, reason=reason)
    claimed = first if means_first == bool(label) else second
    degree = "too" if "too {reason}" in frame else "very"
    return (text, f"The {claimed} was {degree} {reason}."), label
