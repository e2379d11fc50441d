import subprocess
import sys

from zsg_jax.runtime import progress


def test_off_a_terminal_a_line_a_minute_tells_how_far_it_is(monkeypatch, capsys):
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    with progress.bar(1000, "embedding train", initial=100) as shown:
        for _ in range(300):
            clock[0] += 1
            shown.update()
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 5
        assert lines[-1].startswith("embedding train: 400 of 1,000 rows, 1 a second, 10 min left")
        shown.note("found")
        assert capsys.readouterr().err == "embedding train: found\n"
        clock[0] += 50
        shown.update()
    assert capsys.readouterr().err == ""


PULSE = """
import time
from zsg_jax.runtime import progress
progress.EVERY = 0.4
progress.pulse()
progress.say("compiling a program")
time.sleep(1)  # as one call of a compiler's, in which no line comes
progress.say("done")
time.sleep(0.2)
"""


def test_a_minute_without_a_line_is_told():
    ended = subprocess.run(
        [sys.executable, "-c", PULSE], capture_output=True, text=True, check=True, timeout=60
    )
    lines = ended.stderr.splitlines()
    assert (lines[0], lines[-1]) == ("compiling a program", "done")
    assert len(lines) > 2
    assert all(line.endswith("after: compiling a program") for line in lines[1:-1])


def test_lengths_of_time_are_told_as_people_say_them():
    assert [progress.duration(one) for one in (50, 600, 12_600)] == ["50 s", "10 min", "3.5 h"]
