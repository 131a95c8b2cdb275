"""kill -9 at every named point of a save on every rank, and at random moments: a resume finds the last step that
was saved or the one being saved, never an error, and the run ends with the bits of one that nothing interrupted."""
import os
import random
import re
import signal
import subprocess
import time

import pytest

import runs

STEPS, EVERY = 14, 3
RANKS = (2, 4) if runs.LEVEL == "full" else (2,)
KILLS = 200 if runs.LEVEL == "full" else 10
# Whatever points the source has, so that a new one is tested with the old ones.
POINTS = sorted({point for path in (runs.ROOT / "trainer").glob("*.cpp")
                 for point in re.findall(r'"(save\.[a-z_.]+)"', path.read_text())})


def settings(steps, every):
    return {"train__steps": steps, "train__merge_passes": False, "checkpoint__every": every, "eval__every": steps}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    directory = tmp_path_factory.mktemp("whole")
    runs.write_tokens(directory / "ids.json")
    runs.train(directory, **settings(STEPS, EVERY))
    return directory


def may_be_newest(step, reached, every):
    """Whether a checkpoint of this step may be the newest, where a run came so far. Of one save at a time the last
    may be under way, and a step that is to be saved next waits for it."""
    return step % every == 0 and (reached - 1) // every * every - every <= step <= reached


def check_resume(directory, whole, ranks):
    reached = runs.last_step(directory)
    done = runs.resume(directory, ranks=ranks)
    assert "WARNING" not in done.stdout, done.stdout
    step = int(re.search(r"after step (\d+)", done.stdout).group(1))
    assert may_be_newest(step, reached, EVERY), (step, reached)
    assert runs.same_run(whole, directory, STEPS) is None
    kept = runs.checkpoints(directory)
    assert kept == [f"step-{STEPS // EVERY * EVERY:08d}", f"step-{STEPS:08d}"], kept


def test_points_are_known():
    assert {"save.begin", "save.shard", "save.renamed"} <= set(POINTS)


@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("ranks", RANKS)
def test_every_point_on_every_rank(tmp_path, whole, point, ranks):
    killed = 0
    for rank in range(ranks):
        directory = tmp_path / str(rank)
        directory.mkdir()
        runs.write_tokens(directory / "ids.json")
        done = runs.train(directory, ranks=ranks, expect=None, **settings(STEPS, EVERY),
                          env={"FUCINA_FAULT": f"{point},rank={rank},nth={1 if 'retire' in point else 2}"})
        assert done.returncode in (0, 128 + signal.SIGKILL), done.stderr
        if done.returncode == 0:  # a point that this rank never passes
            assert runs.same_run(whole, directory, STEPS) is None
            break  # nor do those after it
        killed += 1
        check_resume(directory, whole, ranks)
    assert killed in (1, ranks), "a point of the first rank, or of all"


def descendants(process):
    """Numbers of all processes that this one started, and of those that they did."""
    found, look = [], [process]
    while look:
        number = look.pop()
        try:
            with open(f"/proc/{number}/task/{number}/children") as file:
                children = [int(word) for word in file.read().split()]
        except OSError:
            continue  # it ended
        found += children
        look += children
    return found


def is_rank(process):
    try:
        with open(f"/proc/{process}/environ", "rb") as file:
            return b"OMPI_COMM_WORLD_RANK=" in file.read()
    except OSError:
        return False


def life(command, seconds, rng):
    """Runs it for so long and kills one rank, or all that belongs to it; what it printed."""
    environment = {**os.environ, "FUCINA_THREADS": "1"}
    with subprocess.Popen(list(map(str, command)), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True) as process:
        time.sleep(seconds)
        processes = descendants(process.pid)
        ranks = [number for number in processes if is_rank(number)]
        one = ranks and rng.random() < 0.5
        for number in [rng.choice(ranks)] if one else [process.pid, *processes]:
            try:
                os.kill(number, signal.SIGKILL)
            except ProcessLookupError:
                pass
        out, err = process.communicate(timeout=60)
    assert process.returncode != 0, "it came to its end"
    for line in err.splitlines():
        # A rank that was just being started when all others were killed lives for a second more.
        fine = "was killed by signal 9" in line or "is in use by process" in line
        assert fine or not line.startswith("error:"), (err, out[-500:])
    return out


@pytest.mark.slow
def test_random_moments(tmp_path):
    """One run, killed again and again, equals a run of as many steps that nothing interrupts."""
    print("FUCINA_TEST_SEED", runs.SEED)
    rng, every = random.Random(runs.SEED), 2
    steady = {**settings(1000000, every), "train__schedule": "constant", "train__warmup_steps": 0}
    runs.write_tokens(tmp_path / "ids.json")
    path = runs.write_recipe(tmp_path / "recipe.toml", runs.recipe(tmp_path, **steady))
    job = [runs.MPIRUN, "-np", "2", runs.FUCINA]
    reached = resumes = 0
    for _ in range(KILLS):
        folder = tmp_path / "run" / "checkpoints"
        saved = folder.is_dir() and any(re.fullmatch(r"step-\d+", name) for name in runs.checkpoints(tmp_path))
        out = life([*job, "resume", tmp_path / "run"] if saved else [*job, "train", path, "--fresh"],
                   rng.uniform(0, 3), rng)
        if saved and (found := re.search(r"after step (\d+)", out)):
            assert may_be_newest(int(found.group(1)), reached, every), (found.group(1), reached)
            resumes += 1
        reached = runs.last_step(tmp_path)
    print(resumes, "resumes,", reached, "steps")
    assert resumes > 0 and reached > 0
    time.sleep(2)  # for such a rank
    last = reached + 3
    runs.resume(tmp_path, "--set", f"train.steps={last}", "--set", "checkpoint.every=0", ranks=2)
    whole = tmp_path / "whole"
    whole.mkdir()
    runs.write_tokens(whole / "ids.json")
    runs.train(whole, **{**steady, "train__steps": last, "checkpoint__every": 0})
    assert runs.same_run(whole, tmp_path, last) is None
