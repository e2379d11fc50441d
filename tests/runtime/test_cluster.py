"""Who is joined and who is not, what a wrong flag is told, and what a missing process is."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsg_jax.runtime import cluster
from zsg_jax.runtime.errors import UserError

SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "a[1-2]",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
    "SLURM_NTASKS": "2",
}
MPI = {"OMPI_MCA_orte_hnp_uri": "1.0;tcp://10.0.0.1:1", "OMPI_COMM_WORLD_SIZE": "2"}
JOBSET = {
    "KUBERNETES_SERVICE_HOST": "10.0.0.1",
    "JOBSET_NAME": "study",
    "JOB_COMPLETION_INDEX": "0",
}
CLUSTERS = [
    (SLURM, "Slurm"),
    (SLURM | {"SLURM_NTASKS": "1"}, None),
    ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8"}, None),  # in the batch script, not in a step
    (MPI, "Open MPI"),
    (MPI | {"OMPI_COMM_WORLD_SIZE": "1"}, None),
    ({"TPU_WORKER_HOSTNAMES": "host-0,host-1", "TPU_WORKER_ID": "0"}, "TPU"),
    ({"TPU_PROCESS_ADDRESSES": "host-0:8476,host-1:8476", "TPU_WORKER_ID": "0"}, "TPU"),
    ({"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}, None),
    ({"TPU_WORKER_HOSTNAMES": "host-0", "MEGASCALE_NUM_SLICES": "2"}, "TPU"),
    ({"TPU_WORKER_HOSTNAMES": "localhost"} | JOBSET, None),
    (JOBSET, "JobSet"),
    ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, None),
    ({}, None),
]


@pytest.mark.parametrize(("environment", "expected"), CLUSTERS)
def test_a_cluster_shows_itself_by_more_than_one_process(environment, expected):
    assert cluster.detect(environment) == expected


@pytest.mark.parametrize("environment", [case for case, name in CLUSTERS if name])
def test_off_and_a_single_process_join_nothing(environment, monkeypatch):
    monkeypatch.setattr("jax.distributed.initialize", lambda *a, **k: pytest.fail("joined"))
    seconds = {"initialization_timeout": 5, "heartbeat_timeout_seconds": 5}
    nobody = cluster.Process(None, None, None)
    assert not cluster.join("off", nobody, environment=environment, **seconds)
    alone = cluster.Process("127.0.0.1:9", 1, 0)
    assert not cluster.join("auto", alone, environment=environment, **seconds)
    assert not cluster.join("auto", nobody, environment={}, **seconds)


@given(
    st.none() | st.sampled_from(["10.0.0.1:8476", "[::1]:8476", "host", "host:", ":80", "h:0"]),
    st.none() | st.integers(-1, 3),
    st.none() | st.integers(-1, 3),
)
def test_a_process_is_refused_unless_it_is_whole_and_in_range(address, count, index):
    process = cluster.Process(address, count, index)
    fields = [address, count, index]
    whole = None not in fields and address in ("10.0.0.1:8476", "[::1]:8476") and 0 <= index < count
    joined = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jax.distributed.initialize", lambda *a, **k: joined.append(a))
        seconds = {"initialization_timeout": 60, "heartbeat_timeout_seconds": 60}
        if whole or fields == [None] * 3:
            cluster.join("auto", process, environment={}, **seconds)
            assert joined == ([(address, count, index)] if whole and count > 1 else [])
        else:
            with pytest.raises(
                UserError, match=r"^--(coordinator_address|num_processes|process_id)"
            ):
                cluster.join("auto", process, environment={}, **seconds)
            assert not joined


@pytest.mark.ci
@pytest.mark.slow
def test_a_missing_process_and_a_broken_cluster_are_told_in_one_line(commands, tmp_path, free_port):
    nobody, first = (f"127.0.0.1:{free_port()}" for _ in range(2))
    flags = ["--config=tmta", f"--workdir={tmp_path}/w"]
    given = [*flags, "--num_processes=2", "--initialization_timeout=3"]
    # The variables are there, but no host of this name is.
    broken = SLURM | {"SLURM_NTASKS": "many", "SLURM_LOCALID": "0"}
    started = time.monotonic()
    ran = commands(
        "zsg_jax.main",
        [*given, f"--coordinator_address={nobody}", "--process_id=1"],
        [*given, f"--coordinator_address={first}", "--process_id=0"],
        [*flags, "--distributed=on"],
        cwd=tmp_path,
        **broken,
    )
    assert time.monotonic() - started < 90
    for (code, _, told), part in zip(
        ran,
        (
            f"{nobody}: nobody answered within 3 s; start process 0 there",
            f"{first}: not all processes came within 3 s; start all of them",
            "cannot join the other processes: invalid literal for int()",
        ),
        strict=True,
    ):
        assert code == 1
        (line,) = told.splitlines()
        assert part in line
    assert not (tmp_path / "w").exists()
