"""Words that answers have: units, currencies, number words, and nouns that count things.

A unit may be left out of an answer or written another way, so it has to be told from words that
change what a number says: "7 apples" is 7, "7 million", "7 or more" and "7 less than x" aren't.
Nouns are too many to list, words of the other kinds are not: what is counted is one to three words
of which none is of those kinds and the last is a plural.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple


class Unit(NamedTuple):
    """A unit.

    Args:
        dimensions: what it measures, with powers; what can't be converted measures itself.
        factor: how many of the basic unit of these dimensions it is.
    """

    dimensions: frozenset[tuple[str, int]]
    factor: Fraction = Fraction(1)


PERCENT = Unit(frozenset({("percent", 1)}))
DEGREE = Unit(frozenset({("angle", 1)}))

#: Dimension → names of a unit and how many of the basic one it is.
_TABLE: dict[str, dict[str, str]] = {
    "length": {
        "m meter metre": "1",
        "km kilometer kilometre": "1000",
        "dm decimeter": "1/10",
        "cm centimeter centimetre": "1/100",
        "mm millimeter millimetre": "1/1000",
        "μm micrometer micron": "1/1000000",
        "nm nanometer": "1/1000000000",
        "in inch": "254/10000",
        "ft foot feet": "3048/10000",
        "yd yard": "9144/10000",
        "mi mile": "1609344/1000",
    },
    "time": {
        "s sec second": "1",
        "ms millisecond": "1/1000",
        "min minute": "60",
        "h hr hour": "3600",
        "day": "86400",
        "week": "604800",
    },
    "months": {"mo month": "1", "yr year": "12", "decade": "120", "century": "1200"},
    "mass": {
        "g gram gm": "1",
        "mg milligram": "1/1000",
        "kg kilogram kilo": "1000",
        "lb pound": "45359237/100000",
        "oz ounce": "45359237/1600000",
    },
    "volume": {"l L liter litre": "1", "ml mL milliliter millilitre": "1/1000", "cc": "1/1000"},
    "cups": {"cup": "1", "pint pt": "2", "quart qt": "4", "gallon gal": "16"},
    "angle": {"degree deg °": "1", "arcmin arcminute": "1/60", "arcsec arcsecond": "1/3600"},
    "dollar": {"dollar usd buck": "1", "cent penny": "1/100", "dime": "1/10"},
    "percent": {"percent percentage pct %": "1"},
}

#: Units that measure themselves.
_ALONE = (
    "euro eur sterling gbp yen jpy yuan rmb cny rupee inr peso won ruble franc krona ton tonne acre "
    "hectare rad radian mph kph kmh rpm newton joule watt kilowatt hertz pascal volt ampere amp "
    "ohm farad tesla gauss mole mol kelvin celsius fahrenheit calorie cal kcal erg dyne angstrom "
    "parsec pc lightyear bit byte kb mb gb sr steradian knot carat rs unit coin point piece "
    "integer digit number time way th st nd rd au atm bar ppm"
).split()
#: Those whose letters are capitals.
_CAPITALS = "Hz kHz MHz GHz Pa kPa MPa J kJ MJ W kW MW kWh N kN V kV A K C F T G eV keV MeV GeV".split()

UNITS = {
    name: Unit(frozenset({(dimension, 1)}), Fraction(factor))
    for dimension, units in _TABLE.items()
    for names, factor in units.items()
    for name in names.split()
} | {name: Unit(frozenset({(name, 1)})) for name in (*_ALONE, *_CAPITALS)}

#: Units of one letter, which are symbols unless they stand apart behind a number.
LETTER_UNITS = frozenset("m s h g l L J W N V A K C F T".split())

CURRENCIES = {
    **{"€": "euro", "£": "sterling", "¥": "yen", "₹": "rupee", "₽": "ruble", "₩": "won", "¢": "cent"},
    **{"pounds": "sterling", "textsterling": "sterling", "euro": "euro", "texteuro": "euro"},
    **{"yen": "yen", "cent": "cent", "textcent": "cent"},
}
#: Currencies that stand before a number too.
LEADING = frozenset("dollar usd euro eur sterling gbp yen yuan rmb rupee rs inr ruble won cny".split())

SCALES = {
    "hundred": 100,
    "thousand": 1000,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
    "dozen": 12,
}
_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
CARDINALS = {word: number for number, word in enumerate(_ONES)} | {
    word: 10 * tens for tens, word in enumerate(_TENS, 2)
}

HALVES_OF_DAY = frozenset({"am", "pm", "noon", "midnight"})

#: Words that change what is said, or say it of something else.
_CLOSED = frozenset(
    (
        "a an the this that these those it its we you they he she i my your our their each every all "
        "any some none no not nor neither either both other others another many few several more "
        "most less least fewer fewest than as about approximately approx around roughly nearly "
        "almost exactly only over under above below between from to into of off on in at by for "
        "with without within if when where while whenever unless until since because so then else "
        "otherwise but yet though although however also respectively is are was were be been am "
        "has have had does do did can could may might must shall should will would plus minus "
        "times divided multiplied multiples multiple squared cubed squares cubes square cubic root "
        "roots power powers factorial remainder remainders modulo mod base bases half halves third "
        "thirds quarter quarters tenths positive negative infinite infinity infinitely undefined "
        "unknown wrong incorrect correct true false yes and or per dozens hundreds thousands "
        "millions billions trillions total answer answers equals equal less greater smaller larger "
        "up down remaining percent percents double twice thrice triple pair pairs guess maybe "
        "perhaps versus vs plus ones tens always never solution solutions minus inverse"
    ).split()
) | {*CARDINALS, *SCALES}
_PART = re.compile(r".*(?:th|nd|rd|st)s?$")  # fifths, hundredths
_IRREGULAR = frozenset(
    "people men women children feet mice sheep fish deer dice teeth geese cattle money".split()
)
#: What may follow a unit of length, time or mass.
_MEASURES = frozenset("old long wide tall high deep".split())
_POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}

#: Runs of two or three letters that are words.
_SHORT = frozenset(
    "yes no odd all any none one two six ten usd eur gbp pct noon am pm rs red blue set sun mon "
    "tue wed thu fri sat dne nan east west both".split()
)


def is_word(run: str) -> bool:
    """Whether letters without a blank are a word rather than a product of symbols."""
    if len(run) > 3 or is_known(run):
        return True
    # Products are written in the order of the alphabet: abc, but rat; and names in capitals.
    unordered = list(run) != sorted(run) or run.istitle()
    return len(run) == 3 and unordered and not set("aeiou").isdisjoint(run.lower())


def is_known(run: str) -> bool:
    """Whether letters are a short word that is listed here."""
    return len(run) > 1 and (run in UNITS or run.lower() in _SHORT)


def unit_named(word: str) -> Unit | None:
    """The unit that a word names, in the singular or plural; None if it names none."""
    for name in (word, word.lower()):
        for ending, instead in (("", ""), ("s", ""), ("es", ""), ("ies", "y")):
            if name.endswith(ending):
                singular = name.removesuffix(ending) + instead if ending else name
                if singular in UNITS and (not ending or len(singular) > 1):
                    return UNITS[singular]
    return None


def _noun(words: list[str]) -> Unit | None:
    """What is counted, by the words for it."""
    lowered = [word.lower() for word in words]
    last = lowered[-1]
    if len(words) > 3 or any(word in _CLOSED or _PART.match(word) for word in lowered):
        return None
    if last not in _IRREGULAR and not (last.endswith("s") and len(last) > 2):
        return None
    singular = last.removesuffix("s") if last not in _IRREGULAR else last
    return Unit(frozenset({(" ".join([*lowered[:-1], singular]), 1)}))


def times(unit: Unit, other: Unit, power: int) -> Unit:
    """A unit times a power of another."""
    dimensions = dict(unit.dimensions)
    for name, own in other.dimensions:
        dimensions[name] = dimensions.get(name, 0) + power * own
    return Unit(
        frozenset((name, own) for name, own in dimensions.items() if own),
        unit.factor * other.factor**power,
    )


def phrase(words: list[str]) -> Unit | None:
    """The unit that some words between operators are; None if they are none."""
    power = _POWERS.get(words[0].lower())
    if power is not None and len(words) > 1:
        unit = phrase(words[1:])
        return unit and times(Unit(frozenset()), unit, power)
    if len(words) == 2 and words[1].lower() in _MEASURES:
        words = words[:1]
    if len(words) == 1 and (unit := unit_named(words[0])):
        return unit
    if all(map(unit_named, words)):  # newton meters
        whole = Unit(frozenset())
        for word in words:
            unit = unit_named(word)
            assert unit is not None
            whole = times(whole, unit, 1)
        return whole
    return _noun(words)


def cardinal(words: list[str]) -> int | None:
    """The number that some words say, as "two hundred and five"; None if they say none."""
    parts = [piece for word in words for piece in word.lower().split("-")]
    if not parts or parts[0] not in CARDINALS:
        return None
    total, part = 0, 0
    for before, word in zip(["", *parts], parts, strict=False):
        if word in CARDINALS:
            small = CARDINALS[word]
            if before in CARDINALS and not (CARDINALS[before] >= 20 and 0 < small < 10):
                return None
            part += small
        elif word == "hundred" and before in CARDINALS:
            part *= 100
        elif word in SCALES and word != "dozen":
            total, part = total + part * SCALES[word], 0
        elif word != "and" or before not in SCALES:
            return None
    return total + part if parts[-1] != "and" else None
