import gzip
import json

import jax
import pytest

from zsg_jax.runtime.errors import UserError
from zsg_jax.training import metrics
from zsg_jax.training.profile import FOLDER
from zsg_jax.workflows import study

RUN = "runs/tmta-nft-seed0"


def train(config, workdir):
    return study.run(config, workdir, command="test")


def traces(workdir):
    return sorted((workdir / RUN / FOLDER).glob("plugins/profile/*"))


def events(trace):
    """What Perfetto shows."""
    with gzip.open(trace / "perfetto_trace.json.gz") as file:
        return json.load(file)["traceEvents"]


def steps(trace):
    """The numbers of the steps in a trace, once in what Perfetto opens, once in XProf's file."""
    shown = [int(one["args"]["step_num"]) for one in events(trace) if one.get("name") == "train"]
    (file,) = trace.glob("*.xplane.pb")
    kept = [
        int(dict(event.stats)["step_num"])
        for plane in jax.profiler.ProfileData.from_file(str(file)).planes
        for line in plane.lines
        for event in line.events
        if event.name == "train"
    ]
    return sorted(shown), sorted(kept)


def test_the_steps_asked_for_are_traced_and_no_others(
    finished, small_config, read_metrics, tmp_path, capsys
):
    assert not traces(finished)
    # 3 and 6 are followed by an evaluation, 4 by a checkpoint.
    train(small_config(**{"training.profile_steps": (4, 6)}), tmp_path / "traced")
    (trace,) = traces(tmp_path / "traced")
    assert steps(trace) == ([4, 5, 6], [4, 5, 6])
    # XLA's products are in it: the steps themselves were traced, not only their names.
    assert any("dot" in one.get("name", "") for one in events(trace))
    assert f"profile of steps 4 to 6: {tmp_path / 'traced' / RUN / FOLDER}" in (
        capsys.readouterr().err
    )
    # Looking does not change what is seen.
    assert read_metrics(tmp_path / "traced" / RUN) == read_metrics(finished / RUN)


@pytest.mark.ci
@pytest.mark.slow
def test_a_run_stopped_within_a_trace_leaves_it_and_traces_what_is_left_when_it_goes_on(
    small_config, tmp_path, monkeypatch
):
    write = metrics.MetricsLog.write

    def interrupt(self, row):
        write(self, row)
        if (row["step"], row["kind"]) == (7, "train"):
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(metrics.MetricsLog, "write", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(small_config(**{"training.profile_steps": (7, 9)}), tmp_path)
    (first,) = traces(tmp_path)
    # The newest checkpoint is that of step 4; the key makes the workdir no other's.
    train(small_config(**{"training.profile_steps": (3, 6)}), tmp_path)
    (second,) = set(traces(tmp_path)) - {first}
    assert steps(second) == ([5, 6], [5, 6])


def test_steps_that_no_run_takes_are_refused_before_training(small_config, tmp_path):
    with pytest.raises(UserError, match=r"but tmta-nft trains 10 steps; give steps from 1 to 10"):
        train(small_config(**{"training.profile_steps": (10, 11)}), tmp_path)
    assert not (tmp_path / "runs").exists()
