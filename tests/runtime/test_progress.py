import subprocess
import sys

from zsg_jax.runtime import progress

BEGIN = """
import sys, time
from zsg_jax.runtime import progress
progress.say("begin")  # which imports jax
progress.EVERY = 0.2
"""
BARS = """
with progress.bar(1000, "embedding train", initial=100) as outer:
    time.sleep(0.6)
    outer.update(300)
    time.sleep(0.4)
    with progress.bar(None, "evaluation") as inner:
        time.sleep(1)  # as one call, in which nothing is counted
    with progress.working("compiling"):
        time.sleep(0.6)
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
time.sleep(1)  # as one call of a compiler's, in which no line comes
progress.say("done")
time.sleep(0.2)
"""


def ended(script):
    return subprocess.run(
        [sys.executable, "-c", BEGIN + script],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )


def told(script):
    return ended(script).stderr.splitlines()[1:]


def test_off_a_terminal_a_line_a_minute_tells_how_far_it_is():
    lines = told(BARS)
    assert lines[0] == "embedding train: 100 of 1,000 rows"
    assert any(
        one.startswith("embedding train: 400 of 1,000 rows, ") and one.endswith(" s left")
        for one in lines
    )
    assert {"evaluation: 0 rows", "compiling, 0 s so far"} < set(lines)
    assert lines[-1] == "embedding train: found"


def test_a_minute_without_a_line_is_told():
    lines = told(PULSE)
    assert (lines[0], lines[-1]) == ("compiling a program", "done")
    assert len(lines) > 2
    assert all(line.endswith("after: compiling a program") for line in lines[1:-1])


def test_lengths_of_time_are_told_as_people_say_them():
    assert [progress.duration(one) for one in (50, 600, 12_600)] == ["50 s", "10 min", "3.5 h"]


def test_where_standard_error_is_closed_work_goes_on():
    assert ended(CLOSED).stdout == "done\n"
