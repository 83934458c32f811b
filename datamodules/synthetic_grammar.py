"""Grammars of the generated tasks: one function per task that draws a random row of a given class.

``GRAMMARS[task](rng, label)`` returns the row's texts and its target, a class or (stsb) a score. The vocabularies are
plain English, so that a pretrained encoder knows the words, and combine to far more sentences than the splits have.
The label always follows from the text: there is no label noise.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")
Row = tuple[tuple[str, ...], float]
Grammar = Callable[[random.Random, int], Row]


def words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def phrases(text: str) -> tuple[str, ...]:
    return tuple(text.split("|"))


NAMES = words(
    "Anna Boris Carla David Elena Felix Greta Hugo Irene Jonas Karin Liam Maria Nadia Oscar Paula Quentin Rosa Simon "
    "Tara Ulrich Vera Walter Xenia Yusuf Zoe Amir Bianca Cedric Diana Emil Fatima Gustav Helena Ivan Julia"
)
CITIES = words(
    "Berlin Madrid Oslo Lisbon Vienna Prague Dublin Athens Warsaw Boston Chicago Denver Seattle Toronto Lima Bogota "
    "Cairo Nairobi Mumbai Tokyo Osaka Sydney Jakarta Hanoi"
)
COLORS = words("red blue green yellow black white brown purple gray orange")


def pick(rng: random.Random, items: Sequence[T]) -> T:
    # rng.choice may change between versions of Python; rng.random does not.
    return items[int(rng.random() * len(items))]


def pick_other(rng: random.Random, items: Sequence[T], *taken: T) -> T:
    return pick(rng, [item for item in items if item not in taken])


def chance(rng: random.Random, probability: float) -> bool:
    return rng.random() < probability


def article(phrase: str) -> str:
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def sentence(text: str, end: str = ".") -> str:
    return text[0].upper() + text[1:] + end


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


# mrpc: two reports of one business event, or of two events.

COMPANIES = words(
    "Acorn Bluebird Castle Delta Everest Falcon Granite Harbor Iris Juniper Keystone Lantern Meadow Northstar Orchid "
    "Pioneer Quartz Ridgeway Summit Timber"
)
TRADES = words("foods motors bank airlines software steel energy media")
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
    for part, phrases in enumerate((ACTORS, ACTIONS, PROPS, SPOTS, TIMES)):
        phrase = pick(rng, phrases)
        first.append(phrase[0])
        second.append((phrase if part in shared else pick_other(rng, phrases, phrase))[1])
    texts = tuple(sentence(" ".join((article(scene[0]), *scene[1:]))) for scene in (first, second))
    return texts, sum(SCENE_WEIGHTS[part] for part in shared)


# mnli and ax: a report, and a sentence that follows from it, contradicts it, or does neither.

JOBS = words("teacher doctor lawyer nurse baker painter pilot carpenter librarian engineer chemist musician")
NUMBERS = words("two three four five six seven eight nine ten twelve")


class World:
    """Vocabulary of one genre: actions (past, base form, objects with their kind), places and opening words."""

    def __init__(
        self,
        deeds: Sequence[tuple[str, str]],
        objects: Sequence[tuple[str, str]],
        places: Sequence[str],
        openings: Sequence[str],
        additions: Sequence[str],
    ) -> None:
        self.deeds, self.objects, self.places = deeds, objects, places
        self.openings, self.additions = openings, additions


TOWN = World(
    deeds=(("bought", "buy"), ("sold", "sell"), ("carried", "carry"), ("found", "find"), ("counted", "count")),
    objects=(
        ("apples", "fruit"), ("pears", "fruit"), ("roses", "flowers"), ("tulips", "flowers"), ("hammers", "tools"),
        ("saws", "tools"), ("chairs", "furniture"), ("tables", "furniture"), ("novels", "books"), ("shirts", "clothes"),
    ),
    places=("at the market", "in the old town", "near the harbor", "at the fair", "in a small shop", "by the church"),
    openings=("", "Yesterday ", "In the morning ", "After lunch "),
    additions=("for a birthday party", "to please a friend", "with money from the bank", "because of a letter"),
)  # fmt: skip
EXPEDITION = World(
    deeds=(("photographed", "photograph"), ("studied", "study"), ("followed", "follow"), ("described", "describe")),
    objects=(
        ("wolves", "animals"), ("bears", "animals"), ("eagles", "birds"), ("owls", "birds"), ("salmon", "fish"),
        ("beetles", "insects"), ("butterflies", "insects"), ("oaks", "trees"), ("pines", "trees"),
    ),
    places=("in the mountains", "near the glacier", "on the island", "in the valley", "along the coast"),
    openings=("During the expedition ", "According to the report ", "On the second day ", "In the field notes "),
    additions=("for a national museum", "to win a prize", "with a borrowed camera", "because of a strange rumor"),
)  # fmt: skip


def natural_language_inference(world: World) -> Grammar:
    def rows(rng: random.Random, label: int) -> Row:
        name, job, number = pick(rng, NAMES), pick(rng, JOBS), pick(rng, NUMBERS)
        past, base = pick(rng, world.deeds)
        thing, kind = pick(rng, world.objects)
        place = pick(rng, world.places)
        premise = f"{pick(rng, world.openings)}{name} , {article(job)} , {past} {number} {thing} {place} ."
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
            addition = pick(rng, world.additions)
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
            other_place = pick_other(rng, world.places, place)
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


GRAMMARS: dict[str, Grammar] = {
    "cola": cola,
    "sst2": sst2,
    "mrpc": mrpc,
    "qqp": qqp,
    "stsb": stsb,
    "mnli": natural_language_inference(TOWN),
    "mnli_mismatched": natural_language_inference(EXPEDITION),
    "qnli": qnli,
    "rte": rte,
    "wnli": wnli,
}
