"""exact.products: "auto" becomes what all ranks have, is stored, and is kept when the run goes on.

Guards against a run that silently goes on in other bits on another CPU.
"""
import pathlib
import subprocess
import tomllib

import pytest

import runs

BF16 = " avx512_bf16 " in pathlib.Path("/proc/cpuinfo").read_text()
needs_bf16 = pytest.mark.skipif(not BF16, reason="this machine has no AVX512_BF16")
AVX2 = {"FUCINA_ISA": "avx2"}


def begin(directory, env=None, **keys):
    runs.write_tokens(directory / "ids.json")
    return runs.train(directory, env=env, **{"train__precision": "bf16", **keys})


def stored(directory):
    return tomllib.loads((directory / "run" / "recipe.resolved.toml").read_text())["exact"]["products"]


def test_auto_is_resolved_printed_and_stored(tmp_path):
    done = begin(tmp_path, env=AVX2)
    assert stored(tmp_path) == "fma"
    assert "bf16 products in the order fma" in done.stdout
    assert "auto: the fastest that all ranks have" in done.stdout


def test_a_resume_keeps_the_order(tmp_path):
    begin(tmp_path, exact__products="amx", train__steps=8)
    done = runs.resume(tmp_path, "--set", "train.steps=12")
    assert stored(tmp_path) == "amx" and "order amx" in done.stdout


@needs_bf16
def test_a_cpu_without_the_order_is_told_the_two_ways_on(tmp_path):
    begin(tmp_path, exact__products="vdpbf16", train__steps=8)
    before = (tmp_path / "run" / "recipe.resolved.toml").read_bytes()
    done = runs.resume(tmp_path, "--set", "train.steps=12", env=AVX2, expect=2)
    assert len(done.stderr.splitlines()) == 1
    for part in ('exact.products = "vdpbf16"', "AVX512_BF16", "--set exact.products=fma", "on a CPU that has it"):
        assert part in done.stderr
    assert (tmp_path / "run" / "recipe.resolved.toml").read_bytes() == before
    done = runs.resume(tmp_path, "--set", "train.steps=12", "--set", "exact.products=fma", env=AVX2)
    assert "products fma from here on, vdpbf16 before: other bits from here on" in done.stdout
    assert stored(tmp_path) == "fma"


@needs_bf16
def test_train_refuses_an_order_that_the_cpu_lacks(tmp_path):
    runs.write_tokens(tmp_path / "ids.json")
    done = runs.train(tmp_path, env=AVX2, expect=2, train__precision="bf16", exact__products="vdpbf16")
    assert 'take "auto", "fma" or "amx"' in done.stderr
    assert not (tmp_path / "run").exists()


@needs_bf16
def test_ranks_on_different_cpus_take_what_all_have(tmp_path):
    runs.write_tokens(tmp_path / "ids.json")
    path = runs.write_recipe(tmp_path / "recipe.toml", runs.recipe(tmp_path, train__precision="bf16"))
    done = subprocess.run([runs.MPIRUN, "-np", "1", "-x", "FUCINA_THREADS=1", runs.FUCINA, "train", path,
                           ":", "-np", "1", "-x", "FUCINA_ISA=avx2", "-x", "FUCINA_THREADS=1",
                           runs.FUCINA, "train", path], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert stored(tmp_path) == "fma"


@needs_bf16
def test_evaluation_says_when_the_runs_order_is_missing(tmp_path):
    begin(tmp_path, exact__products="vdpbf16")
    arguments = ("eval", tmp_path / "run", "--data", tmp_path / "ids.json", "--format", "tokens")
    assert "products" not in runs.run(*arguments).stdout
    done = runs.run(*arguments, env=AVX2)
    assert done.returncode == 0, done.stderr
    assert "products fma: the run's vdpbf16 needs AVX512_BF16" in done.stdout
