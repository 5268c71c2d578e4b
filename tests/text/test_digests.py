"""Digests: what must change them does, and nothing else."""

from pathlib import Path

import xxhash

from tinsmith.text.digests import TextDigest, file_digest, value_digest


def digest(*texts: str) -> str:
    taken = TextDigest()
    for text in texts:
        taken.update(text)
    return taken.hexdigest()


def test_texts_do_not_run_into_each_other() -> None:
    every = [digest(), digest(""), digest("ab", "c"), digest("a", "bc"), digest("abc"), digest("c", "ab")]
    assert len({*every}) == len(every)
    assert digest("ab", "c") == digest("ab", "c")


def test_watching_passes_texts_on_and_counts_them() -> None:
    taken = TextDigest()
    assert list(taken.watch(["é", "b"])) == ["é", "b"]
    assert (taken.hexdigest(), taken.count) == (digest("é", "b"), 2)


def test_files_and_values(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"tin")
    assert file_digest(tmp_path / "a") == xxhash.xxh3_128_hexdigest(b"tin")
    assert value_digest({"a": 1, "b": 2}) == value_digest({"b": 2, "a": 1}) != value_digest({"a": 1, "b": 3})
