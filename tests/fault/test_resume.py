"""Resume after kill -9 in a step, on the same and on other ranks, equals a run never interrupted. Kills in a save:
test_kill_anywhere.py."""
import signal
import time

import pytest

import runs

STEPS = 26
slow = pytest.mark.slow


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing interrupts."""
    directory = tmp_path_factory.mktemp("whole")
    runs.write_tokens(directory / "ids.json")
    runs.train(directory, train__steps=STEPS, train__merge_passes=False)
    return directory


def interrupted(directory, fault, ranks=1):
    runs.write_tokens(directory / "ids.json")
    done = runs.train(directory, ranks=ranks, env={"FUCINA_FAULT": fault}, expect=None,
                      train__steps=STEPS, train__merge_passes=False, checkpoint__snapshot=0)
    assert done.returncode not in (0, 1, 2), "the fault never happened"
    return directory


@pytest.mark.parametrize("fault", [
    "step.backward,nth=90",  # the second of four passes of a later step
    "step.update,nth=6",
])
def test_resume_after_kill(tmp_path, whole, fault):
    interrupted(tmp_path, fault)
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"step":999,"lo')  # a torn last line
    done = runs.resume(tmp_path)
    assert "WARNING" not in done.stdout
    assert runs.same_run(whole, tmp_path, STEPS) is None
    names = runs.checkpoints(tmp_path)
    assert names == [f"step-{STEPS - 2:08d}", f"step-{STEPS:08d}"], "leftovers, or too few kept"
    assert [line["step"] for line in runs.metrics(tmp_path)] == list(range(1, STEPS + 1))


@slow
def test_resume_of_two_ranks(tmp_path, whole):
    interrupted(tmp_path, "step.update,rank=1,nth=7", ranks=2)
    runs.resume(tmp_path, ranks=2)
    assert runs.same_run(whole, tmp_path, STEPS) is None


@slow
@pytest.mark.parametrize("before, after", [(1, 4), (4, 1), (2, 4)])
def test_resume_on_other_ranks(tmp_path, whole, before, after):
    interrupted(tmp_path, "step.update,nth=11", ranks=before)
    runs.resume(tmp_path, ranks=after)
    assert runs.same_run(whole, tmp_path, STEPS) is None


def test_killed_before_the_first_checkpoint(tmp_path):
    interrupted(tmp_path, "step.update,nth=2")
    done = runs.resume(tmp_path, expect=10)
    assert "fucina train" in done.stderr and len(done.stderr.splitlines()) == 1
    assert "holds an earlier run" in runs.train(tmp_path, expect=2).stderr
    path = runs.write_recipe(tmp_path / "recipe.toml", runs.recipe(tmp_path, train__steps=4))
    assert runs.run("train", path, "--fresh").returncode == 0
    assert (tmp_path / "run.old-1" / "metrics.jsonl").exists()


@slow
def test_save_on_request_and_go_on(tmp_path):
    process = runs.start_long(tmp_path)
    done = runs.run("train", tmp_path / "recipe.toml")
    assert done.returncode == 2 and f"is in use by process {process.pid} on" in done.stderr
    process.send_signal(signal.SIGUSR1)
    for _ in range(200):
        if (tmp_path / "run" / "checkpoints").exists() and runs.checkpoints(tmp_path):
            break
        time.sleep(0.05)
    saved = int(runs.checkpoints(tmp_path)[0].removeprefix("step-").split(".")[0])
    runs.wait_for_step(tmp_path, saved + 2)
    process.kill()
    process.communicate()
    done = runs.resume(tmp_path, "--set", f"train.steps={saved + 1}")
    assert f"after step {saved}" in done.stdout


def test_changes_on_resume(tmp_path, whole):
    runs.copy_run(whole, tmp_path)
    for change, words in [("model.hidden_size=64", "model.hidden_size was 32 and is now 64"),
                          ("train.moments=bf16", "train.moments was fp32 and is now bf16"),
                          ("train.mtp_loss=0.0", "train.mtp_loss > 0 was true and is now false"),
                          ("data.sequence_length=12", "data.sequence_length was 24 and is now 12")]:
        done = runs.resume(tmp_path, "--set", change, expect=2)
        assert words in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
    done = runs.resume(tmp_path, "--set", "train.learning_rate=1e-5", "--set",
                       f"train.steps={STEPS + 2}")
    assert "changed  train.learning_rate" in done.stdout
    lines = runs.metrics(tmp_path)
    assert lines[:STEPS] == runs.metrics(whole) and lines[-1]["lr"] <= 1e-5
