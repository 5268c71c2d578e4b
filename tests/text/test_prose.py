"""Prose: what is kept of a document, and where sentences end. Values worked by hand."""

import pytest

from tinsmith.text.prose import normalised, paragraphs, sentences

DOCUMENT = """\
Assignment statements
=====================

The *target* is evaluated by :func:`eval`, then ``bound`` to its
left-hand side; see `PEP 8 <https://peps.python.org>`_ [1]_.

    >>> x = 1
    x

Usage::

    anything at all
      even this text.

After the literal block it goes on.

- The first item is quote-
  delimited text.
- The “second” item’s text.

:param name: The name of the file that is read.

stmt ::= "assert" expression

+------+-----+
| name | use |
+------+-----+

Arguments:
    name    what it is called

if __debug__:
    raise AssertionError(name)
"""


def test_paragraphs_keep_prose_and_drop_the_rest() -> None:
    assert list(paragraphs(DOCUMENT)) == [
        "The target is evaluated by eval, then bound to its left-hand side; see PEP 8.",
        "Usage",
        "After the literal block it goes on.",
        "The first item is quote-delimited text.",
        'The "second" item\'s text.',
        "The name of the file that is read.",
        "Arguments:",
    ]


def test_sentences_end_where_they_end() -> None:
    text = (
        "Use a list, e.g. This one, or a tuple. Is that clear to you? See Fig. 3 for the rest of it. "
        "The version is 3.11 and not older. (It was written by J. Smith for the U.S. Navy.) "
        'He said "it is over." Then the file was closed.'
    )
    assert list(sentences(text)) == [
        "Use a list, e.g. This one, or a tuple.",
        "Is that clear to you?",
        "See Fig. 3 for the rest of it.",
        "The version is 3.11 and not older.",
        "(It was written by J. Smith for the U.S. Navy.)",
        'He said "it is over."',
        "Then the file was closed.",
    ]


@pytest.mark.parametrize(
    "bad",
    [
        "Close the file.",  # three words
        " ".join(["The"] * 41) + " end.",
        "the file is closed when it ends.",
        "A sentence that has no end of its own",
        "The value is x = 5 in the file.",
        "The parenthesis (of the sentence is open.",
        "See https://python.org for all of the details.",
        "XXX This is a hack for the time being.",
        "Bytes bytearray memoryview array buffer struct.",  # names, no sentence
        "The a.b of c.d in e.f is a name.",
        "The server. data can be a string or it is bytes.",
    ],
)
def test_what_does_not_read_as_english_is_dropped(bad: str) -> None:
    assert list(sentences(bad)) == []


def test_normalised_ignores_case_and_spaces() -> None:
    assert normalised("  The\tSTRASSE \n") == normalised("the straße") == "the strasse"
