"""German and English pairs that are made, not collected: as many as one wants, each answer known.

Dates, times, durations, money, quantities, territories, languages, numbers in words, and short sentences of
them. The words are those of this module, or with ``tables="cldr"`` Babel's (Unicode's CLDR) and num2words'.
"""

from __future__ import annotations

import calendar
import random
from collections.abc import Callable
from dataclasses import dataclass

from tinsmith.errors import ConfigError, missing_extra
from tinsmith.families.seq2seq import numerals

Pair = tuple[str, str]
Forms = tuple[str, str, str, str]  # German one and many, English one and many


@dataclass(frozen=True, slots=True)
class Tables:
    """Words in German and English; ``number`` gives a whole number below a million in both."""

    months: list[Pair]
    weekdays: list[Pair]
    territories: list[Pair]
    languages: list[Pair]
    currencies: list[Forms]
    units: list[Forms]
    spans: list[Forms]
    number: Callable[[int], Pair]


def made_pairs(count: int, seed: int, tables: str = "builtin") -> list[Pair]:
    """``count`` different pairs (German, English), a function of the arguments alone.

    Raises:
        ConfigError: more than there are (after many tries no new one came).
        MissingExtraError: ``tables="cldr"`` without Babel or num2words.
    """
    words = builtin_tables() if tables == "builtin" else cldr_tables()
    rng = random.Random(seed)
    found: dict[str, str] = {}
    tries = 0
    while len(found) < count:
        source, target = rng.choices(MAKERS, WEIGHTS)[0](rng, words)
        found.setdefault(source, target)
        tries += 1
        if tries > 50 * count + 1000:
            raise ConfigError(
                f"data.pairs={count}: only {len(found)} different pairs were found: ask for less"
            )
    return list(found.items())


# ---- the kinds of pairs ---------------------------------------------------------------------------------


def _number(rng: random.Random, t: Tables) -> Pair:
    return t.number(rng.randrange(10 ** rng.randint(1, 6)))


def _date(rng: random.Random, t: Tables) -> Pair:
    year, month = rng.randint(1900, 2099), rng.randint(1, 12)
    day = rng.randint(1, calendar.monthrange(year, month)[1])
    de, en = t.months[month - 1]
    pair = (f"{day}. {de} {year}", f"{en} {day}, {year}")
    if rng.random() < 0.5:
        return pair
    de_day, en_day = t.weekdays[calendar.weekday(year, month, day)]
    return f"{de_day}, {pair[0]}", f"{en_day}, {pair[1]}"


def _time(rng: random.Random, t: Tables) -> Pair:
    hour, minute = rng.randrange(24), rng.randrange(60)
    return f"{hour}:{minute:02d} Uhr", f"{(hour - 1) % 12 + 1}:{minute:02d} {'AM' if hour < 12 else 'PM'}"


def _counted(rng: random.Random, t: Tables, forms: Forms, high: int) -> Pair:
    """A small whole number of something, the number in figures or in words."""
    n = rng.randint(1, high)
    one = 0 if n == 1 else 1
    if n > 1 and rng.random() < 0.5:
        de, en = t.number(n)
        return f"{de} {forms[one]}", f"{en} {forms[2 + one]}"
    return f"{n} {forms[one]}", f"{n} {forms[2 + one]}"


def _duration(rng: random.Random, t: Tables) -> Pair:
    if rng.random() < 0.4:
        return _counted(rng, t, rng.choice(t.spans), 99)
    i = rng.randrange(len(t.spans) - 1)
    large, small = _counted(rng, t, t.spans[i + 1], 30), _counted(rng, t, t.spans[i], 59)
    return f"{large[0]} und {small[0]}", f"{large[1]} and {small[1]}"


def _figures(n: float, decimals: int) -> Pair:
    en = f"{n:,.{decimals}f}"
    return en.translate(str.maketrans(",.", ".,")), en


def _money(rng: random.Random, t: Tables) -> Pair:
    forms, cents = rng.choice(t.currencies), rng.randint(101, 10 ** rng.randint(4, 7))
    de, en = _figures(cents / 100, 2)
    return f"{de} {forms[1]}", f"{en} {forms[3]}"


def _quantity(rng: random.Random, t: Tables) -> Pair:
    forms = rng.choice(t.units)
    if rng.random() < 0.5:
        return _counted(rng, t, forms, 999)
    de, en = _figures(rng.randint(11, 10 ** rng.randint(2, 5)) / 10, 1)
    return f"{de} {forms[1]}", f"{en} {forms[3]}"


def _name(rng: random.Random, t: Tables) -> Pair:
    (de1, en1), (de2, en2) = rng.sample(rng.choice([t.territories, t.languages]), 2)
    return rng.choice([(de1, en1), (f"{de1} und {de2}", f"{en1} and {en2}")])


def _sentence(rng: random.Random, t: Tables) -> Pair:
    de, en = rng.choice(PATTERNS)
    values: dict[str, Pair] = {
        "land": rng.choice(t.territories),
        "other": rng.choice(t.territories),
        "tongue": rng.choice(t.languages),
        "day": rng.choice(t.weekdays),
        "month": rng.choice(t.months),
    }
    makers = {"date": _date, "time": _time, "span": _duration, "money": _money, "amount": _quantity}
    values |= {name: make(rng, t) for name, make in makers.items() if "{" + name + "}" in de}
    values["n"] = t.number(rng.randint(2, 999))
    german, english = ({name: pair[side] for name, pair in values.items()} for side in (0, 1))
    return de.format(**german), en.format(**english)


PATTERNS: list[Pair] = [
    ("Die Reise nach {land} dauert {span}.", "The trip to {land} takes {span}."),
    ("Der Zug nach {land} fährt um {time}.", "The train to {land} leaves at {time}."),
    ("In {land} kostet es {money}.", "In {land} it costs {money}."),
    ("Sie kommt aus {land} und spricht {tongue}.", "She comes from {land} and speaks {tongue}."),
    ("Er fliegt am {day} von {land} nach {other}.", "He flies from {land} to {other} on {day}."),
    ("Das Treffen beginnt am {day} um {time}.", "The meeting starts on {day} at {time}."),
    ("Heute ist der {date}.", "Today is {date}."),
    ("Wir brauchen {amount}.", "We need {amount}."),
    ("Im {month} lernen wir {tongue}.", "In {month} we learn {tongue}."),
    ("Ich habe {money} für {amount} bezahlt.", "I paid {money} for {amount}."),
    ("Nach {span} waren wir in {land}.", "After {span} we were in {land}."),
    ("Es gibt {n} Wörter auf {tongue}.", "There are {n} words in {tongue}."),
]
MAKERS: list[Callable[[random.Random, Tables], Pair]] = [
    _number,
    _date,
    _time,
    _duration,
    _money,
    _quantity,
    _name,
    _sentence,
]
WEIGHTS = [3, 2, 1, 2, 2, 2, 1, 8]


# ---- the words ------------------------------------------------------------------------------------------

_MONTHS = "Januar Februar März April Mai Juni Juli August September Oktober November Dezember"
_WEEKDAYS = "Montag Dienstag Mittwoch Donnerstag Freitag Samstag Sonntag"
_ENGLISH_MONTHS = "January February March April May June July August September October November December"
_ENGLISH_DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday"
_TERRITORIES = """Deutschland Germany|Österreich Austria|Frankreich France|Italien Italy|Spanien Spain
Polen Poland|Dänemark Denmark|Schweden Sweden|Norwegen Norway|Finnland Finland|Belgien Belgium
Portugal Portugal|Irland Ireland|Griechenland Greece|Ungarn Hungary|Rumänien Romania|Bulgarien Bulgaria
Kroatien Croatia|Slowenien Slovenia|Estland Estonia|Lettland Latvia|Litauen Lithuania|Island Iceland
Luxemburg Luxembourg|Malta Malta|Zypern Cyprus|Albanien Albania|Serbien Serbia|Russland Russia|Ägypten Egypt
Marokko Morocco|Algerien Algeria|Tunesien Tunisia|Kenia Kenya|Nigeria Nigeria|Äthiopien Ethiopia
Südafrika South_Africa|Madagaskar Madagascar|Indien India|China China|Japan Japan|Südkorea South_Korea
Vietnam Vietnam|Thailand Thailand|Indonesien Indonesia|Australien Australia|Neuseeland New_Zealand
Kanada Canada|Mexiko Mexico|Brasilien Brazil|Argentinien Argentina|Chile Chile|Kolumbien Colombia|Peru Peru
Bolivien Bolivia|Kuba Cuba|Jordanien Jordan|Kambodscha Cambodia|Georgien Georgia|Kasachstan Kazakhstan"""
_LANGUAGES = """Deutsch German|Englisch English|Französisch French|Italienisch Italian|Spanisch Spanish
Polnisch Polish|Dänisch Danish|Schwedisch Swedish|Norwegisch Norwegian|Finnisch Finnish|Niederländisch Dutch
Portugiesisch Portuguese|Irisch Irish|Griechisch Greek|Ungarisch Hungarian|Rumänisch Romanian
Bulgarisch Bulgarian|Kroatisch Croatian|Estnisch Estonian|Lettisch Latvian|Litauisch Lithuanian
Isländisch Icelandic|Russisch Russian|Ukrainisch Ukrainian|Arabisch Arabic|Hebräisch Hebrew|Türkisch Turkish
Persisch Persian|Hindi Hindi|Bengalisch Bengali|Chinesisch Chinese|Japanisch Japanese|Koreanisch Korean
Vietnamesisch Vietnamese|Thailändisch Thai|Lateinisch Latin|Baskisch Basque|Katalanisch Catalan
Walisisch Welsh|Suaheli Swahili"""
_CURRENCIES = """Euro Euro euro euros|Dollar Dollar dollar dollars
Schweizer_Franken Schweizer_Franken Swiss_franc Swiss_francs|Pfund Pfund pound pounds|Yen Yen yen yen
Rupie Rupien rupee rupees|schwedische_Krone schwedische_Kronen Swedish_krona Swedish_kronor
polnischer_Złoty polnische_Złoty Polish_zloty Polish_zlotys|Peso Pesos peso pesos
Forint Forint forint forints"""
_UNITS = """Kilometer Kilometer kilometer kilometers|Meter Meter meter meters
Zentimeter Zentimeter centimeter centimeters|Meile Meilen mile miles|Kilogramm Kilogramm kilogram kilograms
Gramm Gramm gram grams|Tonne Tonnen ton tons|Liter Liter liter liters
Quadratmeter Quadratmeter square_meter square_meters|Hektar Hektar hectare hectares|Watt Watt watt watts
Kilowattstunde Kilowattstunden kilowatt_hour kilowatt_hours|Kalorie Kalorien calorie calories
Seite Seiten page pages|Flasche Flaschen bottle bottles"""
_SPANS = """Sekunde Sekunden second seconds|Minute Minuten minute minutes|Stunde Stunden hour hours
Tag Tage day days|Woche Wochen week weeks|Monat Monate month months|Jahr Jahre year years"""


def _rows(text: str) -> list[list[str]]:
    """Entries between bars and lines, words between blanks, an underscore for a blank inside a word."""
    rows = [entry.split() for line in text.splitlines() for entry in line.split("|")]
    return [[word.replace("_", " ") for word in row] for row in rows]


def builtin_tables() -> Tables:
    """The words of this module."""
    months = list(zip(_MONTHS.split(), _ENGLISH_MONTHS.split(), strict=True))
    weekdays = list(zip(_WEEKDAYS.split(), _ENGLISH_DAYS.split(), strict=True))
    territories, languages = ([(de, en) for de, en in _rows(text)] for text in (_TERRITORIES, _LANGUAGES))
    currencies, units, spans = (
        [_forms(row) for row in _rows(text)] for text in (_CURRENCIES, _UNITS, _SPANS)
    )

    def number(n: int) -> Pair:
        return numerals.german(n), numerals.english(n)

    return Tables(months, weekdays, territories, languages, currencies, units, spans, number)


def _forms(row: list[str]) -> Forms:
    one, many, en_one, en_many = row
    return one, many, en_one, en_many


_CLDR_UNITS = (
    "length-kilometer length-meter length-centimeter length-mile mass-kilogram mass-gram mass-tonne "
    "volume-liter area-square-meter area-hectare power-watt energy-kilowatt-hour energy-calorie"
)
_CLDR_SPANS = "second minute hour day week month year"
_CLDR_CURRENCIES = "EUR USD CHF GBP JPY INR SEK NOK DKK PLN CZK HUF MXN BRL CAD AUD CNY KRW TRY ZAR"


def cldr_tables() -> Tables:
    """The words of Babel's CLDR tables; numbers by num2words.

    Raises:
        MissingExtraError: Babel or num2words is not installed.
    """
    try:
        from babel import Locale
        from num2words import num2words
    except ImportError:
        raise missing_extra("data.tables=cldr", "cldr") from None
    de, en = Locale.parse("de"), Locale.parse("en")

    def names(kind: str, accept: Callable[[str], bool]) -> list[Pair]:
        left, right = getattr(de, kind), getattr(en, kind)
        return [(left[code], right[code]) for code in sorted(right) if accept(code) and code in left]

    def dates(kind: str, keys: range) -> list[Pair]:
        return [
            (getattr(de, kind)["format"]["wide"][k], getattr(en, kind)["format"]["wide"][k]) for k in keys
        ]

    def number(n: int) -> Pair:
        german = num2words(n, lang="de").replace("einstausend", "eintausend")  # as Duden has 101,000
        return german, num2words(n, lang="en")

    return Tables(
        months=dates("months", range(1, 13)),
        weekdays=dates("days", range(7)),
        territories=names("territories", lambda code: len(code) == 2 and code.isalpha()),
        languages=names("languages", lambda code: len(code) == 2),
        currencies=[_currency(code) for code in _CLDR_CURRENCIES.split()],
        units=[_unit(unit) for unit in _CLDR_UNITS.split()],
        spans=[_unit(f"duration-{span}") for span in _CLDR_SPANS.split()],
        number=number,
    )


def _currency(code: str) -> Forms:
    from babel.numbers import get_currency_name

    one, many, en_one, en_many = (
        get_currency_name(code, count=n, locale=tag) for tag in ("de", "en") for n in (1, 2)
    )
    return one, many, en_one, en_many


def _unit(unit: str) -> Forms:
    from babel.units import format_unit

    shown = (format_unit(n, unit, length="long", locale=tag) for tag in ("de", "en") for n in (1, 2))
    one, many, en_one, en_many = (text.lstrip("0123456789\xa0 ") for text in shown)
    return one, many, en_one, en_many
