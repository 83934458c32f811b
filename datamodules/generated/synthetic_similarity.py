"""Grammars of the tasks about two sentences that mean the same or not: mrpc, qqp and stsb."""

from __future__ import annotations

import random

from datamodules.generated.synthetic_words import (
    CITIES,
    COMPANIES,
    TRADES,
    Row,
    article,
    chance,
    pick,
    pick_other,
    sentence,
    words,
)

# mrpc: two reports of one business event, or of two events.

# Active and passive wordings of the same deal.
DEALS = (
    (("will buy", "plans to acquire", "is going to purchase"), ("will be bought by", "is to be acquired by")),
    (("will sue", "plans to take to court", "is going to sue"), ("will be sued by", "is to be taken to court by")),
    (("will supply", "plans to deliver goods to"), ("will be supplied by", "is to receive goods from")),
    (("will lend money to", "plans to finance"), ("will be lent money by", "is to be financed by")),
    (("will train the staff of", "plans to teach the workers of"), ("will have its staff trained by",)),
)
WEEKDAYS = words("Monday Tuesday Wednesday Thursday Friday")
REPORTERS = ("officials said", "the company said", "a spokesman said", "newspapers reported", "the board announced")


def mrpc(rng: random.Random, label: int) -> Row:
    event = _business_event(rng)
    other = event
    while not label and other == event:
        changed = pick(rng, ("deal", "partner", "everything"))
        fresh = _business_event(rng)
        if changed == "deal":
            other = (event[0], fresh[1], event[2], event[3])
        elif changed == "partner":
            other = (event[0], event[1], fresh[2], event[3])
        else:
            other = (event[0], *fresh[1:])
        if other[1] == event[1] and other[2] == event[2]:
            other = event
    passive = chance(rng, 0.5)
    first = _report(rng, event, passive)
    return (first, _report(rng, other, not passive)), label


def _business_event(rng: random.Random) -> tuple[str, int, str, str]:
    company = pick(rng, COMPANIES)
    partner = f"{pick_other(rng, COMPANIES, company)} {pick(rng, TRADES)}"
    return f"{company} {pick(rng, TRADES)}", pick(rng, range(len(DEALS))), partner, pick(rng, WEEKDAYS)


def _report(rng: random.Random, event: tuple[str, int, str, str], passive: bool) -> str:
    company, deal, partner, day = event
    active_words, passive_words = DEALS[deal]
    if passive:
        fact = f"{partner} {pick(rng, passive_words)} {company}"
    else:
        fact = f"{company} {pick(rng, active_words)} {partner}"
    reporter = pick(rng, REPORTERS)
    return f"{fact} , {reporter} on {day} ." if chance(rng, 0.5) else f"On {day} {reporter} that {fact} ."


# qqp: two questions with the same answer, or with different ones.

DEEDS = (
    ("learn", "study"),
    ("buy", "purchase"),
    ("repair", "fix"),
    ("sell", "get rid of"),
    ("clean", "wash"),
    ("rent", "hire"),
    ("find", "locate"),
    ("choose", "pick"),
    ("transport", "move"),
    ("paint", "put paint on"),
    ("insure", "get insurance for"),
    ("photograph", "take a picture of"),
)
GOODS = (
    ("a car", "an automobile"),
    ("a sofa", "a couch"),
    ("a bicycle", "a bike"),
    ("a phone", "a mobile phone"),
    ("a house", "a home"),
    ("a laptop", "a notebook computer"),
    ("a fridge", "a refrigerator"),
    ("a boat", "a small ship"),
    ("a piano", "a grand piano"),
    ("a carpet", "a rug"),
    ("a painting", "a work of art"),
    ("a motorcycle", "a motorbike"),
    ("a television", "a TV"),
    ("a wedding dress", "a bridal gown"),
)
ASKING = (
    "How can I {deed} {good} in {city}",
    "What is the best way to {deed} {good} in {city}",
    "Where in {city} can I {deed} {good}",
    "How do people {deed} {good} in {city}",
    "What do I need to {deed} {good} in {city}",
    "Can anyone tell me how to {deed} {good} in {city}",
)


def qqp(rng: random.Random, label: int) -> Row:
    deed, good, city = pick(rng, DEEDS), pick(rng, GOODS), pick(rng, CITIES)
    first_form = pick(rng, ASKING)
    second_form = pick_other(rng, ASKING, first_form)
    wording = int(chance(rng, 0.5))
    first = first_form.format(deed=deed[wording], good=good[1 - wording], city=city)
    if not label:
        changed = pick(rng, ("deed", "good", "both"))
        deed = deed if changed == "good" else pick_other(rng, DEEDS, deed)
        good = good if changed == "deed" else pick_other(rng, GOODS, good)
    second = second_form.format(deed=deed[1 - wording], good=good[wording], city=city)
    return (first + "?", second + "?"), label


# stsb: two scenes; the score is the weight of what they share, 5 for the same scene in other words.

ACTORS = (
    ("man", "guy"), ("woman", "lady"), ("boy", "young boy"), ("girl", "young girl"), ("dog", "puppy"),
    ("chef", "cook"), ("soldier", "trooper"), ("baby", "infant"), ("monkey", "ape"), ("policeman", "police officer"),
)  # fmt: skip
ACTIONS = (
    ("is carrying", "is holding"), ("is washing", "is cleaning"), ("is watching", "is looking at"),
    ("is lifting", "is raising"), ("is hiding", "is concealing"), ("is breaking", "is smashing"),
    ("is buying", "is paying for"), ("is kicking", "is hitting with a foot"),
)  # fmt: skip
PROPS = (
    ("a box", "a carton"), ("a bike", "a bicycle"), ("a rug", "a carpet"), ("a stone", "a rock"),
    ("a bag", "a sack"), ("a couch", "a sofa"), ("a cup", "a mug"), ("a hat", "a cap"), ("a drum", "a small drum"),
)  # fmt: skip
SPOTS = (
    ("in the park", "in a park"), ("on the beach", "at the seaside"), ("in the kitchen", "inside a kitchen"),
    ("on the street", "on a road"), ("in the snow", "on snowy ground"), ("in a garden", "in the backyard"),
)  # fmt: skip
TIMES = (
    ("in the morning", "early in the day"), ("at night", "in the dark"), ("at noon", "at midday"),
    ("in the evening", "late in the day"), ("in winter", "on a winter day"), ("in summer", "on a summer day"),
)  # fmt: skip
# Weights of actor, action, object, place, time.
SCENE_WEIGHTS = (1.5, 1.5, 1.0, 0.5, 0.5)


def stsb(rng: random.Random, label: int) -> Row:
    """Draw two scenes that share ``label`` parts, 0 to 5."""
    shared = sorted(range(5), key=lambda _: rng.random())[:label]
    first, second = [], []
    for part, wordings in enumerate((ACTORS, ACTIONS, PROPS, SPOTS, TIMES)):
        phrase = pick(rng, wordings)
        first.append(phrase[0])
        second.append((phrase if part in shared else pick_other(rng, wordings, phrase))[1])
    texts = tuple(sentence(" ".join((article(scene[0]), *scene[1:]))) for scene in (first, second))
    return texts, sum(SCENE_WEIGHTS[part] for part in shared)
