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


def logits(directory, tmp_path):
    run = fucina("eval", directory, "--tokens", tmp_path / "ids.json", "--precision", "fp32", "--logits",
                 tmp_path / "logits.npy")
    return np.load(tmp_path / "logits.npy"), run.stderr


def peer_logits(directory, tmp_path):
    from transformers import AutoModelForCausalLM

    peer = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager",
                                                experts_implementation="eager")
    with torch.no_grad():
        return peer(input_ids=torch.tensor(json.loads((tmp_path / "ids.json").read_text()))).logits.numpy()


def close(ours, theirs):
    return np.abs(ours - theirs).max() / np.abs(theirs).max() < 1e-5


def test_what_belongs_to_nothing_that_runs_is_left_aside_in_one_line(model, tmp_path):
    config, weights, write = model
    clean, said = logits(write(weights), tmp_path)
    assert said == ""
    extras = {"model.layers.0.self_attn.k_scale": torch.tensor([0.5]),
              "model.layers.1.self_attn.kv_proj.kv_cache_scaling_factor": torch.tensor(2.0),
              "model.layers.1.mlp.experts.0.up_proj.input_scale": torch.tensor(0.1),
              "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4),
              "model.empty": torch.zeros(0), "model.layers.1.empty": torch.zeros(0, 64),
              "vision_tower.patch.weight": torch.ones(3, 4), "mtp.0.norm.weight": torch.ones(4),
              "model.vision.norm.weight": torch.ones(2, dtype=torch.uint8),
              "model.layers.2.eh_proj.weight": torch.ones(2, 2), "model.layers.7.input_layernorm.weight": torch.ones(1)}
    for some in ({name: extras[name]} for name in extras):
        with_extra, said = logits(write(weights | some), tmp_path)
        assert np.array_equal(with_extra, clean)
        assert said.count("\n") == 1 and said.startswith("note: ") and next(iter(some)) in said
    said = logits(write(weights | extras), tmp_path)[1]
    assert said.count("\n") == 1 and f"{len(extras)} tensors are left aside" in said and said.endswith(", ...\n")
    (tmp_path / "r.toml").write_text(RECIPE.format(dir=tmp_path))
    assert "note: " in fucina("train", tmp_path / "r.toml").stdout


@pytest.mark.parametrize("name", ["model.layers.1.self_attn.q_a_proj.bias", "model.layers.1.mlp.experts.8.up_proj.weight",
                                  "model.layers.0.mlp.gate_proj.weight_scale_inv", "lm_head.bias", "model.norm.bias",
                                  "model.layers.1.self_attn.indexer.wk.weight"])
def test_what_lies_inside_what_runs_must_be_known(model, tmp_path, name):
    _, weights, write = model
    text = refused(3, "eval", write(weights | {name: torch.ones(3, 5)}), "--tokens", tmp_path / "ids.json")
    assert name in text and "unexpected" in text and "[3, 5]" in text


def test_a_tied_model_s_other_half(model, tmp_path):
    _, weights, write = model
    embedding, head = weights["model.embed_tokens.weight"], weights.pop("lm_head.weight")
    tied = dict(tie_word_embeddings=True)
    clean, said = logits(write(weights, **tied), tmp_path)
    assert said == ""
    copy, said = logits(write(weights | {"lm_head.weight": embedding.clone()}, **tied), tmp_path)
    assert np.array_equal(copy, clean) and said.startswith("note: ")

    only_head = {n: t for n, t in weights.items() if t is not embedding} | {"lm_head.weight": embedding}
    directory = write(only_head, **tied)
    assert np.array_equal(logits(directory, tmp_path)[0], clean)
    assert close(clean, peer_logits(directory, tmp_path))

    directory = write(weights | {"lm_head.weight": head}, **tied)
    both, said = logits(directory, tmp_path)
    assert said.startswith("WARNING: ") and said.count("\n") == 1
    assert "tie_word_embeddings" in said and "lm_head.weight" in said and "model.embed_tokens.weight" in said
    assert close(both, peer_logits(directory, tmp_path))
    (tmp_path / "r.toml").write_text(RECIPE.format(dir=tmp_path))
    assert "WARNING: " in fucina("train", tmp_path / "r.toml").stdout


def test_an_index_beside_a_single_file_reads_what_transformers_reads(model, tmp_path):
    from safetensors.torch import save_file

    config, weights, write = model
    directory = write(weights)
    others = v3.random_weights(config, 8)
    save_file(others, directory / "model-00001-of-00001.safetensors", metadata={"format": "pt"})
    index = directory / "model.safetensors.index.json"
    index.write_text(json.dumps(dict(metadata={}, weight_map={n: "model-00001-of-00001.safetensors" for n in others})))
    ours, said = logits(directory, tmp_path)
    assert close(ours, peer_logits(directory, tmp_path))
    assert said.startswith("WARNING: ") and said.count("\n") == 1 and "model.safetensors was read" in said

    # Shards of modules that do not run may be missing; one of ours may not.
    (directory / "model.safetensors").unlink()
    entries = {n: "model-00001-of-00001.safetensors" for n in others}
    index.write_text(json.dumps(dict(weight_map=entries | {"vision.weight": "model-00002-of-00001.safetensors"})))
    assert logits(directory, tmp_path)[1] == ""
    index.write_text(json.dumps(dict(weight_map=entries | {"model.layers.1.mlp.gate.weigth": "x.safetensors"})))
    assert logits(directory, tmp_path)[1] == ""
    (directory / "x.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    assert logits(directory, tmp_path)[1] == ""
    (directory / "checkpoints").mkdir()
    assert "holds config.json and checkpoints; config.json" in logits(directory, tmp_path)[1]
    (directory / "checkpoints").rmdir()
    others.pop("model.norm.weight")
    save_file(others, directory / "model-00001-of-00001.safetensors", metadata={"format": "pt"})
    text = refused(3, "eval", directory, "--tokens", tmp_path / "ids.json")
    assert "model-00001-of-00001.safetensors: tensor model.norm.weight: missing" in text


@pytest.mark.parametrize("changes", [dict(rope_interleave=None), dict(rope_interleave=False), dict(norm_topk_prob=None),
                                     dict(num_key_value_heads=None), dict(rope_parameters=None),
                                     dict(rope_parameters=dict(rope_type="default", rope_theta=300.0)),
                                     dict(rope_scaling=dict(type="yarn", factor=4, original_max_position_embeddings=16,
                                                            beta_fast=None, mscale=None, truncate=None))])
def test_null_is_what_transformers_takes_it_for(model, tmp_path, changes):
    _, weights, write = model
    directory = write(weights, **changes)
    assert close(logits(directory, tmp_path)[0], peer_logits(directory, tmp_path))


def test_no_shared_experts_may_be_null(model, tmp_path):
    _, weights, write = model
    weights = {n: t for n, t in weights.items() if ".shared_experts." not in n}
    zero = logits(write(weights, n_shared_experts=0), tmp_path)[0]
    assert np.array_equal(logits(write(weights, n_shared_experts=None), tmp_path)[0], zero)


# Strict where the library is not, on purpose: names that are empty, twice there or hold control characters, entries
# as lists, and headers that do not begin with their brace.
HEADERS = ["%s" + pad for pad in ("", " ", "\t", "\n", "\r", "\0", " \0 ", "x", "}", "\f", "\v", ",", "\u00a0", "\ufeff")]
HEADERS += ['{"__metadata__":' + value + ",%t" for value in
            ("null", "{}", "[]", "1", '"x"', "true", '{"x":1}', '{"x":null}', '{"x":{}}', '{"":""}', '{"x":"1","x":"2"}',
             '{"x":["y"]}')]
HEADERS += ['{"odd":{' + fields + "},%t" for fields in
            ('"dtype":"F32","shape":[0],"data_offsets":[END,END]', '"dtype":"F32","shape":[0],"data_offsets":[0,0]',
             '"dtype":"F32","shape":[0],"data_offsets":[5,5]', '"dtype":"F32","shape":[0],"data_offsets":[END,END],"x":1',
             '"x":{"y":[null,{}]},"dtype":"F32","shape":[0],"data_offsets":[END,END]',
             '"dtype":"F32","shape":[0],"data_offsets":[END,END],"dtype":"F32"', '"dtype":"f32","shape":[0],"data_offsets":[END,END]',
             '"dtype":"F4","shape":[0],"data_offsets":[END,END]', '"dtype":"C64","shape":[0],"data_offsets":[END,END]',
             '"dtype":"F8_E4M3FNUZ","shape":[2,0],"data_offsets":[END,END]', '"dtype":"U16","shape":[0],"data_offsets":[END,END]',
             '"dtype":"F32","shape":null,"data_offsets":[END,END]', '"dtype":"F32","shape":[0.0],"data_offsets":[END,END]',
             '"dtype":"F32","shape":[-1],"data_offsets":[END,END]', '"dtype":"F32","shape":[00],"data_offsets":[END,END]',
             '"dtype":"F32","shape":[0],"data_offsets":[END]', '"dtype":"F32","shape":[0],"data_offsets":[END,END,END]',
             '"dtype":"F32","shape":[0]', '"dtype":"F32","shape":[0],"data_offsets":{"0":END}')]
HEADERS += ['{"odd":null,%t', '{"odd":1,%t', '{"\\ud83d\\ude00":{"dtype":"F32","shape":[0],"data_offsets":[END,END]},%t',
            '{"\\ud83d":{"dtype":"F32","shape":[0],"data_offsets":[END,END]},%t', '{/**/%t', '{,%t', "{ \n %t", "{\0%t"]


def test_headers_are_accepted_as_the_safetensors_library_accepts_them(model, tmp_path):
    _, weights, write = model
    directory = write(weights)
    path = directory / "model.safetensors"
    whole = path.read_bytes()
    length = struct.unpack("<Q", whole[:8])[0]
    header, data = whole[8:8 + length].decode().rstrip(), whole[8 + length:]
    for odd in HEADERS:
        text = odd.replace("%s", header).replace("%t", header[1:]).replace("END", str(len(data))).encode()
        if odd.startswith('{"__metadata__"'):  # the file's own would be the second
            entries = json.loads(header)
            entries.pop("__metadata__")
            text = odd.replace("%t", json.dumps(entries)[1:]).encode()
        bytes_ = struct.pack("<Q", len(text)) + text + data
        try:
            deserialize(bytes_)
            accepted = True
        except Exception:
            accepted = False
        path.write_bytes(bytes_)
        run = fucina("eval", directory, "--tokens", tmp_path / "ids.json", check=False)
        assert run.returncode == (0 if accepted else 3), (odd, accepted, run.stderr)


def test_config_json_is_read_as_python_reads_it(model, tmp_path):
    config, weights, write = model
    directory = write(weights)
    clean = logits(directory, tmp_path)[0]
    text = json.dumps(config)
    for odd in (text[:-1] + ', "loss": NaN, "best": -Infinity}', '{"hidden_size": 3, "n_group": "x", ' + text[1:],
                "\ufeff" + text, text[:-1] + ', "flops": 1e400, "seed": 340282366920938463463374607431768211456}'):
        (directory / "config.json").write_text(odd, encoding="utf-8")
        assert np.array_equal(logits(directory, tmp_path)[0], clean), odd
    for odd, message in ((text[:-1] + ', "rms_norm_eps": NaN}', "rms_norm_eps is NaN, expected a number"),
                         (text[:-1] + ', "rope_theta": 1e999}', "rope_theta is Infinity, expected a number"),
                         (text[:-1] + ', "vocab_size": 340282366920938463463374607431768211456}', "vocab_size is 3.4"),
                         (text.replace(", ", ",\n", 3)[:-1] + ",}", "config.json:4:"), (text + "\0", "config.json:1:"),
                         ("[" * 100000, "nested deeper")):
        (directory / "config.json").write_text(odd)
        assert message in refused(2, "eval", directory, "--tokens", tmp_path / "ids.json")
