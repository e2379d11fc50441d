import re
import subprocess
import sys
import tempfile

import pytest

from zsg_jax.runtime import progress

BEGIN = """
import os, sys, time
from zsg_jax.runtime import progress
progress.say("begin")  # which imports jax
progress.EVERY = 0.2
def until(said):  # as long as work may take that says nothing itself
    while said not in os.pread(2, 10_000, 0).decode():
        time.sleep(0.01)
"""
BARS = """
with progress.bar(1000, "embedding train", initial=100) as outer:
    until("100 of 1,000 rows")
    outer.update(300)
    until("400 of 1,000 rows, ")
    with progress.bar(None, "evaluation") as inner:
        until("evaluation: 0 rows")  # as one call, in which nothing is counted
    with progress.working("compiling"):
        until("compiling, ")
    outer.note("found")
time.sleep(1)  # of a library, whose caller is at work
"""
CLOSED = """
sys.stderr.close()
with progress.bar(3, "a"), progress.working("b"):
    progress.say("c")
print("done")
"""
PULSE = """
progress.pulse()
progress.say("compiling a program")
until("after: compiling a program")  # as one call of a compiler's, in which no line comes
progress.EVERY = 60
progress.say("done")
"""


def ended(script):
    with tempfile.TemporaryFile("w+") as said:
        command = [sys.executable, "-c", BEGIN + script]
        told = {"stdout": subprocess.PIPE, "stderr": said, "text": True}
        done = subprocess.run(command, **told, check=True, timeout=60)
        said.seek(0)
        return done.stdout, said.read()


def told(script):
    return ended(script)[1].splitlines()[1:]


def test_off_a_terminal_a_line_a_minute_tells_how_far_it_is():
    lines = told(BARS)
    assert lines[0] == "embedding train: 100 of 1,000 rows"
    assert any(
        one.startswith("embedding train: 400 of 1,000 rows, ") and one.endswith(" s left")
        for one in lines
    )
    assert "evaluation: 0 rows" in lines
    assert any(re.fullmatch(r"compiling, (\d+|less than 1) s so far", one) for one in lines)
    assert lines[-1] == "embedding train: found"


def test_a_minute_without_a_line_is_told():
    lines = told(PULSE)
    assert (lines[0], lines[-1]) == ("compiling a program", "done")
    assert len(lines) > 2
    assert all(line.endswith("after: compiling a program") for line in lines[1:-1])


def test_lengths_of_time_are_told_as_people_say_them():
    assert [progress.duration(one) for one in (50, 600, 12_600)] == ["50 s", "10 min", "3.5 h"]
    assert progress.duration(0) == "0 s" != progress.duration(0.4)


@pytest.mark.parametrize("share", [0, 1e-5, 0.0004, 0.125, 0.9, 0.9996, 1, 1.0004, 1.5, 30.0])
def test_a_share_is_told_by_as_many_digits_as_tell_it_from_none_and_from_all(share):
    told = float(progress.percent(share).removesuffix("%")) / 100
    assert told == pytest.approx(share, abs=6e-4)
    assert (told == 0, told > 1, told < 1) == (share == 0, share > 1, share < 1)


def test_where_standard_error_is_closed_work_goes_on():
    assert ended(CLOSED)[0] == "done\n"
