import re
from importlib.util import find_spec

import pytest

from tinsmith.errors import ConfigError, MissingExtraError
from tinsmith.families.seq2seq.config import DataConfig
from tinsmith.families.seq2seq.made import builtin_tables, cldr_tables, made_pairs
from tinsmith.families.seq2seq.numerals import english, german
from tinsmith.families.seq2seq.pairs import load_pairs


@pytest.mark.parametrize(
    ("n", "de", "en"),
    [
        (0, "null", "zero"),
        (1, "eins", "one"),
        (16, "sechzehn", "sixteen"),
        (17, "siebzehn", "seventeen"),
        (21, "einundzwanzig", "twenty-one"),
        (30, "dreißig", "thirty"),
        (99, "neunundneunzig", "ninety-nine"),
        (100, "einhundert", "one hundred"),
        (101, "einhunderteins", "one hundred one"),
        (717, "siebenhundertsiebzehn", "seven hundred seventeen"),
        (1000, "eintausend", "one thousand"),
        (1001, "eintausendeins", "one thousand one"),
        (21_121, "einundzwanzigtausendeinhunderteinundzwanzig", "twenty-one thousand one hundred twenty-one"),
        (101_000, "einhunderteintausend", "one hundred one thousand"),
        (
            999_999,
            "neunhundertneunundneunzigtausendneunhundertneunundneunzig",
            "nine hundred ninety-nine thousand nine hundred ninety-nine",
        ),
    ],
)
def test_numbers_in_words(n: int, de: str, en: str) -> None:
    assert (german(n), english(n)) == (de, en)


def test_no_two_numbers_have_one_name() -> None:
    for words in (german, english):
        assert len({words(n) for n in range(0, 1_000_000, 7)}) == len(range(0, 1_000_000, 7))
        with pytest.raises(ValueError, match="0 to 999,999"):
            words(1_000_000)


@pytest.mark.skipif(find_spec("num2words") is None, reason="num2words is not installed")
def test_numbers_as_num2words_has_them() -> None:
    from num2words import num2words

    for n in range(0, 1_000_000, 997):
        # num2words 0.5 says "einhunderteinstausend", Duden "einhunderteintausend"
        assert german(n) == num2words(n, lang="de").replace("einstausend", "eintausend")
        assert english(n) == num2words(n, lang="en").replace(" and ", " ").replace(",", "")


def test_pairs_are_different_and_always_the_same() -> None:
    pairs = made_pairs(3000, 1)
    assert len(pairs) == len({source for source, _ in pairs}) == 3000
    assert made_pairs(3000, 1) == pairs
    assert made_pairs(3000, 2) != pairs
    assert not any("{" in text or "_" in text for pair in pairs for text in pair)


def test_kinds_of_pairs_by_their_form() -> None:
    pairs = dict(made_pairs(5000, 0))
    months = dict(builtin_tables().months)
    dates = [(s, t) for s, t in pairs.items() if re.fullmatch(r"\d+\. \w+ \d{4}", s)]
    assert dates
    for source, target in dates:
        day, month, year = re.fullmatch(r"(\d+)\. (\w+) (\d{4})", source).groups()  # type: ignore[union-attr]
        assert target == f"{months[month]} {day}, {year}"
    times = [(s, t) for s, t in pairs.items() if re.fullmatch(r"\d+:\d\d Uhr", s)]
    for source, target in times:
        hour, minute = (int(x) for x in source[:-4].split(":"))
        h, rest = target.split(":")
        m, half = rest.split(" ")
        assert (int(h) % 12 + 12 * (half == "PM"), int(m)) == (hour, minute)
    assert pairs.get("0:05 Uhr", "12:05 AM") == "12:05 AM"
    money = [(s, t) for s, t in pairs.items() if re.fullmatch(r"[\d.]+,\d\d Euro", s)]
    for source, target in money:
        assert float(source[:-5].replace(".", "").replace(",", ".")) == float(target[:-6].replace(",", ""))


def test_the_tables_are_one_to_one() -> None:
    tables = builtin_tables()
    for rows in (tables.months, tables.weekdays, tables.territories, tables.languages):
        assert len({de for de, _ in rows}) == len(rows)
        assert len({en for _, en in rows}) == len(rows)
    assert len(tables.territories) >= 50
    assert dict(tables.territories)["Südkorea"] == "South Korea"
    for forms in (*tables.currencies, *tables.units, *tables.spans):
        assert len(forms) == 4


def test_splits_share_no_source() -> None:
    parts = load_pairs(DataConfig(pairs=2000), 0)
    splits = [{source for source, _ in part} for part in (parts.train, parts.valid, parts.test)]
    assert sum(map(len, splits)) == len(set().union(*splits))
    assert len(splits[1]) > 10


def test_more_than_there_are_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinsmith.families.seq2seq.made.MAKERS", [lambda rng, words: ("a", "b")])
    monkeypatch.setattr("tinsmith.families.seq2seq.made.WEIGHTS", [1])
    with pytest.raises(ConfigError, match="only 1 different"):
        made_pairs(10, 0)


@pytest.mark.skipif(
    find_spec("babel") is None or find_spec("num2words") is None, reason="Babel is not installed"
)
def test_the_tables_of_cldr() -> None:
    tables = cldr_tables()
    assert ("Deutschland", "Germany") in tables.territories
    assert ("März", "March") in tables.months
    assert tables.weekdays[0] == ("Montag", "Monday")
    assert ("Kilometer", "Kilometer", "kilometer", "kilometers") in tables.units
    assert ("Stunde", "Stunden", "hour", "hours") in tables.spans
    assert tables.number(21)[0] == "einundzwanzig"
    assert len(made_pairs(2000, 0, "cldr")) == 2000


@pytest.mark.skipif(find_spec("babel") is not None, reason="Babel is installed")
def test_without_babel_the_pip_line_is_shown() -> None:
    with pytest.raises(MissingExtraError, match=r"tinsmith\[cldr\]"):
        made_pairs(10, 0, "cldr")
