"""launch/slurm.sbatch under a Slurm of one machine, where its Debian packages (slurmctld, slurmd, munge) are installed."""
import os
import shutil
import signal
import socket
import subprocess
import time

import pytest

import runs

# Jobs may be queued again at once, not two minutes later (cred_expire), and end soon after their limit.
CONF = """
ClusterName=test
SlurmctldHost=localhost
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={here}/munge.socket,cred_expire=5
SlurmctldPort={port0}
SlurmdPort={port1}
StateSaveLocation={here}/state
SlurmdSpoolDir={here}/spool
SlurmctldPidFile={here}/slurmctld.pid
SlurmdPidFile={here}/slurmd.pid
SlurmctldLogFile={here}/slurmctld.log
SlurmdLogFile={here}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
NodeName=localhost CPUs=2 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def free_port():
    with socket.socket() as one:
        one.bind(("localhost", 0))
        return one.getsockname()[1]


@pytest.fixture
def slurm(tmp_path):
    """The environment of a client of it."""
    if not all(shutil.which(name) for name in ("slurmctld", "slurmd", "munged", "sbatch")):
        pytest.skip("this machine has no Slurm: apt-get install slurmctld slurmd slurm-client munge")
    if os.geteuid() != 0 or len(os.sched_getaffinity(0)) < 2:
        pytest.skip("this machine runs no Slurm of two cores: not root, or one core")
    here = tmp_path / "slurm"
    for folder in (here, here / "state", here / "spool"):
        folder.mkdir(mode=0o700)
    conf = here / "slurm.conf"
    conf.write_text(CONF.format(here=here, port0=free_port(), port1=free_port()))
    key = here / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(os.urandom(128))
    environment = {**os.environ, "SLURM_CONF": str(conf), "FUCINA": runs.FUCINA, "FUCINA_THREADS": "1"}
    for command in (["munged", "--force", f"--socket={here}/munge.socket", f"--key-file={key}",
                     f"--pid-file={here}/munged.pid", f"--seed-file={here}/munge.seed", f"--log-file={here}/munge.log"],
                    ["slurmctld"], ["slurmd"]):
        subprocess.run(command, check=True, env=environment, capture_output=True)
    yield environment
    for name in ("slurmd", "slurmctld", "munged"):
        try:
            os.kill(int((here / f"{name}.pid").read_text()), signal.SIGTERM)
        except (OSError, ValueError):
            pass


def wait_until(what, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := what():
            return found
        time.sleep(0.2)
    raise AssertionError(f"not within {seconds} s")


@pytest.mark.slow
def test_a_job_that_reaches_its_limit_goes_on(slurm, tmp_path):
    """Slurm's signal before the limit saves the run, the job is queued again and resumes, bit for bit."""
    def client(*words):
        return subprocess.run([*map(str, words)], env=slurm, cwd=runs.ROOT, check=True, capture_output=True, text=True).stdout

    runs.write_tokens(tmp_path / "ids.json")
    keys = {"train__steps": 600, "checkpoint__every": 0, "eval__every": 0}
    (tmp_path / "alone").mkdir()
    shutil.copy(tmp_path / "ids.json", tmp_path / "alone" / "ids.json")
    runs.train(tmp_path / "alone", **keys)
    path = runs.write_recipe(tmp_path / "recipe.toml", runs.recipe(tmp_path, **{**keys, "run__dir": "nowhere"}))
    log = tmp_path / "log"
    job = client("sbatch", "--parsable", "--ntasks=2", "--time=5", "--signal=B:USR2@60", f"--output={log}",
                 "launch/slurm.sbatch", path, tmp_path / "run").strip()
    runs.wait_for_step(tmp_path, 3)
    client("scancel", "--batch", "--signal=USR2", job)  # as before the limit, which is a minute at least
    wait_until(lambda: "is queued again" in log.read_text(), 20)
    wait_until(lambda: "done: " in log.read_text(), 60)
    text = log.read_text()
    assert "stopped on request after a save" in text and "slurm.sbatch: the time limit is near" in text
    assert f"resumed {tmp_path / 'run'} after step " in text
    assert "2 ranks of 1 threads" in text
    assert runs.same_run(tmp_path / "alone", tmp_path, 600) is None
