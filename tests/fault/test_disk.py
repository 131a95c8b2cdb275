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


CALLS = ("open", "mkdir", "pwrite", "write", "ftruncate", "posix_fallocate", "fsync", "rename")
STEPS, EVERY = 8, 2


def train_failing(directory, library, call, nth, mode="once", expect=None):
    """A run in which the nth such call on what is in checkpoints/ fails; and how many there were."""
    directory.mkdir()
    runs.write_tokens(directory / "ids.json")
    done = runs.train(directory, train__steps=STEPS, checkpoint__every=EVERY, eval__every=STEPS, expect=expect,
                      env={"LD_PRELOAD": str(library), "FAIL_PATH": "/run/checkpoints", "FAIL_CALL": call,
                           "FAIL_NTH": str(nth), "FAIL_MODE": mode, "FAIL_COUNT": str(directory / "calls")})
    calls = directory / "calls"
    return done, calls.stat().st_size if calls.exists() else 0


@pytest.fixture(scope="module")
def whole(tmp_path_factory, failing_calls):
    """A run in which no call fails, and how many calls of each kind it makes."""
    counts = {}
    for call in CALLS:
        directory = tmp_path_factory.mktemp("whole") / call
        counts[call] = train_failing(directory, failing_calls, call, 0, expect=0)[1]
    # Of every save two files, its directory, and the one above before and after the rename.
    assert counts["fsync"] >= 5 * (STEPS // EVERY), counts
    return directory, counts


@pytest.mark.slow
@pytest.mark.parametrize("call", CALLS)
def test_any_call_fails_once(tmp_path, failing_calls, whole, call):
    """At most one save is dropped, in one line; training goes on, and every checkpoint there is whole."""
    directory, counts = whole
    count = counts[call]
    print(count, call)
    assert count > 0 or call in ("write", "ftruncate"), counts
    nths = range(1, count + 1) if runs.LEVEL == "full" else sorted({1, count // 3 or 1, 2 * count // 3 or 1, count})
    for nth in nths if count else ():
        run = tmp_path / str(nth)
        done, _ = train_failing(run, failing_calls, call, nth)
        lines = warnings(done.stdout)
        at_end = "the last step could not be saved" in done.stderr
        assert done.returncode == (11 if at_end else 0), (nth, done.stderr)
        assert len(lines) == 1 or (not lines and nth > 1), (nth, "what is removed may fail to be")
        assert len(done.stderr.splitlines()) == at_end, (nth, lines, done.stderr)
        assert runs.metrics(run) == runs.metrics(directory), nth
        for name in runs.checkpoints(run):
            if ".t" not in name:  # what a failed removal left, until the next start
                verified = runs.run("checkpoint", "verify", run / "run" / "checkpoints" / name)
                assert verified.returncode == 0, (nth, name, verified.stderr)
        resumed = runs.resume(run, "--set", f"train.steps={STEPS + 1}")
        step = STEPS - EVERY if at_end else STEPS
        assert f"after step {step}" in resumed.stdout and "WARNING" not in resumed.stdout, (nth, resumed.stdout)
        assert not [name for name in runs.checkpoints(run) if "." in name], nth


@pytest.mark.slow
@pytest.mark.parametrize("call", CALLS)
def test_any_call_fails_for_good(tmp_path, failing_calls, whole, call):
    if whole[1][call] == 0:
        return
    done, _ = train_failing(tmp_path / "run", failing_calls, call, 1, "forever", expect=11)
    assert len(warnings(done.stdout)) == 3 and len(done.stderr.splitlines()) == 1, done.stdout
    assert "3 saves in a row failed" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("call", ["pwrite", "write"])
def test_short_writes_are_gone_on_with(tmp_path, failing_calls, whole, call):
    done, count = train_failing(tmp_path / "run", failing_calls, call, 1, "short", expect=0)
    assert not warnings(done.stdout) and count >= whole[1][call]
    assert runs.same_run(whole[0], tmp_path / "run", STEPS) is None
    assert runs.run("checkpoint", "verify", tmp_path / "run" / "run").returncode == 0


def test_a_log_that_cannot_be_opened_is_said(tmp_path):
    runs.write_tokens(tmp_path / "ids.json")
    runs.train(tmp_path, train__steps=4)
    (tmp_path / "run" / "log.txt").unlink()
    (tmp_path / "run" / "log.txt").mkdir()
    done = runs.resume(tmp_path, "--set", "train.steps=5")
    assert f"WARNING: {tmp_path}/run/log.txt: cannot open: Is a directory; nothing is logged" in done.stdout
