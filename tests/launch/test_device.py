"""The whole program with run.device = "cuda", on the GPU that the SIMT model is: the same host code, allocator
and kernels as with one. Without the race detector, which the kernels' own tests have."""
import json
import shutil

import pytest

from support import runs

ON_GPU = {"FUCINA_SIMT_RACES": "0"}
SMALL = {"run__device": "cuda", "train__global_batch": 4, "data__valid": None, "checkpoint__every": 2,
         "model__num_hidden_layers": 2}


def gpu(description):
    return {"FUCINA_SIMT_GPU": description}


pytestmark = pytest.mark.skipif("built without CUDA" in runs.run("doctor").stdout,
                                reason="the program was built without CUDA")


def trained(directory, ranks=1, env=None, **keys):
    runs.write_tokens(directory / "ids.json")
    values = runs.recipe(directory, **{**SMALL, **keys})
    values["exact.products"] = "fma"
    path = runs.write_recipe(directory / "recipe.toml", values)
    done = runs.run("train", path, ranks=ranks, env={**ON_GPU, **(env or {})}, timeout=300)
    assert done.returncode == 0, (done.stdout[-2000:], done.stderr)
    return done


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_twenty_steps_are_the_cpus_to_the_bit(tmp_path, precision):
    for device in ("cpu", "cuda"):
        (tmp_path / device).mkdir()
        done = trained(tmp_path / device, run__device=device, train__precision=precision, train__steps=20,
                       checkpoint__every=20)
        assert ("SIMT model" in done.stdout) == (device == "cuda")
    assert runs.same_run(tmp_path / "cpu", tmp_path / "cuda", 20) is None
    losses = [line["loss"] for line in runs.metrics(tmp_path / "cuda")]
    assert losses[0] - losses[-1] > 0.1, losses


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_saves_and_resumes_to_the_bit(tmp_path, device):
    """On a GPU, and what a GPU began on a CPU."""
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    trained(tmp_path / "whole", train__steps=4)
    trained(tmp_path / "parts", train__steps=4, checkpoint__every=2)
    shutil.rmtree(tmp_path / "parts" / "run" / "checkpoints" / "step-00000004")
    done = runs.resume(tmp_path / "parts", "--set", f"run.device={device}", env=ON_GPU)
    assert "after step 2" in done.stdout
    assert runs.same_run(tmp_path / "whole", tmp_path / "parts", 4) is None


def test_the_host_keeps_off_the_devices_memory(tmp_path):
    """A step with every loss, a save, an evaluation: whatever touches it but kernels and copies ends the program."""
    done = trained(tmp_path, env={"FUCINA_SIMT_GUARD": "1"}, train__steps=1, checkpoint__every=1, eval__every=1,
                   data__valid=[{"path": str(tmp_path / "ids.json"), "format": "tokens"}], train__precision="bf16")
    assert "valid" in done.stdout


def test_two_ranks_train_what_one_does(tmp_path):
    for name, ranks, expert in (("one", 1, 1), ("two", 2, 2)):
        (tmp_path / name).mkdir()
        trained(tmp_path / name, ranks=ranks, train__steps=2, parallel__expert=expert)
    assert runs.same_run(tmp_path / "one", tmp_path / "two", 2) is None


def test_generates_and_evaluates_as_on_the_cpu(tmp_path):
    trained(tmp_path, train__steps=2)
    (tmp_path / "prompts.json").write_text(json.dumps([[1, 2, 3, 4], [5, 6]]))
    commands = [("generate", tmp_path / "run", "--tokens", tmp_path / "prompts.json", "--max-tokens", "8"),
                ("eval", tmp_path / "run", "--tokens", tmp_path / "ids.json", "--precision", "fp32")]
    for command in commands:
        here = runs.run(*command)
        there = runs.run(*command, "--device", "cuda", env=ON_GPU, timeout=300)
        assert (here.returncode, there.returncode) == (0, 0), (here.stderr, there.stderr)
        if command[0] == "generate":
            assert here.stdout == there.stdout
        else:
            loss = [float(text.split("loss")[1].split()[0]) for text in (here.stdout, there.stdout)]
            assert abs(loss[0] - loss[1]) < 1e-5, loss


@pytest.mark.parametrize("description, code, message", [
    ("none", 2, "no GPU is visible"),
    ("capability=80", 2, "has compute capability 8.0, and the kernels need 9.0 (H100) or newer"),
    ("driver=12040", 2, "the driver is for CUDA 12.4, and this program was built with CUDA 13.0"),
    ("memory=200000", 1, "out of the GPU's memory: "),
])
def test_a_gpu_that_will_not_do_is_one_line(tmp_path, description, code, message):
    runs.write_tokens(tmp_path / "ids.json")
    path = runs.write_recipe(tmp_path / "recipe.toml", runs.recipe(tmp_path, **SMALL))
    done = runs.run("train", path, env=gpu(description))
    assert done.returncode == code and message in done.stderr and done.stderr.count("\n") == 1, done.stderr
