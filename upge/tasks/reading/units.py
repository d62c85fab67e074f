"""Words in answers: units, currencies, number words, and nouns that count things.

A unit may be left out of an answer or written another way, so it has to be told from words that
change what a number says: "7 apples" is 7, "7 million", "7 or more" and "7 less than x" aren't.
Nouns are too many to list, words of those kinds are not: what is counted is one to three words of
which none is of those kinds and the last is a plural.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple


def names(text: str) -> list[str]:
    """Names that blanks separate."""
    return text.split()


class Unit(NamedTuple):
    """A unit.

    Args:
        dimensions: what it measures, with powers; what can't be converted measures itself.
        factor: how many of the basic unit of these dimensions it is.
    """

    dimensions: frozenset[tuple[str, int]]
    factor: Fraction = Fraction(1)

    def times(self, other: Unit, power: int) -> Unit:
        """The unit times a power of another."""
        dimensions = dict(self.dimensions)
        for name, exponent in other.dimensions:
            dimensions[name] = dimensions.get(name, 0) + power * exponent
        kept = frozenset((name, exponent) for name, exponent in dimensions.items() if exponent)
        return Unit(kept, self.factor * other.factor**power)


def _basic(name: str, factor: str = "1") -> Unit:
    return Unit(frozenset({(name, 1)}), Fraction(factor))


NO_UNIT = Unit(frozenset())
PERCENT = _basic("percent")
DEGREE = _basic("angle")

#: Dimension: names of a unit, then how many of the basic one it is; and so on.
_CONVERTIBLE = {
    "length": "m meter metre 1, km kilometer kilometre 1000, dm decimeter 1/10, cm centimeter "
    "centimetre 1/100, mm millimeter millimetre 1/1000, micrometer micron 1/1000000, nm nanometer "
    "1/1000000000, in inch 254/10000, ft foot feet 3048/10000, yd yard 9144/10000, "
    "mi mile 1609344/1000",
    "time": "s sec second 1, ms millisecond 1/1000, min minute 60, h hr hour 3600, day 86400, "
    "week 604800",
    "months": "mo month 1, yr year 12, decade 120, century 1200",
    "mass": "g gram gm 1, mg milligram 1/1000, kg kilogram kilo 1000, lb pound 45359237/100000, "
    "oz ounce 45359237/1600000",
    "volume": "l L liter litre 1, ml mL milliliter millilitre cc 1/1000",
    "cups": "cup 1, pint pt 2, quart qt 4, gallon gal 16",
    "angle": "degree deg ° 1, arcmin arcminute 1/60, arcsec arcsecond 1/3600",
    "dollar": "dollar usd buck 1, cent penny 1/100, dime 1/10",
    "percent": "percent percentage pct % 1",
}
_ALONE = (
    "euro eur sterling gbp yen jpy yuan rmb cny rupee inr rs peso won ruble franc krona ton tonne "
    "acre hectare rad radian mph kph kmh rpm newton joule watt kilowatt hertz pascal volt ampere "
    "amp ohm farad tesla gauss mole mol kelvin celsius fahrenheit calorie cal kcal erg dyne "
    "angstrom parsec pc lightyear bit byte kb mb gb sr steradian knot carat unit coin point piece "
    "integer digit number time way th st nd rd au atm bar ppm "
    "Hz kHz MHz GHz Pa kPa MPa J kJ MJ W kW MW kWh N kN V kV A K C F T G eV keV MeV GeV"
)


def _table() -> dict[str, Unit]:
    units = {name: _basic(name) for name in names(_ALONE)}
    for dimension, text in _CONVERTIBLE.items():
        for entry in text.split(","):
            *spellings, factor = entry.split()
            units |= dict.fromkeys(spellings, _basic(dimension, factor))
    return units


UNITS = _table()

#: Units of one letter, which are symbols unless they stand apart behind a number.
LETTER_UNITS = frozenset("mshglLJWNVAKCFT")

#: Signs and commands of currencies.
CURRENCIES = {
    **dict(zip("€£¥₹₽₩¢", names("euro sterling yen rupee ruble won cent"), strict=True)),
    **{"pounds": "sterling", "textsterling": "sterling", "euro": "euro", "texteuro": "euro"},
    **{"yen": "yen", "cent": "cent", "textcent": "cent"},
}
#: Currencies that stand before a number too.
LEADING = frozenset(
    names("dollar usd euro eur sterling gbp yen yuan rmb rupee rs inr ruble won cny")
)

HALVES_OF_DAY = frozenset(names("am pm noon midnight"))

SCALES = {
    **{"dozen": 12, "hundred": 100, "thousand": 1000},
    **{"million": 10**6, "billion": 10**9, "trillion": 10**12},
}
_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
CARDINALS = {word: number for number, word in enumerate(names(_ONES))} | {
    word: 10 * tens for tens, word in enumerate(names(_TENS), 2)
}

#: Words that change what is said, or say it of something else.
_CLOSED = frozenset(
    names(
        "a an the this that these those it its we you they he she i my your our their each every "
        "all any some none no not nor neither either both other others another many few several "
        "more most less least fewer fewest than as about approximately approx around roughly "
        "nearly almost exactly only over under above below between from to into of off on in at by "
        "for with without within if when where while whenever unless until since because so then "
        "else otherwise but yet though although however also respectively is are was were be been "
        "am has have had does do did can could may might must shall should will would plus minus "
        "times divided multiplied multiple multiples square squared squares cube cubed cubes cubic "
        "root roots power powers factorial remainder remainders modulo mod base bases half halves "
        "third thirds quarter quarters positive negative infinite infinity infinitely undefined "
        "unknown wrong incorrect correct true false yes and or per dozens hundreds thousands "
        "millions billions trillions total answer answers equal equals greater smaller larger up "
        "down remaining percent percents double twice thrice triple pair pairs guess maybe perhaps "
        "versus vs ones tens always never inverse"
    )
).union(CARDINALS, SCALES)
#: Fifths, hundredths.
_ORDINAL = re.compile(
    r"(?:four|fif|six|seven|eigh|nin|ten|eleven|twelf|teen|tie|hundred|thousand|illion)ths?$"
)
_IRREGULAR = frozenset(
    names("people men women children feet mice sheep fish deer dice teeth geese cattle money")
)
#: What may follow a unit of length or time.
_MEASURES = frozenset(names("old long wide tall high deep"))
_POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}

#: Words of two or three letters that would pass for products of symbols.
_SHORT = frozenset(
    names(
        "yes no odd all any none one two six ten usd eur gbp pct noon am pm rs red sun mon tue wed "
        "thu fri sat dne nan sq cu"
    )
)


def is_word(run: str) -> bool:
    """Whether letters without a blank are a word rather than a product of symbols.

    Of three letters a product is in the order of the alphabet, as abc, and a word is not, as rat.
    """
    if len(run) > 3 or is_known(run):
        return True
    unordered = list(run) != sorted(run) or run.istitle()
    return len(run) == 3 and unordered and not set("aeiou").isdisjoint(run.lower())


def is_known(run: str) -> bool:
    """Whether letters are a short word that is listed here."""
    return len(run) > 1 and (run in UNITS or run.lower() in _SHORT)


def unit_named(word: str) -> Unit | None:
    """The unit that a word names, in the singular or plural; None if it names none."""
    for name in (word, word.lower()):
        for singular in (name, *(name[: -len(s)] for s in ("s", "es") if name.endswith(s))):
            if singular in UNITS and (singular == name or len(singular) > 1):
                return UNITS[singular]
    return UNITS["century"] if word == "centuries" else None


def phrase(words: list[str]) -> Unit | None:
    """The unit that some words are; None if they are none."""
    power = _POWERS.get(words[0].lower())
    if power is not None and len(words) > 1:
        unit = phrase(words[1:])
        return unit and NO_UNIT.times(unit, power)
    if len(words) == 2 and words[1].lower() in _MEASURES:
        words = words[:1]
    whole = NO_UNIT
    for word in words:  # newton meters
        unit = unit_named(word)
        if unit is None:
            return _counted([word.lower() for word in words])
        whole = whole.times(unit, 1)
    return whole


def _counted(words: list[str]) -> Unit | None:
    """What is counted, by the words for it."""
    last = words[-1]
    if len(words) > 3 or any(word in _CLOSED or _ORDINAL.search(word) for word in words):
        return None
    if last not in _IRREGULAR and not (last.endswith("s") and len(last) > 2):
        return None
    return _basic(" ".join([*words[:-1], last.removesuffix("s")]))


def cardinal(words: list[str]) -> int | None:
    """The number that some words say, as "two hundred and five"; None if they say none."""
    parts = [piece for word in words for piece in word.lower().split("-")]
    if not parts or parts[0] not in CARDINALS or parts[-1] == "and":
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
    return total + part
