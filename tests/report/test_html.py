"""The page of a run and of several: self-contained, escaped, small, and honest about what is missing."""

import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tinsmith.engine.loggers import JsonlLogger
from tinsmith.errors import DataError
from tinsmith.report import folder, write_report
from tinsmith.report.tables import cell, number

EVIL = "<script>alert('x')</script>"


@pytest.fixture(autouse=True)
def known_family(monkeypatch):
    defaults = {"seed": "42", "optimizer.lr": "0.001", "optimizer.weight_decay": "0.01"}
    monkeypatch.setattr(folder, "default_config", lambda family: defaults)


def make_run(path: Path, steps: int = 2000, lr: float = 1e-3, cosine: float = 0.9) -> Path:
    """A run folder with everything that a run can leave."""
    path.mkdir(parents=True)
    log = JsonlLogger(path / "metrics.jsonl")
    for step in range(1, steps + 1):
        log(
            {
                "epoch": 1,
                "loss": 1 / step,
                "lr": lr,
                "grad_norm": 1.0,
                "samples_per_sec": 800.0 + step % 3,
                "depth": 2,
            },
            step,
            "train",
        )
        if step % 100 == 0:
            log({"epoch": 1, "loss": 2 / step, "cosine": cosine * step / steps}, step, "val")
    log.close()
    info = {
        "family": "codec",
        "argv": ["tinsmith", "train", "codec"],
        "status": "done",
        "seconds": 130.0,
        "started": "2026-11-20T20:30:41.123+01:00",
        "versions": {"torch": "2.13.0"},
        "best": {"name": "cosine", "value": cosine, "step": steps},
    }
    (path / "run.json").write_text(json.dumps(info))
    (path / "config.yaml").write_text(f"seed: 42\noptimizer:\n  lr: {lr}\n  weight_decay: 0.01\n")
    (path / "eval").mkdir()
    rows = [{"name": "codec", "cosine": cosine}, {"name": "static average", "cosine": 0.7}]
    (path / "eval" / "test.json").write_text(
        json.dumps({"split": "test", "rows": rows, "metrics": rows[0], "seconds": 1.5})
    )
    examples = [{"title": "Pairs", "columns": ["text", "cosine"], "rows": [[EVIL, 0.5]] * 60}]
    (path / "examples.json").write_text(json.dumps(examples))
    return path


class Page(HTMLParser):
    """Tags in order, attributes, and the text of the page outside style and script."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "action", "srcset")]
        if tag not in ("meta", "link", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data) -> None:
        if self.open[-1:] not in (["style"], ["script"]):
            self.text += data + "\n"


def test_the_page_of_a_run_has_every_section(tmp_path):
    path = write_report([make_run(tmp_path / "codec" / "0007")])
    assert path == tmp_path / "codec" / "0007" / "report.html"
    page = Page(path)
    assert page.open == []
    titles = re.findall(r"<h2>(.*?)</h2>", path.read_text())
    assert titles == ["Curves", "Evaluation", "Examples", "Settings", "Environment", "Next"]
    for text in (
        "codec/0007",
        "done",
        "best cosine",
        "0.9",
        "at step 2,000",
        "2026-11-20 20:30:41",
        "02:10",
        "static average",
    ):
        assert text in page.text
    curves = re.findall(r"<figcaption><b>(.*?)</b>", path.read_text())
    assert curves == [
        "loss",
        "cosine",
        "depth",
        "learning rate",
        "gradient norm",
        "samples per second",
    ]
    assert f"tinsmith eval {tmp_path}/codec/0007" in page.text
    assert "All 20 validations" in page.text
    assert "versions.torch" in page.text


def test_the_page_is_one_small_file_without_requests(tmp_path):
    path = write_report([make_run(tmp_path / "codec" / "0007")])
    text = path.read_text()
    assert len(text) < 150_000
    assert Page(path).links == ["data:,"]
    assert "http" not in text.replace("http-equiv", "")
    assert "url(" not in text
    assert "@import" not in text
    assert "default-src 'none'" in text
    assert len(re.search(r"<script>\n(.*?)</script>", text, re.DOTALL).group(1).splitlines()) <= 30
    assert max(len(points.split()) for points in re.findall(r'<polyline points="(.*?)"', text)) <= 400


def test_what_a_run_wrote_is_escaped(tmp_path):
    run = make_run(tmp_path / EVIL.replace("/", "_"))
    info = json.loads((run / "run.json").read_text())
    info |= {"family": EVIL, "status": EVIL, "argv": [EVIL], "note": EVIL, "device": EVIL}
    info["best"] = {"name": EVIL, "value": 1.0}
    (run / "run.json").write_text(json.dumps(info))
    (run / "error.txt").write_text(EVIL)
    (run / "config.yaml").write_text(f"{json.dumps(EVIL)}: {json.dumps(EVIL)}\nseed: {json.dumps(EVIL)}\n")
    (run / "eval" / "x.json").write_text(json.dumps({"split": EVIL, "rows": [{EVIL: EVIL}], EVIL: EVIL}))
    (run / "examples.json").write_text(json.dumps([{"title": EVIL, "columns": [EVIL], "rows": [[EVIL]]}]))
    log = JsonlLogger(run / "metrics.jsonl")
    log({EVIL: 1.0}, 2001, "val")
    log({EVIL: 1.0}, 2001, "train")
    log.close()
    for runs in ([run], [run, run]):
        page = Page(write_report(runs, tmp_path / "page.html"))
        assert page.tags.count("script") == 1
        assert EVIL in page.text


def test_a_run_that_crashed_before_its_first_step_says_what_is_missing(tmp_path):
    run = tmp_path / "codec" / "0001"
    run.mkdir(parents=True)
    (run / "error.txt").write_text("Traceback\nRuntimeError: boom\n")
    page = Page(write_report([run]))
    for text in ("failed", "no metrics.jsonl", "no run.json", "no config.yaml", "RuntimeError: boom"):
        assert text in page.text
    assert f"tinsmith resume {run}" in page.text
    assert "svg" not in page.tags


def test_a_diverged_run_shows_where(tmp_path):
    run = make_run(tmp_path / "codec" / "0001", steps=100)
    log = JsonlLogger(run / "metrics.jsonl")
    log({"loss": math.nan}, 101, "train")
    log.close()
    assert "1 not finite, first at step 101" in Page(write_report([run])).text


def test_settings_that_differ_from_the_defaults_come_first(tmp_path):
    text = write_report([make_run(tmp_path / "codec" / "0007", lr=3e-3)]).read_text()
    first, everything = text[text.index("<h2>Settings") : text.index("<h2>Environment")].split("<details>")
    assert re.findall(r"<code>(.*?)</code>", first) == ["optimizer.lr"]
    assert re.findall(r"<td>(.*?)</td>", first)[1:] == ["0.003", "0.001"]
    assert re.findall(r"<code>(.*?)</code>", everything) == ["seed", "optimizer.lr", "optimizer.weight_decay"]


def test_long_tables_and_texts_are_cut_with_a_word(tmp_path):
    run = make_run(tmp_path / "codec" / "0007")
    rows = [["x" * 10_000]] * 500
    (run / "examples.json").write_text(json.dumps([{"title": "long", "columns": ["t"], "rows": rows}]))
    (run / "error.txt").write_text("y" * 1_000_000)
    path = write_report([run])
    assert path.stat().st_size < 500_000
    text = path.read_text()
    assert text.count("<td>" + "x" * 600 + " …</td>") == 50
    assert "and 450 more in examples.json" in text


def test_several_runs_are_compared(tmp_path):
    a = make_run(tmp_path / "codec" / "0007", cosine=0.8)
    b = make_run(tmp_path / "codec" / "0008-big", cosine=0.9, lr=3e-3)
    path = write_report([a, b])
    assert path == tmp_path / "codec" / "compare-0007-0008-big.html"
    text = path.read_text()
    page = Page(path)
    assert page.open == []
    best = re.search(r'<table class="legend">.*?</table>', text).group()
    assert re.findall(r"<th>(.*?)</th>", best) == [
        "run",
        "status",
        "steps",
        "wall time",
        "loss ↓",
        "cosine ↑",
    ]
    assert re.findall(r"<strong>(\S+) ", best) == ["0.001", "0.001", "0.9"]  # a tie in the loss, b's cosine
    differing = text[text.index("<h2>Settings that differ") : text.index("<h2>Curves")]
    assert re.findall(r"<td>(.*?)</td>", differing) == ["<code>optimizer.lr</code>", "0.001", "0.003"]
    loss = re.search(r"<figcaption><b>loss, validation.*?</figure>", text).group()
    assert re.findall(r'data-label="(.*?)"', loss) == ["codec/0007", "codec/0008-big"]


def test_forty_runs_stay_below_500_kb(tmp_path):
    runs = [make_run(tmp_path / "codec" / f"{n:04d}", steps=300) for n in range(40)]
    assert write_report(runs).stat().st_size < 500_000


def test_no_run_is_an_error(tmp_path):
    with pytest.raises(DataError, match="needs a run folder"):
        write_report([])
    with pytest.raises(DataError, match="no run folder at"):
        write_report([tmp_path / "none"])


def test_a_report_replaces_the_one_before_in_one_step(tmp_path):
    run = make_run(tmp_path / "codec" / "0007", steps=10)
    (run / "report.html").write_text("old")
    write_report([run])
    assert (run / "report.html").read_text().startswith("<!doctype html>")
    assert not list(run.glob(".report*"))


def test_writing_a_report_imports_no_torch(tmp_path):
    run = make_run(tmp_path / "codec" / "0007", steps=10)
    script = (
        "import sys; from tinsmith.report import write_report\n"
        f"write_report([{str(run)!r}])\n"
        "assert not {'torch', 'numpy', 'matplotlib', 'tensorboard'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.87432, "0.8743"),
        (12345.6, "12,346"),
        (3e-4, "0.0003"),
        (3e-5, "3.00e-05"),
        (0.0, "0"),
        (7, "7"),
        (math.inf, "inf"),
    ],
)
def test_numbers_are_short(value, text):
    assert number(value) == text


def test_cells_hold_any_value():
    assert [cell(v) for v in (None, True, [1, "a<b"], "é")] == ["–", "true", "[1, &quot;a&lt;b&quot;]", "é"]
    assert cell("x" * 700).endswith("x …")
