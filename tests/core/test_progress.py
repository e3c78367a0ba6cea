"""Progress of long stages: a bar on a terminal, a line a minute elsewhere, nothing before five seconds."""

import sys

import pytest

from mtcpo.core import progress
from mtcpo.core.errors import UserError
from mtcpo.core.progress import Progress, detail, note, set_verbosity, under_way


class Clock:
    """A clock that stands still unless a test moves it."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class Written:
    """What stderr has received so far."""

    def __init__(self, capsys):
        self._capsys, self._text = capsys, ""

    def getvalue(self):
        self._text += self._capsys.readouterr().err
        return self._text

    def last_bar(self):
        """Return the bar that is visible now, without the spaces that erase an older, longer one."""
        return self.getvalue().rpartition("\r")[2].rstrip()


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("tqdm.std.time", clock)
    return clock


@pytest.fixture
def terminal(capsys, monkeypatch):
    monkeypatch.setattr(type(sys.stderr), "isatty", lambda stream: True)
    monkeypatch.setenv("COLUMNS", "120")
    return Written(capsys)


@pytest.fixture
def log(capsys):
    return Written(capsys)


@pytest.fixture(autouse=True)
def normal_verbosity():
    yield
    set_verbosity()


def after(clock, seconds, stage, count):
    """Count items `seconds` later."""
    clock.now += seconds
    stage.update(count)


def test_a_log_file_gets_a_line_a_minute(clock, log):
    stage = Progress("training (sigmoid)", 1668, "steps", clock=clock)
    for _ in range(12):  # two minutes
        after(clock, 10, stage, 5)
        stage.show_figures({"loss": 0.52341})
    stage.close()
    assert log.getvalue().splitlines() == [
        "training (sigmoid): 30 of 1,668 steps, 0.5 steps/s, 55 min left, loss 0.523",
        "training (sigmoid): 60 of 1,668 steps, 0.5 steps/s, 54 min left, loss 0.523",
    ]


def test_steps_of_an_earlier_run_do_not_count_as_speed(clock, log):
    stage = Progress("training", 700, "steps", initial=600, clock=clock)
    after(clock, 60, stage, 20)
    # 20 steps in a minute: 80 are left, which take four. Were the 600 counted, it would be 8 seconds.
    assert log.getvalue() == "training: 620 of 700 steps, 0.333 steps/s, 4 min left\n"


def test_sources_that_are_skipped_do_not_count_as_speed(clock, log):
    with Progress("translating", 1000, "sources", clock=clock) as stage:
        under_way().skip(880)
        after(clock, 60, stage, 60)
    assert log.getvalue() == "translating: 940 of 1,000 sources, 1 sources/s, 1 min left\n"


def test_without_a_total_there_is_no_estimate(clock, log):
    stage = Progress("reading", unit="rows", clock=clock)
    after(clock, 60, stage, 1_200_000)
    assert log.getvalue() == "reading: 1,200,000 rows, 20,000 rows/s\n"


def test_the_bar_estimates_by_what_was_done_now(clock, terminal):
    stage = Progress("training", 700, "steps", initial=600, clock=clock)
    after(clock, 4, stage, 10)
    assert terminal.getvalue() == ""
    after(clock, 6, stage, 10)
    assert terminal.last_bar().startswith("training:  89%|")
    assert terminal.last_bar().endswith("| 620/700 [00:10<00:40,  2.00 steps/s]")
    after(clock, 10, stage, 20)
    assert terminal.last_bar().endswith("| 640/700 [00:20<00:30,  2.00 steps/s]")
    stage.close()
    assert terminal.last_bar() == ""


def test_a_bar_has_the_figures(clock, terminal):
    stage = Progress("training", 100, "steps", clock=clock)
    stage.show_figures({"loss": 0.52341, "accuracy": 0.75})
    after(clock, 10, stage, 10)
    assert terminal.last_bar().endswith(" 10/100 [00:10<01:30,  1.00 steps/s, loss=0.523, accuracy=0.75]")


def test_a_stage_shorter_than_five_seconds_shows_nothing(clock, terminal):
    with Progress("scoring", 100, "segments", clock=clock) as stage:
        after(clock, 4.9, stage, 100)
    assert terminal.getvalue() == ""


def test_a_stage_that_counts_nothing_shows_its_time(clock, log):
    stage = Progress("loading wmt22-comet-da", unit="", clock=clock)
    after(clock, 61, stage, 0)
    assert log.getvalue() == "loading wmt22-comet-da: 1 min so far\n"


def test_a_note_makes_room_for_itself(clock, terminal):
    stage = Progress("training", 100, "steps", clock=clock)
    after(clock, 10, stage, 10)
    note("step 10: chrf 31.2")
    assert "\rstep 10: chrf 31.2\n" in terminal.getvalue()
    assert " 10/100 " in terminal.last_bar()


@pytest.mark.parametrize("stream", ["terminal", "log"])
def test_quiet_shows_neither_progress_nor_notes(clock, stream, request):
    written = request.getfixturevalue(stream)
    set_verbosity(quiet=True)
    with Progress("training", 100, "steps", clock=clock) as stage:
        after(clock, 61, stage, 10)
        note("a note")
    assert written.getvalue() == ""


def test_only_the_first_process_shows_progress(clock, log, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with Progress("training", 100, "steps", clock=clock) as stage:
        after(clock, 61, stage, 10)
    assert log.getvalue() == ""


def test_verbose_prints_how_long_a_stage_took(clock, log):
    set_verbosity(verbose=True)
    with Progress("tokenizing", 100, "examples", clock=clock) as stage:
        after(clock, 3, stage, 100)
    detail("score cache: out/scores.sqlite3")
    assert log.getvalue() == "tokenizing: 100 examples in 3 s\nscore cache: out/scores.sqlite3\n"


def test_details_are_not_for_everyone(log):
    detail("score cache: out/scores.sqlite3")
    assert log.getvalue() == ""


def test_quiet_and_verbose_exclude_each_other():
    with pytest.raises(UserError, match=r"^--quiet and --verbose exclude each other; give one of them$"):
        set_verbosity(quiet=True, verbose=True)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59, "59 s"), (90, "2 min"), (3599, "1 h 0 min"), (12_000, "3 h 20 min")]
)
def test_durations_are_rounded_as_people_say_them(seconds, text):
    assert progress._duration(seconds) == text
