"""Joins the processes of one study, on one machine or many, before any device is touched."""

import os
import re
import signal
import socket
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from zsg_jax.runtime.errors import UserError, check, first_line
from zsg_jax.runtime.last_words import shorten
from zsg_jax.runtime.streams import end_now, tell

MODES = ("auto", "on", "off")
# As where JAX itself ends a process (128 + SIGABRT), since another one is gone.
LOST = 134
# Every process is at its end when it waits for the others this long; those that failed wait not.
_SHUTDOWN_SECONDS = 60
# JAX kills a process whose wait is over, with a stack trace; until then it can be said in a line.
_SPARE_SECONDS = 60
_LOST = re.compile(r"gloo|coordination service|heartbeat|nccl|socket closed|connection", re.I)


class Process(NamedTuple):
    """One process among those of a study, named as in `jax.distributed.initialize`.

    Attributes:
        coordinator_address: HOST:PORT, at which process 0 listens.
        num_processes: how many there are.
        process_id: which one this is, from 0.
    """

    coordinator_address: str | None
    num_processes: int | None
    process_id: int | None


def detect(environment: Mapping[str, str]) -> str | None:
    """The cluster of more than one process whose variables stand in `environment`, or None.

    They are those from which JAX's own detection (`jax.distributed.initialize` without arguments)
    takes its answers; a TPU VM outside Kubernetes has none, and its metadata server is not asked.
    """

    def number(name: str) -> int:
        value = environment.get(name, "")
        return int(value) if value.isdecimal() else 0

    slurm = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID")
    workers = environment.get("TPU_PROCESS_ADDRESSES") or environment.get("TPU_WORKER_HOSTNAMES")
    jobset = ("KUBERNETES_SERVICE_HOST", "JOBSET_NAME", "JOB_COMPLETION_INDEX")
    if number("OMPI_COMM_WORLD_SIZE") > 1 and "OMPI_MCA_orte_hnp_uri" in environment:
        return "Open MPI"
    if number("SLURM_NTASKS") > 1 and all(name in environment for name in slurm):
        return "Slurm"
    if workers and ("," in workers or number("MEGASCALE_NUM_SLICES") > 1):
        return "TPU"
    if not workers and all(name in environment for name in jobset):
        return "JobSet"
    return None


def join(
    mode: str,
    process: Process,
    *,
    initialization_timeout: int,
    heartbeat_timeout_seconds: int,
    environment: Mapping[str, str] = os.environ,
) -> bool:
    """Joins this process to the others, if `process` or a cluster says that there are others.

    Args:
        mode: "auto" as above; "on" also asks what JAX can detect beyond `detect`, such as the
            metadata of a TPU VM; "off" joins nothing.
        process: this one, or None in all fields.
        initialization_timeout: seconds that all processes have to come; then this one ends.
        heartbeat_timeout_seconds: seconds of silence after which a process counts as dead, and
            JAX ends the others.
        environment: where a cluster shows itself.

    Returns:
        Whether there are other processes now.

    Raises:
        UserError: if `process` makes no sense, or JAX cannot join.
    """
    _check(mode, process, initialization_timeout, heartbeat_timeout_seconds)
    import jax

    given = process.coordinator_address is not None
    found = None if given else detect(environment)
    if mode == "off" or process.num_processes == 1 or (mode == "auto" and not given and not found):
        return False
    # A process that JAX kept from hearing SIGTERM could end neither while it embeds nor compiles.
    jax.config.update("jax_enable_preemption_service", False)
    late = threading.Timer(initialization_timeout, _end_late, (process, initialization_timeout))
    late.daemon = True
    late.start()
    # While JAX waits, Python hears no Ctrl-C.
    hears = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        jax.distributed.initialize(
            *process,
            cluster_detection_method="deactivate" if given else None,
            initialization_timeout=initialization_timeout + _SPARE_SECONDS,
            heartbeat_timeout_seconds=heartbeat_timeout_seconds,
            shutdown_timeout_seconds=_SHUTDOWN_SECONDS,
        )
    # Whatever a cluster's own variables, metadata server or name service make of it.
    except Exception as error:
        raise UserError(_not_joined(process, found, error)) from None
    finally:
        late.cancel()
        signal.signal(signal.SIGINT, hears)
    several = jax.process_count() > 1
    if several:
        shorten(f"zsg_jax: process {jax.process_index()}")
        try:
            _check_alike([device.process_index for device in jax.devices()])
        except UserError:
            leave()  # all are told the same; the first to go would take the others along
            raise
    return several


def _check_alike(owners: Sequence[int]) -> None:
    """Refuses processes that own more devices than others, given the owner of each device."""
    counts = Counter(owners)
    told = ", ".join(f"process {process} has {count}" for process, count in sorted(counts.items()))
    check(
        len(set(counts.values())) == 1,
        f"of the devices {told}; give each process as many (by CUDA_VISIBLE_DEVICES, say), or run "
        "fewer processes",
    )


def leave() -> None:
    """Leaves the other processes, all of which do so now, so that none is missed."""
    import jax

    if jax.distributed.is_initialized():
        jax.distributed.shutdown()


def ends_all(main: Callable[[Sequence[str]], Any]) -> Callable[[Sequence[str]], Any]:
    """Wraps a `main` so that one process's failure soon ends the others, which wait for it.

    A process that leaves in the usual way would itself wait for the others.
    """

    def ended(argv: Sequence[str]) -> None:
        try:
            main(argv)
        except BaseException as error:
            import jax

            if not jax.distributed.is_initialized():
                raise
            code: Any = 1
            if isinstance(error, SystemExit):
                code = error.code
            elif _LOST.search(str(error)):
                code = LOST
                tell(
                    f"zsg_jax: process {jax.process_index()}: another process is gone "
                    f"({first_line(error)}); its own last line says why"
                )
            else:
                traceback.print_exc()
            end_now(code if isinstance(code, int) else 1)

    return ended


def _check(mode: str, process: Process, *seconds: int) -> None:
    given = [f"--{name}" for name in Process._fields if getattr(process, name) is not None]
    missing = [f"--{name}" for name in Process._fields if getattr(process, name) is None]
    both = f"--distributed=off joins no other process, but {', '.join(given)} is given; leave one"
    check(not given or mode != "off", f"{both} of the two out")
    check(
        not given or not missing,
        f"{', '.join(missing)}: missing; --coordinator_address, --num_processes and --process_id "
        "go together",
    )
    for name, value in zip(
        ("initialization_timeout", "heartbeat_timeout_seconds"), seconds, strict=True
    ):
        check(value > 0, f"--{name}={value}: give seconds, 1 or more")
    if (
        process.coordinator_address is None
        or process.num_processes is None
        or process.process_id is None
    ):
        return
    address = re.fullmatch(r"(?:[^:\s]+|\[[^\]\s]+\]):(\d{1,5})", process.coordinator_address)
    check(
        address is not None and 0 < int(address[1]) < 65536,
        f"--coordinator_address={process.coordinator_address}: is no HOST:PORT; give where process "
        "0 runs and a free port there, such as 10.0.0.1:8476",
    )
    count = process.num_processes
    check(count > 0, f"--num_processes={count}: give 1 or more")
    check(
        0 <= process.process_id < count,
        f"--process_id={process.process_id}: of {count} processes they go from 0 to {count - 1}",
    )


def _not_joined(process: Process, found: str | None, error: Exception) -> str:
    what = f"process {process.process_id} of {process.num_processes}" if found is None else found
    if process.process_id is None:
        what = found or "--distributed=on, and no cluster known to JAX"
    return (
        f"{what}: cannot join the other processes: {first_line(error)}; give "
        "--coordinator_address, --num_processes and --process_id, or --distributed=off to run alone"
    )


def _end_late(process: Process, seconds: int) -> None:
    """Tells what is missing, and ends this process, which is still at its `initialize`."""
    address = process.coordinator_address
    message = f"not all processes came within {seconds} s; start all of them"
    if address is not None:
        message = f"--coordinator_address={address}: {message}"
        if process.process_id != 0 and not _answers(address):
            message = (
                f"--coordinator_address={address}: nobody answered within {seconds} s; start "
                "process 0 there, and see that the port can be reached"
            )
    tell(f"zsg_jax: {message}, or give a longer --initialization_timeout")
    os._exit(1)


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=2):
            return True
    except OSError:
        return False
