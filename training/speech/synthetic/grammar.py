"""The small spoken language: a grammar from which sentences are drawn.

Numbers to 999, digit strings, dates, times, single words and simple commands; lower-case words of letters and
apostrophes, as in transcripts.
"""

from __future__ import annotations

import re
from bisect import bisect
from dataclasses import dataclass

import numpy as np


def _split(text: str) -> tuple[str, ...]:
    return tuple(text.split())


COMMANDS = _split(
    "backward bed bird cat dog down eight five follow forward four go happy house learn left "
    "marvin nine no off on one right seven sheila six stop three tree two up visual wow yes "
    "zero"
)

_UNITS = _split("one two three four five six seven eight nine")
_DIGITS = ("zero", *_UNITS)
_TEENS = _split("ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen")
_TENS = _split("twenty thirty forty fifty sixty seventy eighty ninety")
_FIRST_TO_NINTH = _split("first second third fourth fifth sixth seventh eighth ninth")
_TENTH_TO_NINETEENTH = _split(
    "tenth eleventh twelfth thirteenth fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth"
)
_MONTHS = _split("january february march april may june july august september october november december")
_WEEKDAYS = _split("monday tuesday wednesday thursday friday saturday sunday")

KINDS = ("number", "digits", "date", "time", "words", "order")
_SHARES_SUMMED = (0.13, 0.25, 0.4, 0.54, 0.72, 1.0)  # cumulative shares of the kinds

# `<name>` is replaced by one of its alternatives, all equally likely; one that is written twice is
# twice as likely.
_GRAMMAR: dict[str, tuple[str, ...]] = {
    "unit": _UNITS,
    "teen": _TEENS,
    "tens": _TENS,
    "two digits": ("<teen>", "<tens>", "<tens> <unit>", "<tens> <unit>"),
    "below hundred": ("zero", "<unit>", "<unit>", *["<two digits>"] * 7),
    "hundreds": (
        "<unit> hundred",
        *["<unit> hundred and <unit>", "<unit> hundred <unit>"],
        *["<unit> hundred and <two digits>", "<unit> hundred <two digits>"] * 3,
    ),
    "number": ("<below hundred>", "<hundreds>", "<hundreds>"),
    "digit": (*_DIGITS, *_UNITS, "zero", "oh"),
    "digits": tuple(" ".join(["<digit>"] * count) for count in range(1, 11)),
    "day": (
        *["<first to ninth>"] * 9,
        *["<tenth to nineteenth>"] * 10,
        *["twentieth", "thirtieth", "thirty first"],
        *["twenty <first to ninth>"] * 9,
    ),
    "first to ninth": _FIRST_TO_NINTH,
    "tenth to nineteenth": _TENTH_TO_NINETEENTH,
    "month": _MONTHS,
    "weekday": _WEEKDAYS,
    "year": (
        *["twenty <teen>", "twenty twenty <unit>", "twenty twenty <unit>", "twenty <tens>"],
        *["two thousand and <unit>", "twenty oh <unit>"],
        *["nineteen <tens> <unit>", "nineteen <tens> <unit>", "nineteen <teen>", "nineteen oh <unit>"],
    ),
    "date": (
        *["the <day> of <month>", "the <day> of <month> <year>", "<weekday> the <day> of <month>"] * 2,
        *["<month> <day>", "<month> the <day>", "<month> <day> <year>", "<weekday> <month> <day>"],
        *["<weekday>", "<weekday> the <day>", "<month> <year>", "on <weekday> the <day>"],
        *["<weekday> the <day> of <month> <year>", "today is the <day> of <month>", "next <weekday>"],
    ),
    "hour": (*_UNITS, "ten", "eleven", "twelve"),
    "minutes": ("oh <unit>", "<teen>", "<tens to fifty>", "<tens to fifty> <unit>", "<tens to fifty> <unit>"),
    "tens to fifty": _TENS[:4],
    "some minutes": ("five", "ten", "twenty", "twenty five", "<unit> minutes", "<teen> minutes"),
    "part of day": ("in the morning", "in the afternoon", "in the evening", "at night"),
    "half of day": ("a m", "p m"),
    "clock": (
        *["half past <hour>", "quarter past <hour>", "quarter to <hour>", "<hour> o'clock"],
        *["<some minutes> past <hour>", "<some minutes> to <hour>", "<hour> <minutes>"],
    ),
    "time": (
        *["<clock>"] * 4,
        *["<clock> <part of day>"] * 2,
        *["<hour> <minutes> <half of day>", "<hour> <half of day>"] * 2,
        *["at <clock>", "it is <clock>", "noon", "midnight", "<weekday> at <clock>"],
    ),
    "command": COMMANDS,
    "words": (
        *["<command>", "<command> <command>", "<command> <command> <command>"] * 2,
        *["<command> <command> <command> <command>"] * 2,
        *["<any>", "<any> <any>", "<any> <any> <any> <any>", "<any> <any> <any> <any> <any>"],
    ),
    "switch": ("on", "off"),
    "room": ("kitchen", "bedroom", "bathroom", "living room", "garden", "office", "hall"),
    "lamp": ("light", "lights", "lamp"),
    "device": ("radio", "television", "fan", "heating", "music", "alarm"),
    "opening": ("door", "window", "garage", "curtains", "gate"),
    "colour": ("red", "green", "blue", "yellow", "white"),
    "person": ("anna", "peter", "maria", "david", "emma", "robert", "marvin", "sheila"),
    "thing": ("milk", "bread", "coffee", "tea", "water", "apples", "butter", "sugar"),
    "task": (
        *["call <person>", "buy <thing>", "buy some <thing>", "feed the cat", "walk the dog"],
        *["water the garden", "close the <opening>", "clean the <room>", "learn <number> words"],
    ),
    "when": ("today", "tomorrow", "tonight", "on <weekday>", "at <clock>", "now"),
    "count": ("one", "<unit>", "ten", "<two digits>"),
    "span": ("<count> minutes", "<count> seconds", "<count> hours", "half an hour", "an hour"),
    "way": ("forward", "backward", "left", "right", "up", "down"),
    "music": ("jazz", "rock", "piano", "dance"),
    "order": (
        *["turn <switch> the <room> <lamp>", "turn the <device> <switch>", "turn <switch> the <device>"],
        *["turn <switch> the <colour> <lamp>", "make the <lamp> <colour>", "dim the <room> <lamp>"],
        *["turn it up", "turn it down", "turn the volume <way>", "set the volume to <below hundred>"],
        *["set the brightness to <below hundred> percent", "set the temperature to <two digits> degrees"],
        *["set a timer for <span>", "set an alarm for <clock>", "wake me up at <clock>"],
        *["wake me up <when>", "cancel the <device>", "stop the timer", "remind me to <task> <when>"],
        *["remind me to <task>", "call <person>", "call <person> <when>", "send a message to <person>"],
        *["read my messages", "read the message from <person>", "go <way> <count> steps", "go <way>"],
        *["turn <way> and go forward <count> steps", "follow me", "follow <person> to the <room>"],
        *["play the next song", "play the last song", "play some <music> music", "stop the music"],
        *["pause the music", "play it again", "what time is it", "what is the time", "what day is it <when>"],
        *[
            "what is the weather like <when>",
            "is it cold <when>",
            "open the <opening>",
            "close the <opening>",
        ],
        *["lock the <opening>", "unlock the front door", "is the <opening> open", "go to the <room>"],
        *["add <thing> to the shopping list", "add <number> <thing>", "bring me a <colour> cup"],
        *["bring me some <thing>", "make a cup of <thing>", "take a picture of the <animal>"],
        *["show me the <animal>", "show the news", "show me the map of the house", "where is my phone"],
        *["where is the <animal>", "what is <number> plus <number>", "what is <number> minus <number>"],
        *["what is <count> times <count>", "dial <digits>", "my number is <digits>", "call <digits>"],
        *["good morning", "good night <person>", "good evening", "hello <person>", "thank you", "yes please"],
        *["no thank you", "please help me", "wait <span>", "wait for <person>", "start again", "cancel"],
        *["louder please", "please be quiet", "a bit louder", "the <room> is too <feel>", "how are you"],
        *["are you happy <person>", "go to bed", "page <number>", "bus number <number>", "room <number>"],
        *["the <colour> bird is in the tree", "go home", "i am <feel>", "tell me a story about a <animal>"],
    ),
    "animal": ("cat", "dog", "bird", "tree", "house"),
    "feel": ("cold", "hot", "dark", "bright", "warm"),
}
_SLOT = re.compile(r"<([^>]+)>")
# So that every synthesizer says the letter's name instead of an article, and the present tense of "read".
_RESPELT = {"a m": "eigh em", "p m": "pee em", "read": "reed"}


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence, lower-case words with single spaces, and its kind."""

    text: str
    kind: str


def draw_sentence(random: np.random.Generator) -> Sentence:
    """Draw a sentence; kinds have fixed shares."""
    kind = KINDS[bisect(_SHARES_SUMMED, random.random())]
    return Sentence(_expand(f"<{kind}>", random), kind)


def vocabulary() -> tuple[str, ...]:
    """Return all words of the language in alphabetical order."""
    texts = [text for alternatives in _GRAMMAR.values() for text in alternatives]
    return tuple(sorted({word for text in texts for word in _SLOT.sub(" ", text).split()}))


def respell(text: str) -> str:
    """Respell a sentence where a synthesizer would say another word."""
    return re.sub(r"\b([ap] m|read)\b", lambda found: _RESPELT[found.group()], text)


def _expand(text: str, random: np.random.Generator) -> str:
    def replaced(slot: re.Match[str]) -> str:
        name = slot.group(1)
        alternatives = _ANY if name == "any" else _GRAMMAR[name]  # any word except letters
        return _expand(alternatives[int(random.integers(len(alternatives)))], random)

    return _SLOT.sub(replaced, text)


_ANY = tuple(word for word in vocabulary() if word not in ("a", "m", "p"))
