"""A full disk drops the save, loudly, and training goes on; three times in a row end the run."""
import os
import subprocess

import pytest

import runs


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 3 MiB."""
    path = tmp_path / "disk"
    path.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "fucina-test", path],
                      capture_output=True).returncode != 0:
        pytest.skip("this machine lets nobody mount a file system")
    yield path
    subprocess.run(["umount", path], check=True)


def fill(path, leave):
    """Leaves about so many bytes."""
    free = os.statvfs(path).f_bavail * os.statvfs(path).f_frsize
    (path / "filler").write_bytes(b"\0" * max(free - leave, 0))


def warnings(text):
    return [line for line in text.splitlines() if "NOT saved" in line]


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_full_disk(tmp_path, small_disk, ranks):
    runs.write_tokens(tmp_path / "ids.json")
    fill(small_disk, 900_000)  # room for the metrics, not for a checkpoint
    run_dir = str(small_disk / "run")
    done = runs.train(tmp_path, ranks=ranks, run__dir=run_dir, expect=11, train__steps=100)
    assert len(warnings(done.stdout)) == 3 and "no space left" in done.stdout
    assert "step 12/100" in done.stdout and "step 13/100" not in done.stdout
    assert len(done.stderr.splitlines()) == 1 and "3 saves in a row failed" in done.stderr
    assert list((small_disk / "run" / "checkpoints").iterdir()) == []


def test_goes_on_and_keeps_the_old_checkpoint(tmp_path):
    """Files may grow to 600 kB for a while: the saves in between are dropped."""
    runs.write_tokens(tmp_path / "ids.json")
    runs.train(tmp_path, train__steps=4)
    done = runs.resume(tmp_path, "--set", "train.steps=12", expect=11,
                       prefix=["prlimit", "--fsize=600000"])
    assert len(warnings(done.stdout)) == 2 and "step 12/12" in done.stdout
    assert "the last step could not be saved" in done.stderr
    assert runs.checkpoints(tmp_path) == ["step-00000004"]
    assert len(runs.metrics(tmp_path)) == 12
    runs.resume(tmp_path, "--set", "train.steps=12")
    assert runs.checkpoints(tmp_path) == ["step-00000008", "step-00000012"]


@pytest.mark.slow
def test_write_failures_below_the_preflight(tmp_path, failing_calls):
    """The n-th write, fsync or rename fails: no crash, and what is there afterwards is whole."""
    for call in ("pwrite", "fsync", "rename", "posix_fallocate"):
        for nth in (1, 2, 4):
            directory = tmp_path / f"{call}{nth}"
            directory.mkdir()
            runs.write_tokens(directory / "ids.json")
            done = runs.train(directory, train__steps=8, expect=None,
                              env={"LD_PRELOAD": str(failing_calls), "FAIL_PATH": "/checkpoints/",
                                   "FAIL_CALL": call, "FAIL_NTH": str(nth)})
            assert done.returncode in (0, 11), (call, nth, done.stderr)
            assert nth > 1 or warnings(done.stdout), f"the first {call} did not fail"
            resumed = runs.resume(directory, "--set", "train.steps=9", expect=None)
            assert resumed.returncode in (0, 10), (call, nth, resumed.stderr)
            if runs.checkpoints(directory):
                assert resumed.returncode == 0
                assert runs.run("checkpoint", "verify", directory / "run").returncode == 0


def test_a_log_that_cannot_be_opened_is_said(tmp_path):
    runs.write_tokens(tmp_path / "ids.json")
    runs.train(tmp_path, train__steps=4)
    (tmp_path / "run" / "log.txt").unlink()
    (tmp_path / "run" / "log.txt").mkdir()
    done = runs.resume(tmp_path, "--set", "train.steps=5")
    assert f"WARNING: {tmp_path}/run/log.txt: cannot open: Is a directory; nothing is logged" in done.stdout
