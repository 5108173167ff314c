"""Tasks that file a short message under a label: sentiment, manner, topic.

Sentiment and manner use house labels that say nothing by themselves, so that a model can know
them only from training.
"""

# ruff: noqa: SIM905 - word lists read better as text
from __future__ import annotations

import numpy as np

from lope_dist.demo.draft import FAMILIES, Draft, OnSide, others, pick, pick_fact

FEELINGS = {
    "gold": (
        "wonderful excellent lovely superb delightful great brilliant charming splendid fantastic "
        "perfect pleasant amazing beautiful outstanding marvellous impressive terrific magnificent "
        "fabulous enjoyable good satisfying stunning gorgeous admirable exquisite heavenly nice "
        "glorious flawless incredible phenomenal awesome adorable sublime"
    ).split(),
    "rust": (
        "awful terrible horrible dreadful poor disgusting disappointing nasty ugly boring useless "
        "bad shabby miserable unpleasant appalling pathetic dirty annoying faulty worthless "
        "hideous mediocre lousy atrocious shoddy dull horrid unbearable wretched inferior dismal "
        "filthy disastrous unacceptable abysmal"
    ).split(),
}
_REMARKS = (
    "The {thing} was {adverb} {adjective}.",
    "I found the {thing} {adverb} {adjective}.",
    "My friends say the {thing} is {adverb} {adjective}.",
    "Everybody calls the {thing} {adjective}.",
)
_THINGS = (
    "soup hotel film chair concert garden book jacket museum train party room lamp play song "
    "dinner phone camera bicycle restaurant"
).split()
_ADVERBS = ("really", "quite", "truly", "just", "simply")

ACTIONS = (
    "close the door;open the window;send me the report;bring the tea;move your car;wait outside;"
    "turn off the radio;sign this letter;clean the kitchen;feed the cat;water the plants;"
    "call me back;pass the salt;check the list;carry this box;answer the phone;lock the gate;"
    "read the first page;write down your name;show me the map;print the tickets;lower your voice;"
    "fix the lamp;return the keys;empty the bin;park over there;take off your shoes;set the table;"
    "wash the dishes;help the others;stand in the queue;leave the room;start the meeting;"
    "fill in the form;hold the rope;switch on the light;fetch the doctor;pack the bags;"
    "paint the fence;follow the sign"
).split(";")
MANNERS = {
    "soft": (
        "Could you please {action}?",
        "Would you kindly {action}?",
        "If you have a moment, please {action}.",
        "I would be grateful if you could {action}.",
        "May I ask you to {action}? Thank you.",
    ),
    "firm": (
        "You there, {action} now!",
        "You must {action} at once.",
        "Stop talking and {action}!",
        "Do as I say and {action}.",
        "I order you to {action} this minute!",
    ),
}

TOPICS = {
    "music": (
        "guitar piano violin concert choir drum melody song orchestra trumpet singer album flute "
        "opera saxophone symphony cello rhythm"
    ).split(),
    "money": (
        "bank loan mortgage tax salary invoice refund pension debt cash payment wage savings "
        "budget dividend price interest cheque"
    ).split(),
    "weather": (
        "rain snow storm thunder fog wind hail sunshine frost lightning hurricane drizzle heatwave "
        "blizzard mist breeze tornado rainbow"
    ).split(),
    "health": (
        "doctor fever medicine headache hospital cough vaccine toothache flu nurse allergy surgery "
        "pill bandage dentist infection clinic injury"
    ).split(),
    "travel": (
        "flight passport hotel suitcase airport cruise luggage visa tour journey holiday voyage "
        "tourist backpack itinerary hostel timetable sightseeing"
    ).split(),
}
_MESSAGES = (
    "We talked about the {noun} all morning.",
    "She wrote a long letter about the {noun}.",
    "The {noun} is all they think of.",
    "Everybody remembers the {noun} of last year.",
    "He asked me twice about the {noun}.",
    "Is there any news of the {noun}?",
)

_FEELING_ASKED = (
    "File the customer's remark.",
    "Put the remark in the right drawer.",
    "Label this remark.",
)
_MANNER_ASKED = (
    "Describe the manner of the request.",
    "How is the request made?",
    "Sort the request by its manner.",
)
_TOPIC_ASKED = (
    "Which desk gets the message?",
    "Name the topic of the message.",
    "Sort the message by topic.",
)


@FAMILIES.register("sentiment")
def draw_sentiment(rng: np.random.Generator, is_on_side: OnSide) -> Draft:
    """Whether a remark praises (`gold`) or complains (`rust`)."""
    label = pick(rng, list(FEELINGS))
    adjective = pick_fact(rng, FEELINGS[label], is_on_side)
    remark = pick(rng, _REMARKS).format(
        thing=pick(rng, _THINGS), adverb=pick(rng, _ADVERBS), adjective=adjective
    )
    return Draft(adjective, pick(rng, _FEELING_ASKED), remark, label, others(list(FEELINGS), label))


@FAMILIES.register("manner")
def draw_manner(rng: np.random.Generator, is_on_side: OnSide) -> Draft:
    """Whether a request is polite (`soft`) or an order (`firm`)."""
    label = pick(rng, list(MANNERS))
    action = pick_fact(rng, ACTIONS, is_on_side)
    request = pick(rng, MANNERS[label]).format(action=action)
    return Draft(action, pick(rng, _MANNER_ASKED), request, label, others(list(MANNERS), label))


@FAMILIES.register("topic")
def draw_topic(rng: np.random.Generator, is_on_side: OnSide) -> Draft:
    """What a message is about."""
    topic = pick(rng, list(TOPICS))
    noun = pick_fact(rng, TOPICS[topic], is_on_side)
    message = pick(rng, _MESSAGES).format(noun=noun)
    return Draft(noun, pick(rng, _TOPIC_ASKED), message, topic, others(list(TOPICS), topic))
