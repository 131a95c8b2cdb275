"""A job in which a rank stops getting on ends by itself, with exit code 12 and a table of who waits where."""
import os
import re
import signal
import subprocess
import time

import pytest

import runs

slow = pytest.mark.slow
LIMIT = 2  # seconds, of train.watchdog
STOP = signal.SIGSTOP.value


def start(directory, ranks, fault="", **keys):
    """A run that does not end by itself, as a process."""
    runs.write_tokens(directory / "ids.json")
    keys = {"train__steps": 100000, "train__watchdog": LIMIT, "checkpoint__every": 0, "data__valid": None, **keys}
    path = runs.write_recipe(directory / "recipe.toml", runs.recipe(directory, **keys))
    return subprocess.Popen([runs.MPIRUN, "-np", str(ranks), runs.FUCINA, "train", str(path)],
                            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,  # nobody would read a pipe
                            env={**os.environ, "FUCINA_THREADS": "1", "FUCINA_FAULT": fault})


def process_of(job, rank):
    """The id of a rank's process: the descendant of `job` that mpirun gave this rank."""
    parents = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat") as file:
                    parents[int(entry)] = int(file.read().rpartition(")")[2].split()[1])
            except OSError:
                pass
    for child in parents:
        above = child
        while above in parents and above != job.pid:
            above = parents[above]
        try:
            with open(f"/proc/{child}/environ", "rb") as file:
                if above == job.pid and f"OMPI_COMM_WORLD_RANK={rank}".encode() in file.read().split(b"\0"):
                    return child
        except OSError:
            pass
    raise AssertionError(f"no process of rank {rank}")


def is_stopped(process):
    with open(f"/proc/{process}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] in "Tt"


def end(job, timeout=60):
    """Its exit code, error and table lines, and the seconds that it took."""
    began = time.time()
    _, err = job.communicate(timeout=timeout)
    lines = err.splitlines()
    assert lines and lines[0].startswith("error: "), (job.returncode, err)
    return job.returncode, lines[0], lines[1:], time.time() - began


def check_hang(job, rank, ranks, words, since_stop):
    code, error, table, _ = end(job)
    seconds = time.time() - since_stop
    assert code == 12, (code, error)
    assert re.match(rf"error: no rank on \S+ has got on for \d+ s \(train.watchdog allows \d+\): rank {rank} is behind, "
                    rf"{words}", error), error
    assert len(table) == 1 + ranks and table[0].split() == [
        "rank", "process", "phase", "step", "for", "last", "call"], table
    for r, line in enumerate(table[1:]):
        assert line.split()[0] == str(r) and ("its process does not run" in line) == (r == rank), table
    allowed = int(re.search(r"allows (\d+)", error)[1])
    assert allowed - 1 < seconds < allowed + 5, (seconds, error)


def wait_until_stopped(job, rank):
    for _ in range(400):
        try:
            if is_stopped(process_of(job, rank)):
                return time.time()
        except AssertionError:
            pass
        time.sleep(0.05)
    raise AssertionError("the rank never stopped")


@pytest.mark.parametrize("point, rank, ranks, keys, words", [
    ("step.backward,nth=9", 1, 2, {}, r"stopped in forward/backward of step \d+, after "),
    pytest.param("step.backward,nth=1", 3, 4, {}, "stopped in forward/backward of step 1, after ", marks=slow),
    ("save.shard", 0, 2, {"checkpoint__every": 3}, r"stopped in save of step \d+, after "),
    pytest.param("save.shard,nth=2", 1, 2, {"checkpoint__every": 3}, r"stopped in save of step \d+, after ", marks=slow),
    pytest.param("eval.loss", 0, 2, {"data__valid": [{"path": "ids.json"}], "eval__every": 2},
                 "stopped in evaluate of step 2, after ", marks=slow),
    pytest.param("start", 1, 2, {}, "stopped in start-up, after ", marks=slow),
    pytest.param("finish", 0, 2, {"train__steps": 3}, "stopped in finish of step 3, after ", marks=slow)])
def test_a_stopped_rank(tmp_path, monkeypatch, point, rank, ranks, keys, words):
    monkeypatch.chdir(tmp_path)
    job = start(tmp_path, ranks, f"{point},rank={rank},signal={STOP}", **keys)
    check_hang(job, rank, ranks, words, wait_until_stopped(job, rank))


def test_a_rank_that_is_stopped_in_a_collective(tmp_path):
    """Rank 1 is slow, so that rank 0 waits for it in a collective almost always."""
    job = start(tmp_path, 2, "step.backward,rank=1,sleep=250")
    runs.wait_for_step(tmp_path, 2)
    time.sleep(0.3)
    os.kill(process_of(job, 0), signal.SIGSTOP)
    check_hang(job, 0, 2, r"stopped in reduce of step \d+, in all_", time.time())


@pytest.mark.parametrize("point", ["step.backward", "save.shard"])
def test_slow_is_not_hung(tmp_path, point):
    """Neither a first step nor a save on a slow disk is taken for a hang while the process runs."""
    job = start(tmp_path, 2, f"{point},rank=1,sleep={1000 * LIMIT + 1500},times=1", train__steps=3)
    out, err = job.communicate(timeout=60)
    assert job.returncode == 0, (out, err)


def test_a_suspended_job_goes_on(tmp_path):
    """All ranks stopped for longer than the limit, as by `scontrol suspend`, and continued."""
    job = start(tmp_path, 2)
    runs.wait_for_step(tmp_path, 2)
    processes = [process_of(job, rank) for rank in (0, 1)]
    for process in processes:
        os.kill(process, signal.SIGSTOP)
    time.sleep(LIMIT + 1)
    for process in processes:
        os.kill(process, signal.SIGCONT)
    runs.wait_for_step(tmp_path, len(runs.metrics(tmp_path)) + 20)
    time.sleep(1)
    job.send_signal(signal.SIGTERM)
    assert job.wait(timeout=60) == 15, job.stderr.read()
