"""What only one rank meets ends all ranks at once, with that rank's message, once, and its exit code."""
import os
import shutil
import subprocess
import time

import pytest

import runs

slow = pytest.mark.slow
PLAIN = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
         "OMPI_MCA_rmaps_base_oversubscribe": "1"}
LAUNCHERS = pytest.mark.parametrize("launcher", [runs.MPIRUN, pytest.param("mpirun", marks=slow)])


def launch(launcher, *parts, env=None):
    """Runs `launcher -np 2 program ...`, or one program a rank where there are two parts."""
    line = [launcher, "-np", "2", *map(str, parts[0])] if len(parts) == 1 else [
        launcher, "-np", "1", *map(str, parts[0]), ":", "-np", "1", *map(str, parts[1])]
    environment = {**os.environ, **PLAIN, "FUCINA_THREADS": "1", **(env or {})}
    return subprocess.run(line, capture_output=True, text=True, timeout=60, env=environment)


def errors(done):
    """Its lines of error; mpirun's own words about the end of a job are not ours."""
    return [line for line in done.stderr.splitlines() if line.startswith("error:")]


def prepared(directory, **keys):
    runs.write_tokens(directory / "ids.json")
    return runs.write_recipe(directory / "recipe.toml", runs.recipe(directory, **keys))


THROWN = {"error": (11, "fault at {}"), "memory": (1, "out of memory"),
          "filesystem": (11, "{}: Input/output error"), "other": (1, "something that is no exception was thrown")}


@LAUNCHERS
@pytest.mark.parametrize("thrown", THROWN)
@pytest.mark.parametrize("point, rank", [
    ("step.update", 1), ("metrics.open", 0),
    pytest.param("eval.samples", 0, marks=slow), pytest.param("eval.loss", 1, marks=slow)])
def test_it_ends_all(tmp_path, launcher, point, rank, thrown):
    recipe = prepared(tmp_path, train__steps=1000, eval__every=1, checkpoint__every=0)
    start = time.time()
    done = launch(launcher, [runs.FUCINA, "train", recipe],
                  env={"FUCINA_FAULT": f"{point},rank={rank},throw={thrown}"})
    # From the start of mpirun on; half a second of it is the wait for other ranks that fail, too.
    assert time.time() - start < 3.5
    code, words = THROWN[thrown]
    assert done.returncode == code, (done.returncode, done.stdout[-500:], done.stderr)
    line, = errors(done)
    assert line.startswith(f"error: rank {rank}: " + words.format(point)), line


@pytest.mark.parametrize("launcher", [runs.MPIRUN, "mpirun"])
def test_within_a_second(tmp_path, launcher):
    """From the last line of metrics to the end of mpirun; a busy machine gets five tries."""
    recipe = prepared(tmp_path, train__steps=1000, eval__every=0, checkpoint__every=0, data__valid=None)
    seconds = []
    while len(seconds) < 5 and min(seconds, default=9) >= 1:
        done = launch(launcher, [runs.FUCINA, "train", recipe, "--fresh"],
                      env={"FUCINA_FAULT": "step.update,rank=1,nth=20,throw=error"})
        seconds.append(time.time() - (tmp_path / "run" / "metrics.jsonl").stat().st_mtime)
        assert errors(done) == ["error: rank 1: fault at step.update"], done.stderr
    assert min(seconds) < 1, seconds


@LAUNCHERS
@pytest.mark.parametrize("thrown", ["memory", "filesystem"])
@pytest.mark.parametrize("rank", [0, 1])
def test_within_a_save(tmp_path, launcher, thrown, rank):
    """Where ranks agree anyway: no want of memory passes for a want of space, and std::filesystem's does."""
    recipe = prepared(tmp_path, train__steps=4)
    done = launch(launcher, [runs.FUCINA, "train", recipe],
                  env={"FUCINA_FAULT": f"save.begin,rank={rank},throw={thrown}"})
    who = f"rank {rank}: " if rank else ""
    line, = errors(done)
    if thrown == "memory":
        assert done.returncode == 1 and line == f"error: {who}out of memory", done.stderr
    else:
        assert done.returncode == 11 and "the last step could not be saved" in line, done.stderr
        assert f"was NOT saved: {who}save.begin: Input/output error" in done.stdout


@LAUNCHERS
def test_data_that_one_rank_cannot_read(tmp_path, launcher, failing_calls):
    """In the thread that reads ahead: a system that stops reading is storage, in the words of the file."""
    runs.write_tokens(tmp_path / "ids.json")
    assert runs.run("data", "prepare", "--input", tmp_path / "ids.json", "--output", tmp_path / "ids.h5",
                    "--vocab-size", 61).returncode == 0
    recipe = prepared(tmp_path, data__train=[{"path": str(tmp_path / "ids.h5")}], data__valid=None, train__steps=1000)
    done = launch(launcher, [runs.FUCINA, "train", recipe],
                  env={"LD_PRELOAD": str(failing_calls), "FAIL_PATH": "ids.h5", "FAIL_CALL": "pread",
                       "FAIL_NTH": "60", "FAIL_RANK": "1"})
    line, = errors(done)
    assert done.returncode == 11 and line.startswith(f"error: rank 1: {tmp_path}/ids.h5: "), done.stderr
    assert "step 2/" in done.stdout


@LAUNCHERS
@pytest.mark.parametrize("name", ["metrics.jsonl", pytest.param("recipe.resolved.toml", marks=slow)])
def test_what_only_the_first_rank_opens(tmp_path, launcher, name):
    recipe = prepared(tmp_path, train__steps=4)
    assert launch(launcher, [runs.FUCINA, "train", recipe]).returncode == 0
    shutil.move(tmp_path / "run" / name, tmp_path / "old")
    (tmp_path / "run" / name).mkdir()
    done = launch(launcher, [runs.FUCINA, "resume", tmp_path / "run", "--set", "train.steps=6"])
    line, = errors(done)
    assert done.returncode == 11 and f"/run/{name}" in line, (done.returncode, done.stderr)


@pytest.fixture
def two_places(tmp_path):
    """Two machines, as it were, with the same recipe and names."""
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        values = runs.recipe(tmp_path / place, data__train=[{"path": "ids.json"}],
                             data__valid=[{"path": "ids.json"}], run__dir=str(tmp_path / "run"))
        runs.write_recipe(tmp_path / place / "recipe.toml", values)
        runs.write_tokens(tmp_path / place / "ids.json")
    return tmp_path


def in_places(directory, *arguments):
    parts = [["-wdir", directory / place, runs.FUCINA, *arguments] for place in ("a", "b")]
    return launch("mpirun", *parts)


def test_ranks_that_read_other_data(two_places):
    assert in_places(two_places, "train", "recipe.toml", "--set", "train.steps=2").returncode == 0
    runs.write_tokens(two_places / "b" / "ids.json", seed=2)
    for command in (["train", "recipe.toml", "--fresh"], ["resume", str(two_places / "run")]):
        done = in_places(two_places, *command)
        line, = errors(done)
        assert done.returncode == 3 and line.startswith("error: rank 1: ids.json is content of hash "), done.stderr
        assert line.endswith("; every rank must read the same files")
    (two_places / "b" / "ids.json").unlink()
    done = in_places(two_places, "train", "recipe.toml", "--fresh")
    line, = errors(done)
    assert done.returncode == 3 and line.startswith("error: rank 1: ids.json: "), done.stderr


def test_ranks_that_start_from_other_weights(two_places):
    for place, seed in (("a", 1), ("b", 2)):
        runs.train(two_places / place, train__steps=1, train__seed=seed,
                   run__dir=str(two_places / place / "from"))
        runs.write_recipe(two_places / place / "recipe.toml", {
            **{key: value for key, value in runs.recipe(two_places / place).items() if not key.startswith("model.")},
            "model.from": "from", "run.dir": str(two_places / "run"), "data.train": [{"path": "ids.json"}], "data.valid": []})
    done = in_places(two_places, "train", "recipe.toml")
    line, = errors(done)
    assert done.returncode == 14 and line.startswith("error: rank 1: embed"), done.stderr
    assert line.endswith("; every rank must read the same model.from")


@LAUNCHERS
def test_ranks_with_other_recipes(tmp_path, launcher):
    recipe = prepared(tmp_path)
    other = [runs.FUCINA, "train", recipe, "--set", "train.learning_rate=0.5"]
    done = launch(launcher, [runs.FUCINA, "train", recipe], other)
    assert done.returncode == 2, done.stderr
    assert errors(done) == ["error: rank 1: train.learning_rate is 0.5, on rank 0 0.003; "
                            "start all ranks with the same recipe and --set"]
    done = launch(launcher, [runs.FUCINA, "train", recipe], [*other, "--set", "data.valid=[]"])
    assert done.returncode == 2 and len(errors(done)) == 1
    assert not (tmp_path / "run").exists()


@LAUNCHERS
def test_ranks_with_other_programs(tmp_path, launcher):
    recipe = prepared(tmp_path)
    build = tmp_path / "fucina"
    build.write_bytes(open(runs.FUCINA, "rb").read() + b"\0")
    build.chmod(0o755)
    done = launch(launcher, [runs.FUCINA, "train", recipe], [build, "train", recipe])
    line, = errors(done)
    assert done.returncode == 2 and line.startswith("error: rank 1: the program is fucina 0."), done.stderr
    done = launch(launcher, [runs.FUCINA, "train", recipe], [runs.FUCINA, "doctor"])
    assert done.returncode == 2
    assert errors(done) == ["error: rank 1: the command is doctor, on rank 0 train; start the same on every rank"]
