"""Grammars of the tasks about a single sentence: cola and sst2."""

from __future__ import annotations

import random

from datamodules.generated.synthetic_words import (
    COLORS,
    Row,
    article,
    chance,
    phrases,
    pick,
    pick_other,
    sentence,
    words,
)

# sst2: reviews; the label is the polarity of the judgements or, if they differ, of the one that prevails.

JUDGEMENTS = (
    words(
        "dull boring awful terrible dreadful lifeless tedious clumsy disappointing annoying pointless sloppy miserable "
        "horrible forgettable painful shallow stale bland unbearable embarrassing lazy ugly weak"
    ),
    words(
        "wonderful brilliant delightful charming superb excellent beautiful gripping moving hilarious clever engaging "
        "touching fantastic marvelous captivating inspiring graceful remarkable refreshing splendid witty great"
    ),
)
EFFECTS = (
    phrases(
        "wastes every good idea|put me to sleep|falls apart completely|insults the audience|fails on every level|"
        "made me want to leave|never comes to life|is a waste of time|collapses under its own weight|left me angry"
    ),
    phrases(
        "rewards every minute|made me smile all evening|works on every level|delights the audience|stays in the heart|"
        "made me want to see it again|comes to life at once|is worth every penny|soars from start to end|left me happy"
    ),
)
FEELINGS = (("hated", "regretted", "disliked", "could not stand"), ("loved", "enjoyed", "adored", "treasured"))
WORKS = words("film movie story comedy drama thriller documentary romance western musical sequel adventure")
ASPECTS = words("plot script acting dialogue soundtrack ending cast direction pacing photography humor music editing")
ADVERBS = words("truly really simply utterly deeply thoroughly genuinely completely")


def sst2(rng: random.Random, label: int) -> Row:
    adjectives, opposites, effects = JUDGEMENTS[label], JUDGEMENTS[1 - label], EFFECTS[label]
    work, aspect = pick(rng, WORKS), pick(rng, ASPECTS)
    first, opposite = pick(rng, adjectives), pick(rng, opposites)
    second = pick_other(rng, adjectives, first)
    form = pick(rng, range(10))
    if form == 0:
        text = f"{article(first)} {work} with {article(second)} {aspect}"
    elif form == 1:
        text = f"the {aspect} is {pick(rng, ADVERBS)} {first} and the {pick_other(rng, ASPECTS, aspect)} is {second}"
    elif form == 2:
        text = f"this {work} {pick(rng, effects)} , and its {aspect} is {first}"
    elif form == 3:
        text = f"i {pick(rng, FEELINGS[label])} this {first} {work} and its {second} {aspect}"
    elif form == 4:
        text = f"the director has made {article(first)} {work} that {pick(rng, effects)}"
    elif form == 5:
        text = f"{pick(rng, ADVERBS)} {first} {aspect} in {article(second)} {work}"
    elif form == 6:
        text = f"never {opposite} , always {first} : {article(work)} that {pick(rng, effects)}"
    elif form == 7:
        text = f"the {aspect} is {opposite} , but this {work} {pick(rng, effects)}"
    elif form == 8:
        text = f"anything but {article(opposite)} {work} , and the {aspect} is not {pick(rng, opposites)} either"
    else:
        text = f"i expected {article(opposite)} {work} with {article(pick(rng, opposites))} {aspect} , and was wrong"
    return (text + " .",), label


# cola: a sentence is acceptable, or one rule of grammar is broken in it.

ANIMATE = words("teacher doctor child farmer singer lawyer neighbor soldier painter sailor driver student")
THINGS = words("letter window garden picture basket ladder mirror candle blanket bottle hammer violin")
SIZES = words("small large old young quiet tall clever tired strange gentle")
# Third person, plural, past participle, -ing.
VERBS = (
    ("sees", "see", "seen", "seeing"),
    ("breaks", "break", "broken", "breaking"),
    ("takes", "take", "taken", "taking"),
    ("draws", "draw", "drawn", "drawing"),
    ("hides", "hide", "hidden", "hiding"),
    ("steals", "steal", "stolen", "stealing"),
    ("forgets", "forget", "forgotten", "forgetting"),
    ("chooses", "choose", "chosen", "choosing"),
    ("shakes", "shake", "shaken", "shaking"),
    ("gives away", "give away", "given away", "giving away"),
)
PLACES = phrases(
    "in the kitchen|near the river|behind the school|at the station|on the bridge|under the tree|beside the church|"
    "in the market"
)


def cola(rng: random.Random, label: int) -> Row:
    plural = chance(rng, 0.5)
    subject = [pick(rng, SIZES), pick(rng, ANIMATE) + ("s" if plural else "")]
    third, base, participle, ing = pick(rng, VERBS)
    thing = [pick(rng, COLORS), pick(rng, THINGS)]
    place = pick(rng, PLACES)
    tense = pick(rng, ("present", "perfect", "progressive"))
    be, have, simple = ("are", "have", base) if plural else ("is", "has", third)
    fault = "" if label else pick(rng, ("agreement", "form", "noun order", "determiner order", "verb last"))
    if fault == "agreement":
        be, have, simple = ("is", "has", third) if plural else ("are", "have", base)
    if fault == "form":
        verb = {"present": f"{be} {base}", "perfect": f"{have} {ing}", "progressive": f"{be} {third}"}[tense]
    else:
        verb = {"present": simple, "perfect": f"{have} {participle}", "progressive": f"{be} {ing}"}[tense]
    if fault == "noun order":
        thing.reverse()
    determined = ["the", *subject]
    if fault == "determiner order":
        determined = [*subject, "the"]
    object_ = f"the {' '.join(thing)}"
    parts = [*determined, object_, verb, place] if fault == "verb last" else [*determined, verb, object_, place]
    return (sentence(" ".join(parts)),), label
