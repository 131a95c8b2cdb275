"""numerics = "exact": the same bits whatever the ranks, passes, threads and instruction set.

Guards against sums whose order depends on the layout: gradients, losses, the norm, counts of tokens.
"""
import pathlib

import pytest

import runs

STEPS = 12
# The portable order of products, as instruction sets are compared.
BASE = {"train__steps": STEPS, "checkpoint__every": 0, "train__balance_loss": 1e-3,
        "exact__products": "amx"}


@pytest.fixture(scope="module")
def one_rank(tmp_path_factory):
    """The run that all others must equal, by precision."""
    made = {}

    def get(precision, **keys):
        name = precision + "".join(f"-{key}-{keys[key]}" for key in sorted(keys))
        if name not in made:
            made[name] = start(tmp_path_factory.mktemp(name), precision, **keys)
        return made[name]

    return get


def start(directory, precision, ranks=1, env=None, **keys):
    runs.write_tokens(directory / "ids.json")
    runs.train(directory, ranks=ranks, env=env, train__precision=precision, **{**BASE, **keys})
    return directory


def levels():
    """Instruction-set levels of this machine, the slow emulation left to bf16."""
    found = ["scalar"]
    flags = pathlib.Path("/proc/cpuinfo").read_text()
    for level, flag in [("avx2", "avx2"), ("avx512", "avx512f"), ("avx512_bf16", "avx512_bf16")]:
        if f" {flag} " in flags:
            found.append(level)
    return found + ["amx-emulated" if " amx_bf16 " not in flags else "amx"]


VARIANTS = [
    ("2 ranks", {"ranks": 2}),
    ("4 ranks", {"ranks": 4}),
    ("8 ranks of one grain", {"ranks": 8, "train__micro_batch": 1}),
    ("experts over 2 ranks", {"ranks": 2, "parallel__expert": 2}),
    ("experts over 2 of 4 ranks, in small passes",
     {"ranks": 4, "parallel__expert": 2, "train__micro_batch": 1, "train__merge_passes": False}),
    ("experts over 8 ranks", {"ranks": 8, "parallel__expert": 8}),
    ("moments shared out", {"ranks": 2, "parallel__zero": 1}),
    ("moments and experts shared out", {"ranks": 4, "parallel__expert": 2, "parallel__zero": 1}),
    ("matrices over 2 ranks", {"ranks": 2, "parallel__tensor": 2}),
    ("matrices over 2 of 8 ranks, experts over 4, moments shared out",
     {"ranks": 8, "parallel__tensor": 2, "parallel__expert": 4, "parallel__zero": 1}),
    ("matrices over 4 ranks that do not share tokens",
     {"ranks": 4, "parallel__tensor": 4, "parallel__sequence": False, "train__recompute": "block"}),
    ("gradients shared out", {"ranks": 4, "parallel__zero": 2}),
    ("weights and experts shared out", {"ranks": 4, "parallel__expert": 2, "parallel__zero": 3}),
    ("micro_batch 1", {"train__micro_batch": 1, "train__merge_passes": False}),
    ("micro_batch 3", {"train__micro_batch": 3, "train__merge_passes": False}),
    ("micro_batch 2, merged", {"train__micro_batch": 2}),
    ("micro_batch 8", {"train__micro_batch": 8}),
    ("2 threads", {"env": {"FUCINA_THREADS": "2"}}),
    ("3 threads on 2 ranks", {"ranks": 2, "env": {"FUCINA_THREADS": "3"}}),
    ("recompute block", {"train__recompute": "block"}),
    ("recompute mla_up", {"train__recompute": "mla_up"}),
] + [(f"level {level}", {"env": {"FUCINA_ISA": level}}) for level in levels()]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name, change", [
    pytest.param(*variant, id=variant[0], marks=[] if i == 0 else pytest.mark.slow)
    for i, variant in enumerate(VARIANTS)])
def test_same_bits(tmp_path, one_rank, precision, name, change):
    expected = one_rank(precision)
    assert runs.metrics(expected)[-1]["loss"] < runs.metrics(expected)[0]["loss"]
    difference = runs.same_run(expected, start(tmp_path, precision, **change), STEPS)
    assert difference is None, f"{name}: {difference}"


ORDERS = ["fma"] + (["vdpbf16"] if "avx512_bf16" in levels() else [])
OF_EACH_ORDER = ["2 ranks", "8 ranks of one grain", "micro_batch 1", "3 threads on 2 ranks",
                 "recompute block"]


@pytest.mark.parametrize("order, name", [
    pytest.param(order, name, marks=[] if name == "2 ranks" else pytest.mark.slow)
    for order in ORDERS
    for name, _ in VARIANTS if name in OF_EACH_ORDER or order == "fma" and name.startswith("level")])
def test_same_bits_in_each_order_of_products(tmp_path, one_rank, order, name):
    expected = one_rank("bf16", exact__products=order)
    change = {"exact__products": order, **dict(VARIANTS)[name]}
    assert runs.same_run(expected, start(tmp_path, "bf16", **change), STEPS) is None


def test_orders_of_products_differ(one_rank):
    """Else the tests above would show nothing."""
    for order in ORDERS:
        assert runs.same_run(one_rank("bf16"), one_rank("bf16", exact__products=order), STEPS)


@pytest.mark.parametrize("ranks, expert, later_ranks", [(3, 3, 5), pytest.param(6, 2, 1, marks=pytest.mark.slow)])
def test_sums_of_integers_on_any_number_of_ranks(tmp_path, one_rank, ranks, expert, later_ranks):
    """Half of the run on some ranks, half on others, none of them a divisor of exact.replicas."""
    keys = {"train__schedule": "constant", "exact__sums": "integers"}
    assert runs.same_run(one_rank("bf16", **keys), one_rank("bf16", train__schedule="constant"), STEPS)
    start(tmp_path, "bf16", ranks=ranks, parallel__expert=expert, **{**keys, "train__steps": STEPS // 2})
    done = runs.resume(tmp_path, "--set", f"train.steps={STEPS}", ranks=later_ranks)
    assert "in grains of 1, as integers" in done.stdout
    assert runs.state(one_rank("bf16", **keys), STEPS) == runs.state(tmp_path, STEPS)


@pytest.mark.slow
def test_same_bits_with_an_uneven_batch_and_larger_grains(tmp_path, one_rank):
    """7 sequences in grains of 2 on 4 ranks: a last grain of one sequence, ranks of one grain."""
    keys = {"train__global_batch": 7, "exact__grain": 2}
    expected = one_rank("bf16", **keys)
    for ranks in (2, 4):
        directory = tmp_path / str(ranks)
        directory.mkdir()
        assert runs.same_run(expected, start(directory, "bf16", ranks=ranks, **keys), STEPS) is None


@pytest.mark.slow
@pytest.mark.parametrize("batch", [8, 7])
def test_same_bits_in_several_waves(tmp_path, one_rank, batch):
    """4 replicas: two waves, the second of which may leave a replica out."""
    keys = {"train__global_batch": batch, "exact__replicas": 4}
    expected = one_rank("bf16", **keys)
    assert runs.same_run(expected, one_rank("bf16", train__global_batch=batch), STEPS)
    for name, change in [("2 ranks", {"ranks": 2}), ("4 ranks", {"ranks": 4}),
                         ("micro_batch 1", {"train__micro_batch": 1, "train__merge_passes": False}),
                         ("micro_batch 8 on 2 ranks", {"ranks": 2, "train__micro_batch": 8})]:
        directory = tmp_path / name
        directory.mkdir()
        difference = runs.same_run(expected, start(directory, "bf16", **change, **keys), STEPS)
        assert difference is None, f"{name}: {difference}"


@pytest.mark.slow
def test_ranks_without_grains_take_part(tmp_path, one_rank):
    keys = {"train__global_batch": 3}
    expected = one_rank("fp32", **keys)
    assert runs.same_run(expected, start(tmp_path, "fp32", ranks=4, **keys), STEPS) is None


@pytest.mark.slow
@pytest.mark.parametrize("before, later", [
    ({"ranks": 4, "expert": 4}, {}),
    ({}, {"ranks": 2, "expert": 2, "zero": 1}),
    ({"ranks": 4, "expert": 2, "zero": 1}, {"ranks": 8, "expert": 4, "zero": 1}),
    ({"ranks": 4, "expert": 2, "zero": 1}, {}),
    ({"ranks": 4, "tensor": 2}, {"ranks": 4, "tensor": 4, "expert": 4}),
    ({"ranks": 2, "expert": 2}, {"ranks": 4, "tensor": 2, "zero": 1}),
    ({"ranks": 4, "tensor": 2, "zero": 1}, {}),
    ({"ranks": 4, "expert": 2, "zero": 3}, {"ranks": 2, "zero": 2}),
    ({"ranks": 2, "zero": 2}, {"ranks": 4, "expert": 2, "zero": 3}),
    ({"ranks": 4, "tensor": 2, "zero": 3}, {}),
])
def test_resume_under_another_layout(tmp_path, one_rank, before, later):
    keys = {"train__schedule": "constant"}
    layout = {"expert": 0, "zero": 0, "tensor": 1}
    start(tmp_path, "bf16", ranks=before.get("ranks", 1),
          **{f"parallel__{key}": before.get(key, value) for key, value in layout.items()},
          **{**keys, "train__steps": STEPS // 2})
    changes = [f"train.steps={STEPS}"] + [f"parallel.{key}={later.get(key, value)}" for key, value in layout.items()]
    runs.resume(tmp_path, *(word for change in changes for word in ("--set", change)), ranks=later.get("ranks", 1))
    expected = one_rank("bf16", **keys)
    assert runs.state(expected, STEPS) == runs.state(tmp_path, STEPS)


@pytest.mark.parametrize("keys, line", [
    ({"exact__chunks": 3}, "exact.chunks = 3, but the model has 4 heads, widths of 48 and 16 and a vocabulary of 64; "
                           "legal: 1, 2, 4"),
    ({"exact__replicas": 6}, "exact.replicas is 6, no power of two; the nearest are 4 and 8"),
    ({"parallel__zero": 4}, "parallel.zero"),
])
def test_impossible_orders_and_layouts(tmp_path, keys, line):
    runs.write_tokens(tmp_path / "ids.json")
    done = runs.train(tmp_path, expect=2, **keys)
    assert line in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
    assert not (tmp_path / "run").exists()


def test_a_model_runs_over_ranks(tmp_path, one_rank):
    """The same text and the same loss, each rank loading its own experts and its part of the matrices."""
    run = one_rank("bf16") / "run"
    (tmp_path / "prompts.json").write_text("[[1, 2, 3], [7]]")
    commands = [("generate", run, "--tokens", tmp_path / "prompts.json", "--max-tokens", 12, "--ignore-eos"),
                ("eval", run, "--data", one_rank("bf16") / "ids.json", "--format", "tokens")]
    for command in commands:
        alone = runs.run(*command)
        assert alone.returncode == 0, alone.stderr
        for ranks, layout in ((2, ("--expert", 2)), (4, ("--expert", 2)), (2, ("--tensor", 2)),
                              (4, ("--tensor", 2, "--expert", 4))):
            done = runs.run(*command, *layout, ranks=ranks)
            assert done.returncode == 0, done.stderr
            assert done.stdout == alone.stdout, layout
    for layout, line in ((("--expert", 3), "--expert = 3 does not divide 2 ranks; legal: 1, 2"),
                         (("--tensor", 3), "--tensor = 3 does not divide 2 ranks; legal: 1, 2")):
        done = runs.run(*commands[0], *layout, ranks=2)
        assert done.returncode == 2
        assert line in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr


@pytest.mark.slow
def test_a_resume_on_fewer_ranks_shares_experts_out_among_fewer(tmp_path, one_rank):
    keys = {"train__schedule": "constant"}
    start(tmp_path, "bf16", ranks=4, parallel__expert=4, **{**keys, "train__steps": STEPS // 2})
    done = runs.resume(tmp_path, "--set", f"train.steps={STEPS}", ranks=2)
    assert "parallel.expert, 4 before and 2 from here on: this is 2 ranks" in done.stdout
    assert runs.state(one_rank("bf16", **keys), STEPS) == runs.state(tmp_path, STEPS)
    done = runs.resume(tmp_path, "--set", "parallel.expert=4", ranks=2, expect=2)
    assert "parallel.expert = 4 does not divide 2 ranks; legal: 1, 2" in done.stderr


@pytest.mark.parametrize("ranks, keys, line", [
    (4, {"parallel__expert": 3}, "parallel.expert = 3 does not divide 4 ranks; legal: 1, 2, 4"),
    (4, {"parallel__tensor": 3}, "parallel.tensor = 3 does not divide 4 ranks; legal: 1, 2, 4"),
    (4, {"parallel__tensor": 2, "parallel__expert": 1},
     "parallel.expert = 1 is not a multiple of parallel.tensor = 2; legal: 2, 4"),
    (2, {"parallel__tensor": 2, "exact__chunks": 1}, "parallel.tensor = 2 does not divide exact.chunks = 1; legal: 1"),
    (3, {"parallel__tensor": 3, "train__numerics": "fast"},
     "parallel.tensor = 3, but the model has 4 heads, widths of 48 and 16 and a vocabulary of 64; legal: 1, 2, 4"),
])
def test_layouts_that_do_not_fit(tmp_path, ranks, keys, line):
    runs.write_tokens(tmp_path / "ids.json")
    done = runs.train(tmp_path, ranks=ranks, expect=2, **keys)
    assert line in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr


def test_illegal_number_of_ranks(tmp_path):
    runs.write_tokens(tmp_path / "ids.json")
    done = runs.train(tmp_path, ranks=3, expect=2)
    assert "3 ranks do not divide exact.replicas = 8; legal: 1, 2, 4, 8" in done.stderr
    assert 'on any number with exact.sums = "integers"' in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_fast_numerics_on_any_ranks(tmp_path):
    runs.write_tokens(tmp_path / "ids.json")
    runs.train(tmp_path, ranks=3, train__numerics="fast", train__steps=3)
    assert len(runs.metrics(tmp_path)) == 3
