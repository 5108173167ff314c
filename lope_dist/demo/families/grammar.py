"""Tasks about the form of a sentence: its tense, or what a question asks for."""

# ruff: noqa: SIM905 - word lists read better as text
from __future__ import annotations

import numpy as np

from lope_dist.demo.draft import FAMILIES, Draft, OnSide, others, pick, pick_fact

VERBS = (
    "open opens opened opening;close closes closed closing;paint paints painted painting;"
    "clean cleans cleaned cleaning;sell sells sold selling;buy buys bought buying;"
    "build builds built building;break breaks broke breaking;carry carries carried carrying;"
    "draw draws drew drawing;bring brings brought bringing;find finds found finding;"
    "repair repairs repaired repairing;wash washes washed washing;move moves moved moving;"
    "take takes took taking;show shows showed showing;steal steals stole stealing;"
    "choose chooses chose choosing;hide hides hid hiding;lift lifts lifted lifting;"
    "order orders ordered ordering;push pushes pushed pushing;keep keeps kept keeping;"
    "lose loses lost losing;need needs needed needing;praise praises praised praising;"
    "fetch fetches fetched fetching;drop drops dropped dropping;send sends sent sending;"
    "hold holds held holding;forget forgets forgot forgetting;copy copies copied copying;"
    "admire admires admired admiring;measure measures measured measuring;"
    "throw throws threw throwing"
).split(";")
"""Base form, third person, past, -ing form; no verb whose past equals its base form."""

_PEOPLE = "baker teacher sailor farmer nurse painter driver child king neighbour".split()
_OBJECTS = "box picture chair table basket clock bottle lamp wheel mirror".split()
_TENSES = {
    "past": ("The {who} {past} the {what}.", "The {who} was {ing} the {what}."),
    "present": ("The {who} {third} the {what}.", "The {who} is {ing} the {what}."),
    "future": ("The {who} will {base} the {what}.", "The {who} is going to {base} the {what}."),
}
_TENSE_ASKED = (
    "Name the tense of the sentence.",
    "When does it happen?",
    "Sort the sentence by its tense.",
)

_SUBJECTS = (
    "station;museum;concert;market;hospital;library;bridge;castle;festival;theatre;school;bakery;"
    "harbour;factory;garden;hotel;church;cinema;stadium;airport;office;bank;farm;tower;temple;"
    "palace;zoo;opera;fair;gallery;restaurant;monument;lighthouse;monastery;mill"
).split(";")
_QUESTIONS = {
    "place": (
        "Where is the {what}?",
        "Where can I find the {what}?",
        "In which street is the {what}?",
    ),
    "time": (
        "When does the {what} open?",
        "When was the {what} founded?",
        "At what hour does the {what} close?",
    ),
    "person": (
        "Who owns the {what}?",
        "Who runs the {what}?",
        "Whose idea was the {what}?",
    ),
    "number": (
        "How many people visit the {what}?",
        "How many doors does the {what} have?",
        "How many tickets does the {what} sell?",
    ),
    "reason": (
        "Why is the {what} closed?",
        "Why do people like the {what}?",
        "For what purpose was the {what} built?",
    ),
}
_QUESTION_ASKED = (
    "What does the question ask for?",
    "Which sort of answer is wanted?",
    "Sort the question by what it asks for.",
)


@FAMILIES.register("tense")
def draw_tense(rng: np.random.Generator, is_on_side: OnSide) -> Draft:
    """The tense of a sentence whose verb alone tells it."""
    verb = pick_fact(rng, VERBS, is_on_side)
    base, third, past, ing = verb.split()
    tense = pick(rng, list(_TENSES))
    who, what = pick(rng, _PEOPLE), pick(rng, _OBJECTS)
    sentence = pick(rng, _TENSES[tense]).format(
        who=who, what=what, base=base, third=third, past=past, ing=ing
    )
    return Draft(verb, pick(rng, _TENSE_ASKED), sentence, tense, others(list(_TENSES), tense))


@FAMILIES.register("question")
def draw_question(rng: np.random.Generator, is_on_side: OnSide) -> Draft:
    """What kind of answer a question asks for."""
    what = pick_fact(rng, _SUBJECTS, is_on_side)
    kind = pick(rng, list(_QUESTIONS))
    asked = pick(rng, _QUESTIONS[kind]).format(what=what)
    return Draft(what, pick(rng, _QUESTION_ASKED), asked, kind, others(list(_QUESTIONS), kind))
