"""What a terminal, a pipe and CI get to see."""

import io
import re

import pytest

from tinsmith.engine import progress as progress_module
from tinsmith.engine.progress import Progress, clock

RECORD = {"epoch": 1, "loss": 1.23, "lr": 3e-4, "grad_norm": 2.0, "samples_per_sec": 812.4}


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.fixture
def time(monkeypatch) -> Clock:
    moved = Clock()
    monkeypatch.setattr(progress_module, "time", moved)
    for name in ("CI", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    return moved


def without_codes(text: str) -> str:
    return re.sub(r"\x1b\[\d*[mK]", "", text)


def test_a_pipe_gets_one_plain_line_per_record(time):
    stream = io.StringIO()
    progress = Progress(2000, stream)
    time.now += 100  # 500 steps in 100 s: 300 s for the other 1,500
    assert not progress.tick(499)
    progress.show(500, RECORD)
    progress.line("val loss 1.1000")
    progress.close()
    assert stream.getvalue() == (
        "step 500/2000 loss 1.2300 lr 3.0e-04 812 samples/s eta 05:00\nval loss 1.1000\n"
    )


def test_an_unknown_total_has_no_eta(time):
    stream = io.StringIO()
    progress = Progress(0, stream)
    time.now += 1
    progress.show(7, {"loss": float("nan"), "tokens_per_sec": 9.5})
    assert stream.getvalue() == "step 7 loss nan 9.5 tokens/s\n"


def test_the_time_left_counts_from_the_resumed_step(time):
    stream = io.StringIO()
    progress = Progress(2000, stream, start_step=1000)
    time.now += 10  # 100 steps in 10 s, 900 to go
    progress.show(1100, {})
    assert stream.getvalue() == "step 1100/2000 eta 01:30\n"


def test_a_terminal_is_redrawn_at_most_four_times_a_second(time):
    stream = Terminal()
    progress = Progress(2000, stream)
    for step in range(1, 1001):  # 1,000 steps of 1 ms
        time.now += 0.001
        if progress.tick(step):
            progress.show(step, RECORD)
    assert stream.getvalue().count("\r") == 4
    assert "\n" not in stream.getvalue()


def test_records_that_come_too_fast_wait_for_the_next_redraw(time):
    stream = Terminal()
    progress = Progress(2000, stream)
    for step in range(1, 101):
        time.now += 0.001
        progress.show(step, RECORD)
    assert stream.getvalue().count("\r") == 1
    progress.close()
    assert "100/2000" in stream.getvalue().split("\r")[-1]
    assert stream.getvalue().endswith("\n")


def test_a_line_goes_above_the_live_line(time):
    stream = Terminal()
    progress = Progress(2000, stream)
    progress.show(500, RECORD)
    progress.line("val cosine 0.81")
    erased, drawn = stream.getvalue().split("\r")[2:]
    assert erased == "\x1b[Kval cosine 0.81\n"
    assert without_codes(drawn).endswith("500/2000  loss 1.2300  lr 3.0e-04  812 samples/s  eta 00:00")


def test_the_live_line_never_wraps(time, monkeypatch):
    for columns in (10, 40, 60, 80, 200):
        monkeypatch.setattr(progress_module, "_columns", lambda stream, n=columns: n)
        stream = Terminal()
        Progress(2000, stream).show(500, RECORD)
        text = without_codes(stream.getvalue()).strip("\r")
        assert len(text) < columns
        assert ("━" in text) == (columns >= 80)


def test_the_bar_is_a_quarter_full_at_a_quarter(time, monkeypatch):
    monkeypatch.setattr(progress_module, "_columns", lambda stream: 120)
    monkeypatch.setenv("NO_COLOR", "1")
    stream = Terminal()
    Progress(2000, stream).show(500, RECORD)
    assert stream.getvalue().count("━") == 6
    assert "\x1b[3" not in stream.getvalue()


@pytest.mark.parametrize(("name", "value"), [("CI", "true"), ("TERM", "dumb")])
def test_ci_and_dumb_terminals_get_plain_lines(time, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    stream = Terminal()
    progress = Progress(10, stream)
    progress.show(5, {"loss": 1.0})
    assert not progress.tick(5)
    assert stream.getvalue().startswith("step 5/10 loss 1.0000")
    assert not set("\r\x1b") & set(stream.getvalue())


def test_force_color_paints_a_pipe_but_no_color_wins(time, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    stream = io.StringIO()
    Progress(10, stream).show(5, {})
    assert "\x1b[36mstep 5/10\x1b[0m" in stream.getvalue()
    assert "\r" not in stream.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    Progress(10, plain := io.StringIO()).show(5, {})
    assert "\x1b" not in plain.getvalue()


def test_a_stream_that_breaks_does_not_stop_the_training(time):
    class Gone(Terminal):
        def write(self, text: str) -> int:
            raise OSError(5, "Input/output error")

    progress = Progress(10, Gone())
    progress.show(1, RECORD)
    progress.line("more")
    progress.close()
    assert not progress.tick(2)


def test_nothing_is_written_after_close(time):
    stream = Terminal()
    progress = Progress(10, stream)
    progress.show(1, RECORD)
    progress.close()
    size = len(stream.getvalue())
    progress.close()
    assert len(stream.getvalue()) == size


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "00:00"), (59.2, "01:00"), (130, "02:10"), (3599, "59:59"), (3730, "1:02:10")]
)
def test_clock(seconds, text):
    assert clock(seconds) == text
