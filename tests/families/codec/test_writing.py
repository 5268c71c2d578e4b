import pytest

from tinsmith.families.codec import writing


def test_words_in_lower_case_without_their_spaces() -> None:
    assert writing.words("It's 5 o'clock, Tin!") == ["it", "'", "s", "5", "o", "'", "clock", ",", "tin", "!"]


@pytest.mark.skipif(not writing.has_sacrebleu(), reason="sacrebleu is not installed")
def test_bleu_does_not_see_the_case() -> None:
    texts = ["The tin smith mends old pots.", "A good house"]
    assert writing.score_texts([text.lower() for text in texts], texts)["bleu"] == pytest.approx(100)
    assert writing.score_texts(["x y z w"], ["a b c d"])["bleu"] < 10


def test_diversity_and_duplicates() -> None:
    assert writing.diversity(["a b a b"]) == pytest.approx(2 / 3)
    assert writing.diversity([""]) == 0
    assert writing.duplicates(["A tin.", "a tin .", "b"]) == pytest.approx(1 / 3)
    assert writing.exact(["A tin.", "b"], ["a tin .", "c"]) == 0.5
    assert set(writing.score_texts(["a"], ["a"])) - {"bleu"} == {"exact", "diversity", "duplicates"}
