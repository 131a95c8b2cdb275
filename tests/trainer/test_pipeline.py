"""A pipeline over MPI: the same bits as one rank, checkpoints for any layout, and what is refused.

tests/layouts/pipeline_test.cpp runs more layouts over threads.
"""
import pytest

import runs

STEPS = 6
BASE = {"model__num_hidden_layers": 4, "train__steps": STEPS, "train__schedule": "constant", "train__micro_batch": 1,
        "train__balance_loss": 1e-3, "train__precision": "bf16", "checkpoint__every": 0}


def start(directory, ranks=1, expect=0, **keys):
    directory.mkdir(exist_ok=True)
    runs.write_tokens(directory / "ids.json")
    return runs.train(directory, ranks=ranks, expect=expect, **{**BASE, **keys})


@pytest.fixture(scope="module")
def one_rank(tmp_path_factory):
    made = {}

    def get(**keys):
        name = "-".join(["run", *(f"{key}-{keys[key]}" for key in sorted(keys))])
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name)
            start(made[name], **keys)
        return made[name]

    return get


@pytest.mark.slow
@pytest.mark.parametrize("ranks, layout", [
    (2, {"pipeline": 2}),
    (2, {"pipeline": 2, "schedule": "interleaved"}),
    (4, {"pipeline": 2, "schedule": "zero_bubble", "expert": 2, "zero": 1}),
    (4, {"pipeline": 2, "schedule": "interleaved", "zero": 2}),
    (4, {"pipeline": 2, "zero": 3}),
    (4, {"pipeline": 4}),
    (4, {"pipeline": 2, "tensor": 2, "stage_layers": [3, 1]}),
])
def test_same_bits(tmp_path, one_rank, ranks, layout):
    keys = {"model__tie_word_embeddings": True}
    start(tmp_path, ranks=ranks, **keys, **{f"parallel__{key}": value for key, value in layout.items()})
    assert runs.same_run(one_rank(**keys), tmp_path, STEPS) is None


@pytest.mark.slow
@pytest.mark.parametrize("ranks, before, later_ranks, later", [
    (2, {"pipeline": 2, "schedule": "interleaved"}, 1, {"pipeline": 1}),
    (1, {}, 4, {"pipeline": 4}),
    (4, {"pipeline": 4, "schedule": "zero_bubble"}, 4, {"pipeline": 2, "zero": 1}),
    (4, {"pipeline": 2, "schedule": "zero_bubble", "zero": 3}, 2, {"pipeline": 2, "zero": 0}),
    (2, {"pipeline": 2}, 4, {"pipeline": 2, "schedule": "interleaved", "zero": 3}),
])
def test_a_checkpoint_is_for_any_pipeline(tmp_path, one_rank, ranks, before, later_ranks, later):
    start(tmp_path, ranks=ranks, train__steps=STEPS // 2, **{f"parallel__{key}": value for key, value in before.items()})
    changes = [f"train.steps={STEPS}", *(f"parallel.{key}={value}" for key, value in later.items())]
    runs.resume(tmp_path, *(part for change in changes for part in ("--set", change)), ranks=later_ranks)
    assert runs.state(one_rank(), STEPS) == runs.state(tmp_path, STEPS)


@pytest.mark.slow
def test_a_resume_on_fewer_ranks_has_a_shorter_pipeline(tmp_path, one_rank):
    start(tmp_path, ranks=4, train__steps=STEPS // 2, parallel__pipeline=4, parallel__stage_layers=[1, 1, 1, 1])
    done = runs.resume(tmp_path, "--set", f"train.steps={STEPS}", ranks=2)
    assert "parallel.pipeline, 4 before and 2 from here on: this is 2 ranks" in done.stdout
    assert runs.state(one_rank(), STEPS) == runs.state(tmp_path, STEPS)


@pytest.mark.parametrize("ranks, layout, line", [
    (4, {"pipeline": 3}, "parallel.pipeline = 3 does not divide 4 ranks; legal: 1, 2, 4"),
    (5, {"pipeline": 5}, "parallel.pipeline = 5, but the model has 4 layers, and every stage has one; legal: up to 4"),
    (4, {"pipeline": 4, "schedule": "interleaved"},
     "parallel.pipeline times parallel.virtual_stages = 8, but the model has 4 layers"),
    (2, {"pipeline": 2, "stage_layers": [1, 2]},
     "parallel.stage_layers names 3 layers in 2 stages; expected 4 in 2"),
    (4, {"pipeline": 2, "expert": 4}, "parallel.expert = 4 does not divide 2 ranks"),
])
def test_impossible_pipelines(tmp_path, ranks, layout, line):
    done = start(tmp_path, ranks=ranks, expect=2, **{f"parallel__{key}": value for key, value in layout.items()})
    assert line in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
    assert not (tmp_path / "run").exists()


def test_a_model_runs_over_stages(tmp_path, one_rank):
    """The same text and the same loss, each rank loading its own layers."""
    run = one_rank() / "run"
    (tmp_path / "prompts.json").write_text("[[1, 2, 3], [7]]")
    commands = [("generate", run, "--tokens", tmp_path / "prompts.json", "--max-tokens", 12, "--ignore-eos"),
                ("eval", run, "--data", one_rank() / "ids.json", "--format", "tokens")]
    for command in commands:
        alone = runs.run(*command)
        assert alone.returncode == 0, alone.stderr
        for ranks, stages in ((2, 2), (4, 2), (4, 4)):
            done = runs.run(*command, "--pipeline", stages, ranks=ranks)
            assert done.returncode == 0, done.stderr
            assert done.stdout == alone.stdout
    done = runs.run(*commands[0], "--pipeline", 5, ranks=5)
    assert done.returncode == 2
    assert "--pipeline = 5, but the model has 4 layers" in done.stderr
