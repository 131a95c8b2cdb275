"""FP8 models in: their logits are those of the same weights in fp32, whoever computes them, and what is wrong with values,
scales or config.json is one line."""
import json
import os

os.environ["HF_HUB_OFFLINE"] = "1"
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import deepseek_v3 as v3
import fp8
import runs
from program import fucina, values

IDS = np.random.default_rng(5).integers(0, 256, (2, 24)).tolist()


def logits(directory, tmp_path, *options):
    (tmp_path / "ids.json").write_text(json.dumps(IDS))
    fucina("eval", directory, "--tokens", tmp_path / "ids.json", "--precision", "fp32", "--logits",
           tmp_path / "logits.npy", *options)
    return np.load(tmp_path / "logits.npy")


def write(directory, config, tensors, shards=1):
    v3.write_checkpoint(directory, config, tensors)
    if shards > 1:
        (directory / "model.safetensors").unlink()
        names, places = sorted(tensors), {}
        for i in range(shards):  # scales and their weights lie in different files
            file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
            save_file({n: tensors[n] for n in names[i::shards]}, directory / file, metadata={"format": "pt"})
            places |= dict.fromkeys(names[i::shards], file)
        (directory / "model.safetensors.index.json").write_text(json.dumps(dict(metadata={}, weight_map=places)))
    return directory


def without_quantization(config):
    return {key: value for key, value in config.items() if key != "quantization_config"}


@pytest.mark.parametrize("spelling", ["hub", "fused", "sharded"])
def test_logits_are_those_of_the_same_weights_in_fp32(spelling, tmp_path):
    from transformers import AutoModelForCausalLM

    stored, plain = fp8.model(fp8.ODD, 3)
    assert stored["model.layers.0.self_attn.kv_a_proj_with_mqa.weight_scale_inv"].shape == (5, 2)
    if spelling == "fused":
        stored = fp8.fuse(stored)
        plain = {n: fp8.dequantize(t, stored[n + "_scale_inv"]) if n + "_scale_inv" in stored else t.float()
                 for n, t in stored.items() if not n.endswith("_scale_inv")}
    ours = logits(write(tmp_path / "fp8", fp8.ODD, stored, 3 if spelling == "sharded" else 1), tmp_path)
    v3.write_checkpoint(tmp_path / "fp32", without_quantization(fp8.ODD), plain)
    assert np.array_equal(ours, logits(tmp_path / "fp32", tmp_path))
    peer = AutoModelForCausalLM.from_pretrained(tmp_path / "fp32", dtype=torch.float32, attn_implementation="eager",
                                                experts_implementation="eager")
    with torch.no_grad():
        theirs = peer(input_ids=torch.tensor(IDS)).logits.numpy()
    assert np.abs(ours - theirs).max() / np.abs(theirs).max() < 1e-5  # both sum in fp32, in other orders


@pytest.mark.parametrize("spelling", ["hub", "fused"])
def test_ranks_read_their_parts_of_blocks(spelling, tmp_path):
    stored, _ = fp8.model(fp8.ODD, 3)
    directory = write(tmp_path / "fp8", fp8.ODD, fp8.fuse(stored) if spelling == "fused" else stored, 2)
    (tmp_path / "ids.json").write_text(json.dumps(IDS))
    arguments = ["eval", directory, "--tokens", tmp_path / "ids.json", "--precision", "fp32"]
    parts = runs.run(*arguments, "--tensor", 2, "--expert", 2, ranks=2)
    assert parts.returncode == 0, parts.stderr
    assert values(parts.stdout)["loss"] == values(fucina(*arguments).stdout)["loss"]


def test_training_starts_from_fp8_as_from_the_same_in_fp32(tmp_path):
    stored, plain = fp8.model(fp8.ODD, 4, with_mtp=True)
    (tmp_path / "ids.json").write_text(json.dumps(IDS))
    write(tmp_path / "a", fp8.ODD, stored, 2)
    v3.write_checkpoint(tmp_path / "b", without_quantization(fp8.ODD), plain)
    for name in ("a", "b"):
        (tmp_path / f"{name}.toml").write_text(f"""
            run.dir = "{tmp_path}/run-{name}"
            model.from = "{tmp_path}/{name}"
            data.train = [{{ path = "{tmp_path}/ids.json", format = "tokens" }}]
            data.sequence_length = 24
            train = {{ steps = 2, global_batch = 2, threads = 1, precision = "fp32", mtp_loss = 0.1 }}
            """)
        fucina("train", tmp_path / f"{name}.toml")
    losses = [[json.loads(line)["loss"] for line in (tmp_path / f"run-{name}" / "metrics.jsonl").open()] for name in "ab"]
    assert losses[0] == losses[1] and len(losses[0]) == 2


NAME = "model.layers.1.mlp.experts.3.up_proj.weight"
SCALES = NAME + "_scale_inv"


def changed(tensor, place, value):
    tensor = tensor.clone()
    tensor[place] = value
    return tensor


def nan_code(values):
    raw = values.clone().view(torch.uint8)
    raw[5, 170] = 0xff
    return raw.view(torch.float8_e4m3fn)


WRONG = {
    "no scales": (lambda t: t.pop(SCALES), [SCALES, "missing", "[1, 2]", NAME]),
    "shape": (lambda t: t.update({SCALES: torch.ones(2, 2)}), [SCALES, "F32 [2, 2]", "F32 [1, 2]", "[72, 200]"]),
    "rank": (lambda t: t.update({SCALES: torch.ones(2)}), [SCALES, "[2]", "[1, 2]"]),
    "dtype": (lambda t: t.update({SCALES: t[SCALES].bfloat16()}), [SCALES, "BF16", "F32"]),
    "e8m0": (lambda t: t.update({SCALES: t[SCALES].to(torch.float8_e8m0fnu)}), [SCALES, "F8_E8M0", "F32"]),
    "nan": (lambda t: t.update({NAME: nan_code(t[NAME])}), [NAME, "NaN or infinite at [5, 170]"]),
    "nan scale": (lambda t: t.update({SCALES: changed(t[SCALES], (0, 1), float("nan"))}), [SCALES, "nan at element 1"]),
    "infinite scale": (lambda t: t.update({SCALES: changed(t[SCALES], (0, 1), float("inf"))}), [SCALES, "inf at element 1"]),
    "no scale": (lambda t: t.update({SCALES: changed(t[SCALES], (0, 0), 0.0)}), [SCALES, "0 at element 0", "positive"]),
    "negative scale": (lambda t: t.update({SCALES: changed(t[SCALES], (0, 1), -2.0)}), [SCALES, "-2 at element 1"]),
    "overflow": (lambda t: t.update({SCALES: changed(t[SCALES], (0, 0), 3e38)}), [NAME, "NaN or infinite at"]),
    "e5m2": (lambda t: t.update({NAME: t[NAME].to(torch.float8_e5m2)}), [NAME, "F8_E5M2", "F8_E4M3"]),
    "a norm in fp8": (lambda t: t.update({"model.norm.weight": t["model.norm.weight"].to(torch.float8_e4m3fn)}),
                      ["model.norm.weight", "F8_E4M3", "expected F32, BF16, F16\n"]),
    "scales of bf16": (lambda t: t.update({NAME: t[NAME].bfloat16()}), [SCALES, "unexpected"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_values_and_scales_are_named(case, tmp_path):
    stored, _ = fp8.model(fp8.ODD, 3)
    change, words = WRONG[case]
    change(stored)
    (tmp_path / "ids.json").write_text(json.dumps(IDS))
    run = fucina("eval", write(tmp_path / "m", fp8.ODD, stored), "--tokens", tmp_path / "ids.json", check=False)
    assert run.returncode == 3 and run.stderr.count("\n") == 1 and all(word in run.stderr for word in words), run.stderr


@pytest.mark.parametrize("key, value, words", [
    ("quant_method", "gptq", ['quantization_config.quant_method is "gptq"', '"fp8"']),
    ("fmt", "e5m2", ['quantization_config.fmt is "e5m2"', '"e4m3"']),
    ("weight_block_size", [64, 128], ["quantization_config.weight_block_size is [64,128]", "[128,128]"]),
    ("weight_block_size", None, ["quantization_config.weight_block_size is null", "[128,128]"]),
    ("quant_method", 8, ["quantization_config.quant_method is 8"]),
])
def test_another_quantization_is_refused_by_key_and_value(key, value, words, tmp_path):
    config = fp8.ODD | dict(quantization_config=fp8.QUANTIZATION | {key: value})
    stored, _ = fp8.model(fp8.ODD, 3)
    (tmp_path / "ids.json").write_text(json.dumps(IDS))
    run = fucina("eval", write(tmp_path / "m", config, stored), "--tokens", tmp_path / "ids.json", check=False)
    assert run.returncode == 2 and run.stderr.count("\n") == 1 and all(word in run.stderr for word in words), run.stderr


def test_scales_that_are_powers_of_two_are_scales(tmp_path):
    """V3.1 and later: scale_fmt ue8m0, the scales still F32."""
    stored, _ = fp8.model(fp8.ODD, 3)
    stored |= {n: torch.exp2(t.log2().ceil()) for n, t in stored.items() if n.endswith("_scale_inv")}
    config = fp8.ODD | dict(quantization_config=fp8.QUANTIZATION | dict(scale_fmt="ue8m0"))
    plain = {n: fp8.dequantize(t, stored[n + "_scale_inv"]) if n + "_scale_inv" in stored else t.float()
             for n, t in stored.items() if not n.endswith("_scale_inv")}
    v3.write_checkpoint(tmp_path / "fp32", without_quantization(fp8.ODD), plain)
    assert np.array_equal(logits(write(tmp_path / "m", config, stored), tmp_path), logits(tmp_path / "fp32", tmp_path))
