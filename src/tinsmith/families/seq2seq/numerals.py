"""Numbers in words, German and English (American: without "and"), from 0 below a million."""

_DE = ["null", "eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun", "zehn", "elf"]
_DE += ["zwölf", "dreizehn", "vierzehn", "fünfzehn", "sechzehn", "siebzehn", "achtzehn", "neunzehn"]
_DE_TENS = ["", "", "zwanzig", "dreißig", "vierzig", "fünfzig", "sechzig", "siebzig", "achtzig", "neunzig"]
_EN = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven"]
_EN += ["twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"]
_EN_TENS = ["", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]


def german(n: int) -> str:
    """``german(21) == "einundzwanzig"``; at the end of a number one is "eins"."""
    if not 0 <= n < 1_000_000:
        raise ValueError(f"n={n} is not allowed: 0 to 999,999")
    if n < 20:
        return _DE[n]
    thousands, rest = divmod(n, 1000)
    head = _german_part(thousands, "ein") + "tausend" if thousands else ""
    return head + _german_part(rest, "eins")


def _german_part(n: int, one: str) -> str:
    """Below a thousand, nothing for 0; ``one`` is what a last one is called: "eins", or "ein" in front."""
    hundreds, rest = divmod(n, 100)
    head = ("ein" if hundreds == 1 else _DE[hundreds]) + "hundert" if hundreds else ""
    if rest == 0:
        return head
    if rest == 1:
        return head + one
    if rest < 20:
        return head + _DE[rest]
    tens, ones = divmod(rest, 10)
    front = ("ein" if ones == 1 else _DE[ones]) + "und" if ones else ""
    return head + front + _DE_TENS[tens]


def english(n: int) -> str:
    """``english(1234) == "one thousand two hundred thirty-four"``."""
    if not 0 <= n < 1_000_000:
        raise ValueError(f"n={n} is not allowed: 0 to 999,999")
    if n < 20:
        return _EN[n]
    if n < 100:
        tens, ones = divmod(n, 10)
        return _EN_TENS[tens] + (f"-{_EN[ones]}" if ones else "")
    for size, name in ((1000, "thousand"), (100, "hundred")):
        if n >= size:
            head, rest = divmod(n, size)
            return f"{english(head)} {name}" + (f" {english(rest)}" if rest else "")
    raise AssertionError("a number below a hundred was answered above")
