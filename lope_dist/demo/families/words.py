"""Tasks about one word: the group of a noun, the continent of a country, what a unit measures."""

# ruff: noqa: SIM905 - word lists read better as text
from __future__ import annotations

import numpy as np

from lope_dist.demo.draft import FAMILIES, Draft, OnSide, others, pick, pick_fact

GROUPS = {
    "animal": (
        "dog cat horse cow sheep goat lion tiger bear wolf fox rabbit mouse elephant giraffe "
        "zebra monkey camel donkey deer squirrel frog lizard snake owl eagle duck goose penguin "
        "parrot whale dolphin shark salmon spider crab hamster badger kangaroo leopard"
    ).split(),
    "food": (
        "bread cheese butter rice pasta soup apple banana cherry grape peach plum potato carrot "
        "onion cabbage tomato cucumber bacon sausage omelette pancake biscuit cake chocolate "
        "honey jam yoghurt salad sandwich pizza porridge lentil mushroom strawberry raspberry "
        "lemon noodle muffin pudding"
    ).split(),
    "tool": (
        "hammer saw screwdriver pliers wrench drill chisel axe shovel rake spade hoe crowbar "
        "scissors tweezers mallet spanner sander trowel sickle scythe pickaxe wheelbarrow anvil "
        "ladder toolbox hatchet paintbrush sandpaper corkscrew hacksaw jackhammer chainsaw vice "
        "lawnmower pitchfork tongs awl clamp bolt-cutter"
    ).split(),
    "body": (
        "hand foot head neck arm leg knee elbow shoulder finger thumb toe ankle wrist nose ear "
        "eye mouth tongue tooth lip chin cheek forehead chest stomach back hip heart lung liver "
        "kidney brain skin bone muscle rib spine throat eyebrow"
    ).split(),
    "vehicle": (
        "car bus train lorry truck van taxi tram bicycle motorcycle scooter aeroplane helicopter "
        "ship boat ferry canoe yacht submarine tractor ambulance limousine minibus jeep rocket "
        "glider sailboat kayak tricycle moped sledge carriage wagon speedboat airship hovercraft "
        "locomotive caravan fire-engine spaceship"
    ).split(),
}

CONTINENTS = {
    "Africa": (
        "Algeria,Angola,Benin,Botswana,Burundi,Cameroon,Chad,Ethiopia,Gabon,Gambia,Ghana,Guinea,"
        "Kenya,Lesotho,Liberia,Libya,Madagascar,Malawi,Mali,Mauritania,Morocco,Mozambique,Namibia,"
        "Niger,Nigeria,Rwanda,Senegal,Sierra Leone,Somalia,South Africa,Sudan,Tanzania,Togo,"
        "Tunisia,Uganda,Zambia,Zimbabwe"
    ).split(","),
    "Asia": (
        "Afghanistan,Bangladesh,Bhutan,Cambodia,China,India,Iran,Iraq,Israel,Japan,Jordan,Kuwait,"
        "Kyrgyzstan,Laos,Lebanon,Malaysia,Mongolia,Myanmar,Nepal,North Korea,Oman,Pakistan,Qatar,"
        "Saudi Arabia,Singapore,South Korea,Sri Lanka,Syria,Taiwan,Tajikistan,Thailand,"
        "the Philippines,Turkmenistan,Uzbekistan,Vietnam,Yemen"
    ).split(","),
    "Europe": (
        "Albania,Andorra,Austria,Belarus,Belgium,Bosnia,Bulgaria,Croatia,Denmark,Estonia,Finland,"
        "France,Germany,Greece,Hungary,Iceland,Ireland,Italy,Kosovo,Latvia,Liechtenstein,Lithuania,"
        "Luxembourg,Malta,Moldova,Monaco,Montenegro,Norway,Poland,Portugal,Romania,Serbia,Slovakia,"
        "Slovenia,Spain,Sweden,Switzerland,the Netherlands,Ukraine"
    ).split(","),
    "America": (
        "Argentina,Barbados,Belize,Bolivia,Brazil,Canada,Chile,Colombia,Costa Rica,Cuba,Dominica,"
        "Ecuador,El Salvador,Grenada,Guatemala,Guyana,Haiti,Honduras,Jamaica,Mexico,Nicaragua,"
        "Panama,Paraguay,Peru,Suriname,the Bahamas,the Dominican Republic,the United States,"
        "Uruguay,Venezuela"
    ).split(","),
}

UNITS = {
    "length": "metres kilometres centimetres millimetres inches feet yards miles furlongs "
    "decimetres micrometres nanometres light-years".split(),
    "mass": "grams kilograms milligrams tonnes pounds kilos micrograms carats hundredweights "
    "megatonnes kilotonnes".split(),
    "time": "seconds minutes hours days weeks months years decades centuries fortnights "
    "milliseconds nanoseconds microseconds".split(),
    "volume": "litres millilitres gallons pints quarts teaspoons tablespoons centilitres "
    "decilitres cupfuls spoonfuls microlitres".split(),
}

_GROUP_ASKED = (
    "Which group does the word belong to?",
    "Sort the word into its group.",
    "Name the kind of thing that is meant.",
    "Put this word where it belongs.",
)
_CONTINENT_ASKED = (
    "On which continent is the country?",
    "Name the continent of this country.",
    "In which part of the world does the country lie?",
    "Sort the country by continent.",
)
_QUANTITY_ASKED = (
    "What is measured?",
    "Which quantity is this?",
    "Name the quantity that is given.",
)


@FAMILIES.register("word_group")
def draw_word_group(rng: np.random.Generator, is_on_side: OnSide) -> Draft:
    """The group of a noun."""
    group = pick(rng, list(GROUPS))
    word = pick_fact(rng, GROUPS[group], is_on_side)
    return Draft(word, pick(rng, _GROUP_ASKED), word, group, others(list(GROUPS), group))


@FAMILIES.register("continent")
def draw_continent(rng: np.random.Generator, is_on_side: OnSide) -> Draft:
    """The continent of a country that lies on one; both Americas count as America."""
    continent = pick(rng, list(CONTINENTS))
    country = pick_fact(rng, CONTINENTS[continent], is_on_side)
    wrong = others(list(CONTINENTS), continent)
    return Draft(country, pick(rng, _CONTINENT_ASKED), country, continent, wrong)


@FAMILIES.register("quantity")
def draw_quantity(rng: np.random.Generator, is_on_side: OnSide) -> Draft:
    """What a unit measures; the number before it does not matter."""
    quantity = pick(rng, list(UNITS))
    unit = pick_fact(rng, UNITS[quantity], is_on_side)
    measured = f"{int(rng.integers(2, 100))} {unit}"
    return Draft(
        unit, pick(rng, _QUANTITY_ASKED), measured, quantity, others(list(UNITS), quantity)
    )
