"""The shell scripts and the Kubernetes manifest: right by their own tools' rules, and in effect."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

LAUNCH = Path(__file__).resolve().parents[3] / "launch"
SCRIPTS = [*sorted(LAUNCH.glob("*.sh")), LAUNCH / "slurm.sbatch"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.name)
def test_shellcheck_finds_nothing(script: Path) -> None:
    shellcheck = Path(sys.executable).with_name("shellcheck")
    command = [str(shellcheck), "--shell", "bash", "--severity", "style", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout
    assert os.access(script, os.X_OK)


def _run(script: str, arguments: list[str], folder: Path, **variables: str) -> tuple[int, str]:
    """Run a script with programs that print their arguments in place of the real ones."""
    tools = folder / "tools"
    tools.mkdir(exist_ok=True)
    # What is looked at is the command line; that real launchers take it is shown elsewhere.
    for name in ("python", "scontrol", "srun", "scancel"):
        program = tools / name
        body = 'echo "$(basename "$0") $*"\n'
        if name == "python":
            body += 'echo "torchrun kills after ${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-}"\n'
        if name == "scontrol":
            body = 'case $1 in show) printf "alpha\\nbeta\\n";; *) echo "scontrol $*";; esac\n'
        if name == "srun":
            body += 'sleep "${SRUN_SLEEP_S:-0}" & wait $!\nexit "${SRUN_STATUS:-0}"\n'
            # As the real one: a SIGTERM kills the tasks; another process ends them in peace.
            body = "trap 'kill $!; echo killed; exit 137' TERM\n" + body
            body = "trap 'kill $!; echo terminated; exit 75' USR2\necho $$ > $0.pid\n" + body
        if name == "scancel":
            body += '[[ $1 == --signal=TERM ]] && kill -USR2 "$(cat "$(dirname "$0")/srun.pid")"\n'
        program.write_text("#!/bin/bash\n" + body)
        program.chmod(0o755)
    done = subprocess.run(
        [str(LAUNCH / script), *arguments],
        env={"PATH": f"{tools}:/usr/bin:/bin", **variables},
        cwd=LAUNCH.parent,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return done.returncode, done.stdout + done.stderr


def test_torchrun_takes_its_place_from_slurm_and_from_kubernetes(tmp_path: Path) -> None:
    slurm = {"SLURM_NNODES": "4", "SLURM_NODEID": "3", "SLURM_GPUS_ON_NODE": "8"}
    kubernetes = {"NUM_NODES": "4", "JOB_COMPLETION_INDEX": "3", "RANKS_PER_NODE": "8"}
    for variables in (slurm, kubernetes):
        status, out = _run(
            "torchrun.sh", ["launch/train.py", "--config", "c"], tmp_path,
            MASTER_ADDR="alpha", LOPE_GRACE_S="100", **variables,
        )  # fmt: skip
        assert status == 0
        assert out.startswith("python launch/supervise.py") or "/supervise.py" in out
        assert (
            "-- torchrun --nnodes 4 --node_rank 3 --nproc_per_node 8 --master_addr alpha "
            "--master_port 29500 --max-restarts 0 launch/train.py --config c"
        ) in out
        assert "--grace 100 --" in out
        assert "torchrun kills after 100" in out, (
            "a checkpoint is given the time that was asked for"
        )


def test_a_variable_that_is_missing_is_named(tmp_path: Path) -> None:
    status, out = _run("torchrun.sh", ["launch/train.py"], tmp_path, NUM_NODES="2")
    assert status != 0
    assert "NODE_RANK" in out
    status, out = _run("no_ssh.sh", ["hosts", "launch/train.py"], tmp_path, NODE_RANK="0")
    assert status != 0
    assert "set MASTER_ADDR" in out
    assert "give the hostfile" in _run("ssh.sh", [], tmp_path)[1]


@pytest.mark.parametrize(
    ("restarts", "status", "more", "requeued"),
    [("0", "0", "", False), ("1", "75", " --resume auto", True), ("0", "2", "", False)],
)
def test_slurm_requeues_after_a_checkpoint_and_resumes(
    tmp_path: Path, restarts: str, status: str, more: str, requeued: bool
) -> None:
    ended, out = _run(
        "slurm.sbatch",
        ["launch/train.py", "--config", "c"],
        tmp_path,
        SLURM_JOB_ID="123456",
        SLURM_JOB_NODELIST="alpha,beta",
        SLURM_RESTART_COUNT=restarts,
        SRUN_STATUS=status,
    )
    assert ended == int(status)
    options = "--kill-on-bad-exit=1 --output=%x-%j-node%n.log --open-mode=append"
    assert f"srun {options} launch/torchrun.sh launch/train.py --config c{more}\n" in out
    assert ("scontrol requeue 123456" in out) is requeued


def test_slurm_hands_its_cpus_to_srun(tmp_path: Path) -> None:
    _run("torchrun.sh", [], tmp_path)  # makes the tools
    (tmp_path / "tools" / "srun").write_text(
        '#!/bin/bash\necho "cpus ${SRUN_CPUS_PER_TASK:-none}"\n'
    )
    told = {}
    for cpus in ("64", ""):
        done = subprocess.run(
            [str(LAUNCH / "slurm.sbatch"), "launch/train.py"],
            env={
                "PATH": f"{tmp_path / 'tools'}:/usr/bin:/bin",
                "SLURM_JOB_ID": "1",
                "SLURM_JOB_NODELIST": "a",
                **({"SLURM_CPUS_PER_TASK": cpus} if cpus else {}),
            },
            capture_output=True,
            text=True,
            check=True,
            timeout=20,
        )
        told[cpus] = done.stdout.strip()
    assert told == {"64": "cpus 64", "": "cpus none"}


def test_slurm_passes_its_warning_on_and_waits(tmp_path: Path) -> None:
    _run("torchrun.sh", [], tmp_path)  # makes the tools
    process = subprocess.Popen(
        [str(LAUNCH / "slurm.sbatch"), "launch/train.py"],
        env={
            "PATH": f"{tmp_path / 'tools'}:/usr/bin:/bin",
            "SLURM_JOB_ID": "1",
            "SLURM_JOB_NODELIST": "a",
            "SRUN_SLEEP_S": "30",
        },
        stdout=subprocess.PIPE,
        text=True,
    )
    assert "srun" in process.stdout.readline()
    process.send_signal(10)
    out, _ = process.communicate(timeout=20)
    assert process.returncode == 75
    assert out == "scancel --signal=TERM 1\nterminated\nscontrol requeue 1\n"


def test_the_kubernetes_manifest_is_valid_and_consistent() -> None:
    import kubernetes_validate

    service, job = yaml.safe_load_all((LAUNCH / "kubernetes.yaml").read_text())
    for resource in (service, job):
        kubernetes_validate.validate(resource, kubernetes_validate.latest_version(), strict=True)
    spec = job["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    environment = {entry["name"]: entry["value"] for entry in container["env"]}
    assert spec["completionMode"] == "Indexed"
    assert spec["completions"] == spec["parallelism"] == int(environment["NUM_NODES"])
    name, service_name = job["metadata"]["name"], service["metadata"]["name"]
    assert environment["MASTER_ADDR"] == f"{name}-0.{service_name}"
    assert pod["subdomain"] == service_name
    assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": name}
    assert service["spec"]["clusterIP"] == "None"
    assert int(environment["RANKS_PER_NODE"]) == container["resources"]["limits"]["nvidia.com/gpu"]
    assert int(environment["LOPE_GRACE_S"]) < pod["terminationGracePeriodSeconds"]
    (mistake,) = [r for r in spec["podFailurePolicy"]["rules"] if r["action"] == "FailJob"]
    assert mistake["onExitCodes"]["values"] == [2]
    assert pod["automountServiceAccountToken"] is False
    assert not any("TOKEN" in key or "SECRET" in key for key in environment)
    # A plain image has no home that this user may write.
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert volumes[mounts[environment["HOME"]]]["emptyDir"] == {}
    assert Path(environment["LOPE_DATA_CACHE"]).is_relative_to(environment["HOME"])


def test_the_dockerfile_has_nothing_that_its_linter_finds() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    command = [str(hadolint), str(LAUNCH / "Dockerfile")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_dockerfile_gets_all_that_the_package_is_built_from() -> None:
    kept = {
        line.removeprefix("!")
        for line in (LAUNCH / "Dockerfile.dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    build = tomllib.loads((LAUNCH.parent / "pyproject.toml").read_text())["project"]
    needed = {"pyproject.toml", build["readme"], *build["license-files"]}
    assert needed | {"lope_dist", "launch", "configs", "eval"} == kept


def test_skypilot_starts_torchrun_with_its_own_variables(tmp_path: Path) -> None:
    task = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())
    script = task["run"].replace(". ~/lope/bin/activate\n", "")
    _run("torchrun.sh", [], tmp_path)  # makes the tools
    done = subprocess.run(
        ["bash", "-ec", script],
        env={
            "PATH": f"{tmp_path / 'tools'}:/usr/bin:/bin",
            "SKYPILOT_NUM_NODES": "2",
            "SKYPILOT_NODE_RANK": "1",
            "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2",
            "SKYPILOT_NUM_GPUS_PER_NODE": "8",
            **task["envs"],
            "CONFIG": "configs/recipes/qwen3_8b.yaml",  # as --env sets it
        },
        cwd=LAUNCH.parent,
        capture_output=True,
        text=True,
        check=True,
        timeout=20,
    )
    assert (
        "torchrun --nnodes 2 --node_rank 1 --nproc_per_node 8 --master_addr 10.0.0.1 "
        "--master_port 29500 --max-restarts 0 launch/train.py "
        "configs/recipes/qwen3_8b.yaml output_dir=/shared/runs/qwen3_8b --resume auto"
    ) in done.stdout
    assert (LAUNCH.parent / task["envs"]["CONFIG"]).is_file()


@pytest.mark.parametrize("way", [["{recipe}", "seed=x"], ["seed=x", "--config", "{recipe}"]])
def test_train_takes_the_recipe_first_or_by_name(tmp_path: Path, way: list[str]) -> None:
    recipe = LAUNCH.parent / "configs/recipes/llama2_7b_alpaca.yaml"
    arguments = [word.format(recipe=recipe) for word in way]
    done = subprocess.run(
        [sys.executable, str(LAUNCH / "train.py"), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2
    assert "seed" in done.stderr
    assert "usage" not in done.stderr


def test_train_without_a_recipe_asks_for_one() -> None:
    command = [sys.executable, str(LAUNCH / "train.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert "give the recipe" in done.stderr
