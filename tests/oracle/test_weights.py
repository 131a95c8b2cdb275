"""Files of weights as they come from the field: what is damaged is refused with the tensor's name, and what a header
may look like is what the safetensors library says."""
import json
import os
import struct

os.environ["HF_HUB_OFFLINE"] = "1"
import numpy as np
import pytest
import torch
from safetensors import deserialize

import deepseek_v3 as v3
from program import fucina


@pytest.fixture
def model(tmp_path):
    """(config, weights, write): write(tensors, **config changes) makes a model of which ids.json is a text."""
    config = v3.BASE | dict(num_hidden_layers=2, num_nextn_predict_layers=0)
    weights = v3.random_weights(config, 7)
    ids = np.random.default_rng(7).integers(0, config["vocab_size"], (2, 24)).tolist()
    (tmp_path / "ids.json").write_text(json.dumps(ids))

    def write(tensors, **changes):
        return v3.write_checkpoint(tmp_path / "model", config | changes, tensors)

    return config, weights, write


def refused(code, *arguments):
    run = fucina(*arguments, check=False)
    assert run.returncode == code, run.stdout + run.stderr
    assert run.stderr.startswith("error: ") and run.stderr.count("\n") == 1
    return run.stderr


RECIPE = """[run]
dir = "{dir}/run"
[model]
from = "{dir}/model"
[data]
train = [{{ path = "{dir}/ids.json", format = "tokens" }}]
sequence_length = 24
[train]
steps = 2
global_batch = 2
threads = 1
learning_rate = 1e-3
"""


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_named_by_every_command(model, tmp_path, dtype, value):
    _, weights, write = model
    name = "model.layers.1.mlp.experts.3.up_proj.weight"
    bad = weights[name].clone()
    bad[5, 17] = value
    directory = write({n: (bad if n == name else t).to(dtype) for n, t in weights.items()})
    (tmp_path / "r.toml").write_text(RECIPE.format(dir=tmp_path))
    for command in (["eval", directory, "--tokens", tmp_path / "ids.json"],
                    ["generate", directory, "--tokens", tmp_path / "ids.json", "--max-tokens", 4],
                    ["train", tmp_path / "r.toml"]):
        text = refused(3, *command)
        assert name in text and "is NaN or infinite at [5, 17]" in text, text


def test_logits_and_losses_that_are_not_finite_end_with_13(model, tmp_path):
    _, weights, write = model
    directory = write(weights | {"model.norm.weight": torch.full_like(weights["model.norm.weight"], 3e38)})
    tokens = ("--tokens", tmp_path / "ids.json")
    assert "loss" in refused(13, "eval", directory, *tokens)
    assert "logit" in refused(13, "eval", directory, *tokens, "--logits", tmp_path / "logits.npy")
    assert not (tmp_path / "logits.npy").exists()
    for temperature in (0, 1):
        assert "logit" in refused(13, "generate", directory, *tokens, "--max-tokens", 4, "--temperature", temperature)
