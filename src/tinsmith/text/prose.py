"""Prose out of documentation: paragraphs of plain text or reST, and the sentences in them."""

import re
from collections.abc import Iterator

MIN_WORDS, MAX_WORDS = 4, 40

_START = re.compile(r"(?:[-*+o•]|\(?(?:\d{1,2}|[a-z])[.)])\s+|:\w+(?: [^:`]+)?:\s+|@\w+(?: \w+)?:?\s+")
_NOT_PROSE = re.compile(
    r"^\s*(?:>>>|\.\.\.|\$ |% |#|@|\.\. |[|+])"  # prompts, directives, tables
    r"|^\s*([=~\-*^#_+.])\1{2,}"  # rules below titles and around tables
    r"|\S {3,}\S|::=|[{};\\]\s*$|[|+]\s*$"  # columns, grammar, code
    r"|(?:^|\s)(?:[-+*/|&%]|:|==?|!=|<|>|<=|>=|->|<-|=>)?=?=?(?:=|->|=>|<=|>=)(?:\s|$)"
    r"|^\s*(?:def|class|import|from|for|while|if|elif|else|try|except|finally|with|return|raise|print)\b.*[:)(]\s*$"
    r"|^\s*[\w.]+\(.*\)\s*$"
)
_MARKUP = [
    (re.compile(r":[a-z:+]+:`~?!?([^`<]+?)(?:\s*<[^>`]*>)?`"), r"\1"),  # :func:`open`
    (re.compile(r"`([^`<]+?)\s*<[^>`]*>`_+"), r"\1"),  # `text <link>`_
    (re.compile(r"``([^`]+)``|`([^`']+)[`']_{0,2}"), r"\1\2"),
    (re.compile(r"(?<![\w*])(\*{1,2})(?=[^\s*])([^*]+?)(?<=[^\s*])\1(?![\w*])"), r"\2"),
    (re.compile(r"\s*\[(?:\d+|#\w*)\]_?"), ""),  # footnotes
    (re.compile(r"\"(\w*[._]\w[\w.]*(?:\(\))?|\w+\(\))\""), r"\1"),  # the topics quote code
    (re.compile(r"\s+(?=[,.;:!?](?:\s|$))"), ""),
    (re.compile(r"\s+"), " "),
]
_TYPOGRAPHY = str.maketrans(
    {"“": '"', "”": '"', "‘": "'", "’": "'", "–": "-", "—": "-", "…": "...", "\xa0": " "}
)

_END = re.compile(r"[.!?][)\"']*\s+(?=[\"'(]?[A-Z0-9])")
_ABBREVIATION = re.compile(
    r"(?:^|[\s(\"'])(?:e\.?g|i\.?e|etc|vs|cf|viz|al|mr|mrs|dr|st|no|nos|fig|sec|sect|ch|vol|pp?|approx|resp|incl"
    r"|esp|inc|ltd|ca|jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec|[A-Za-z](?:\.[A-Za-z])*)\.$",
    re.IGNORECASE,
)
_WORD = re.compile(r"[(\"']*[A-Za-z]+(?:['/-][A-Za-z]+)*[)\"']*[,.;:!?]*[)\"']*")
_CODE = re.compile(
    r"[<>{}\[\]=|\\^~@$`]|::|://|(?<!\w)_\w|#\d|\b(?:XXX|TODO|FIXME|BAW)\b"
    r"|(?<!\betc)(?<=[a-z]{3})\. [\"']?[a-z]"  # a sentence that starts with a name in lower case
)
# What looks like a name: two may stand in a sentence.
_NAME = re.compile(r"[#%&*]|__|\.\.\.|\w_\w|\w\(|[a-z][A-Z]|\w\.\w|/\w+/")
_COMMON = re.compile(
    r"\b(?:a|an|the|of|to|in|is|are|was|were|be|been|it|its|this|that|these|those|and|or|but|not|no|with"
    r"|for|from|by|as|on|at|if|when|which|who|will|would|can|could|should|may|must|has|have|had|do"
    r"|does|there|they|you|your|we|their|them|than|then|so|any|all)\b",
    re.IGNORECASE,
)


def paragraphs(document: str) -> Iterator[str]:
    """The paragraphs and list items of a document, each on one line and without markup.

    Titles, code, doctests, tables, directives, grammar and literal blocks (after ``::``) are left out.
    """
    block: list[str] = []
    literal = -1  # the indent that a literal block must exceed; -1: not in one
    for line in [*document.translate(_TYPOGRAPHY).expandtabs().splitlines(), ""]:
        if literal >= 0 and line.strip():
            if _indent(line) > literal:
                continue
            literal = -1
        if block and (not line.strip() or _starts(block, line)):
            literal = _indent(block[0]) if block[-1].rstrip().endswith("::") else -1
            yield from _joined(block)
            block = []
        if line.strip():
            block.append(line)


def sentences(paragraph: str) -> Iterator[str]:
    """The sentences of a paragraph that read as English: 4 to 40 words, hardly any code, balanced quotes."""
    start = 0
    for end in _END.finditer(paragraph):
        if not _ABBREVIATION.search(paragraph[start : end.start() + 1]):
            yield from _english(paragraph[start : end.end()].strip())
            start = end.end()
    yield from _english(paragraph[start:].strip())


def normalised(text: str) -> str:
    """The text for comparisons: case folded, white space collapsed."""
    return " ".join(text.casefold().split())


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _starts(block: list[str], line: str) -> bool:
    """Whether ``line`` starts a new paragraph without a blank line before it."""
    indent, first = _indent(line), _indent(block[0])
    if _START.match(line.lstrip()) or indent < first:
        return True
    if len(block) == 1:  # a hanging indent continues, what follows "Arguments:" does not
        return indent > first and block[0].rstrip().endswith(":")
    return indent != _indent(block[-1])


def _joined(block: list[str]) -> Iterator[str]:
    if any(_NOT_PROSE.search(line) for line in block):
        return
    text = block[0].strip()
    for line in block[1:]:
        broken = text.endswith("-") and text[-2:-1].isalpha() and line.strip()[0].islower()
        text += ("" if broken else " ") + line.strip()
    text = _START.sub("", text, count=1) if _START.match(text) else text
    for pattern, replacement in _MARKUP:
        text = pattern.sub(replacement, text)
    yield text.strip().removesuffix("::")


def _english(sentence: str) -> Iterator[str]:
    words = sentence.split()
    if not (MIN_WORDS <= len(words) <= MAX_WORDS and re.match(r"[\"'(]?[A-Z]", sentence)):
        return
    if not re.search(r"[a-z][)\"']*[.!?][)\"']*$", sentence) or _ABBREVIATION.search(sentence[:-1] + "."):
        return
    if _CODE.search(sentence) or len(_NAME.findall(sentence)) > 2:
        return
    balanced = sentence.count("(") == sentence.count(")") and sentence.count('"') % 2 == 0
    plain = sum(bool(_WORD.fullmatch(word)) for word in words)
    if balanced and plain >= 0.8 * len(words) and len(_COMMON.findall(sentence)) >= 0.15 * len(words):
        yield sentence
