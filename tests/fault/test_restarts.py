"""launch/mpirun.sh --max-restarts: what it starts again, what it does not, and that the run is the same."""
import os
import signal
import subprocess

import pytest

import runs


def restarting(directory, number, *arguments, ranks=2, env=None):
    command = [runs.MPIRUN, "--max-restarts", str(number), "-np", str(ranks), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120,
                          env={**os.environ, "FUCINA_THREADS": "1", **(env or {})})


def recipe(directory, **keys):
    runs.write_tokens(directory / "ids.json")
    return runs.write_recipe(directory / "recipe.toml", runs.recipe(directory, **keys))


def test_a_killed_rank_does_not_change_the_run(tmp_path):
    """Rank 1 dies at the 7th update of each job: after 7 steps, after 11, and not in the last 4."""
    (tmp_path / "alone").mkdir()
    runs.write_tokens(tmp_path / "alone" / "ids.json")
    runs.train(tmp_path / "alone")
    done = restarting(tmp_path, 2, runs.FUCINA, "train", recipe(tmp_path, checkpoint__snapshot=0),
                      env={"FUCINA_FAULT": "step.update,rank=1,nth=7"})
    assert done.returncode == 0, (done.stdout[-1000:], done.stderr)
    died = ("mpirun.sh: a rank was killed by signal 9 (SIGKILL): "
            "the system ran out of memory (dmesg tells), or somebody sent kill -9")
    again = "mpirun.sh: restart {} of 2 on 2 ranks: " + f"{runs.FUCINA} resume {tmp_path / 'run'}"
    assert done.stderr.splitlines() == [died, again.format(1), died, again.format(2)]
    assert runs.same_run(tmp_path / "alone", tmp_path, 12) is None


def test_restarts_are_counted(tmp_path):
    """Before the first checkpoint a run begins anew; after the last restart the way on is told."""
    done = restarting(tmp_path, 1, runs.FUCINA, "train", recipe(tmp_path),
                      env={"FUCINA_FAULT": "step.update,rank=1,nth=2"})
    assert done.returncode == 137
    first, second, third = done.stderr.splitlines()
    assert second == f"mpirun.sh: restart 1 of 1 on 2 ranks: {runs.FUCINA} train {tmp_path / 'recipe.toml'} --fresh"
    assert third.startswith("error: mpirun.sh: a rank was killed by signal 9 (SIGKILL)"), third
    assert "holds no checkpoint yet" in third and (tmp_path / "run.old-1").exists()


@pytest.mark.slow
@pytest.mark.parametrize("fault, keys, code", [
    (None, {"train__steps": 0}, 2),
    (None, {"data__valid": [{"path": "nowhere.json", "format": "tokens"}]}, 3),
    ("step.update,rank=1,nth=2,throw=error", {}, 11)])
def test_what_the_program_says_is_final(tmp_path, fault, keys, code):
    done = restarting(tmp_path, 3, runs.FUCINA, "train", recipe(tmp_path, **keys),
                      env={"FUCINA_FAULT": fault} if fault else {})
    assert done.returncode == code, (done.stdout[-500:], done.stderr)
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr


@pytest.mark.slow
def test_waits_for_a_rank_that_holds_the_run(tmp_path):
    """As one does that was cut off with its host and has not noticed yet."""
    program = tmp_path / "program.sh"
    program.write_text(f"""{runs.FUCINA} "$@"
code=$?
[ $code = 0 ] || FUCINA_FAULT= setsid flock {tmp_path}/run/lock sleep 3 >/dev/null 2>&1 &
exit $code
""")
    done = restarting(tmp_path, 1, "sh", program, "train", recipe(tmp_path), ranks=1,
                      env={"FUCINA_FAULT": "step.update,nth=9"})
    assert done.returncode == 0, (done.stdout[-500:], done.stderr)
    assert f"mpirun.sh: waiting until the lost rank 0 lets go of {tmp_path / 'run'}" in done.stderr
    assert runs.metrics(tmp_path)[-1]["step"] == 12


@pytest.mark.slow
def test_a_rank_that_hangs_does_not_change_the_run(tmp_path):
    """The watchdog ends the job with 12; the run goes on from step 8."""
    (tmp_path / "alone").mkdir()
    runs.write_tokens(tmp_path / "alone" / "ids.json")
    runs.train(tmp_path / "alone")
    done = restarting(tmp_path, 1, runs.FUCINA, "train", recipe(tmp_path, train__watchdog=2),
                      env={"FUCINA_FAULT": f"step.update,rank=1,nth=9,signal={signal.SIGSTOP.value}"})
    assert done.returncode == 0, (done.stdout[-1000:], done.stderr)
    assert done.stderr.splitlines()[-2:] == [
        "mpirun.sh: the job ended with code 12",
        f"mpirun.sh: restart 1 of 1 on 2 ranks: {runs.FUCINA} resume {tmp_path / 'run'}"]
    assert runs.same_run(tmp_path / "alone", tmp_path, 12) is None


def test_a_timed_out_collective_is_tried_again(tmp_path):
    """As its exit code says; a program that is no run has no directory to go on from."""
    done = restarting(tmp_path, 1, "sh", "-c", "exit 12", "train")
    assert done.returncode == 12
    first, second = done.stderr.splitlines()
    assert first == "mpirun.sh: the job ended with code 12"
    assert second.startswith("error: mpirun.sh: no restart: rank 0 did not tell its run directory here")


@pytest.mark.parametrize("ask", [signal.SIGTERM, signal.SIGUSR2])
def test_a_stop_is_no_death(tmp_path, ask):
    path = recipe(tmp_path, train__steps=100000, checkpoint__every=0, data__valid=None)
    process = subprocess.Popen(
        [runs.MPIRUN, "--max-restarts", "3", "-np", "2", runs.FUCINA, "train", str(path)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "FUCINA_THREADS": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL))
    runs.wait_for_step(tmp_path, 2)
    process.send_signal(ask)
    err = process.communicate(timeout=60)[1]
    assert process.returncode == 15, err
    assert "restart" not in err, err


@pytest.mark.parametrize("arguments, words", [
    (["--max-restarts", "many", "-np", "2", runs.FUCINA, "train", "r.toml"],
     '--max-restarts "many": expected a number, 0 or more'),
    (["--max-restarts", "2", runs.FUCINA, "train", "r.toml"], "--max-restarts needs the number of ranks: -np N"),
    (["--max-restarts", "2", "-np", "2", runs.FUCINA, "doctor"],
     "--max-restarts restarts `fucina train` and `fucina resume`, not"),
    (["--max-restarts", "2", "-np", "1", runs.FUCINA, "train", "a", ":", "-np", "1", runs.FUCINA, "train", "a"],
     '--max-restarts restarts one program, not several joined by ":"'),
    (["--max-restarts", "2", "--never-heard-of", "-np", "2", runs.FUCINA, "train", "a"],
     "--max-restarts: an option of mpirun in")])
def test_what_cannot_be_restarted_is_refused(arguments, words):
    done = subprocess.run([runs.MPIRUN, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith("error: mpirun.sh: " + words) and done.stderr.count("\n") == 1, done.stderr


@pytest.mark.parametrize("keys, ranks", [('numerics = "exact"\nsums = "tree"', 2), ('sums = "integers"', 3),
                                         ('numerics = "fast"', 3)])
def test_ranks_on_the_hosts_that_are_left(tmp_path, keys, ranks):
    """A restart of four ranks when three of four hosts answer; nobody asks real hosts."""
    (tmp_path / "recipe.resolved.toml").write_text(f"[train]\n{keys}\n")
    (tmp_path / "note").write_text(f"{tmp_path}\n")
    script = f"""
        source {runs.ROOT}/launch/mpirun_restart.sh
        files={tmp_path}; FUCINA_RUN_NOTE={tmp_path}/note
        hosts_kind=list all_hosts=h1,h2,h3,h4 hosts_at=1 all_ranks=4 ranks_at=3
        before=(--host h1,h2,h3,h4 -np 4)
        answers() {{ [ "$1" != h3 ]; }}
        keep_living_hosts && echo "${{before[*]}}"
    """
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert done.stderr == "mpirun.sh: host h3 does not answer and is left out\n"
    words = done.stdout.split()
    assert words[2:] == ["-np", str(ranks)] and sorted(words[1].split(",")) == ["h1", "h2", "h4"]
