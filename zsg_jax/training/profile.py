"""A trace of some steps of a run, which XProf, TensorBoard and Perfetto open."""

import datetime
from collections.abc import Sequence
from pathlib import Path

import jax

from zsg_jax.runtime.processes import is_first
from zsg_jax.runtime.progress import say

FOLDER = "profile"
# What a step is called in a trace; its number stands beside it.
NAME = "train"


class Profile:
    """Traces the steps `first` to `last`, both included, into `folder`; only process 0 writes.

    A run that goes on in the middle of them traces those that are left, and one that goes on after
    them nothing. An evaluation or a checkpoint that falls between two of them is in the trace too,
    outside every step.
    """

    def __init__(self, folder: Path, steps: Sequence[int]) -> None:
        """Takes `(first, last)`, or nothing for no trace.

        Args:
            folder: gets plugins/profile/TIME/ with HOST.xplane.pb and perfetto_trace.json.gz.
            steps: as `config.training.profile_steps`.
        """
        self._folder, self._steps, self._on = folder, tuple(steps), False

    def due(self, number: int) -> bool:
        """Whether the trace begins with this step: the one before must be over by then."""
        return bool(self._steps) and not self._on and self._steps[0] <= number <= self._steps[1]

    def start(self) -> None:
        """Begins to trace."""
        self._on = True
        if is_first():
            options = jax.profiler.ProfileOptions()
            # Calls of Python functions would be most of the trace, and slow the steps down.
            options.python_tracer_level = 0
            # By itself JAX names a trace by the second, and a run that goes on may need no longer.
            options.session_id = f"{datetime.datetime.now():%Y_%m_%d_%H_%M_%S_%f}"
            self._folder.mkdir(parents=True, exist_ok=True)
            jax.profiler.start_trace(
                self._folder, create_perfetto_trace=True, profiler_options=options
            )

    def step(self, number: int) -> jax.profiler.StepTraceAnnotation:
        """A context that names what happens in it as this step; costs nothing without a trace."""
        return jax.profiler.StepTraceAnnotation(NAME, step_num=number)

    def over(self, number: int) -> bool:
        """Whether the trace ends with this step, which must be over by then."""
        return self._on and number == self._steps[1]

    def close(self) -> None:
        """Ends and writes the trace, if one has begun; says where it is."""
        if not self._on:
            return
        self._on = False
        if is_first():
            jax.profiler.stop_trace()
            first, last = self._steps
            say(f"profile of steps {first} to {last}: {self._folder}")
