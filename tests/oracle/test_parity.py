"""`fucina eval` in fp32 against transformers (eager attention and experts, fp32), random weights: logits and loss
within 1e-5 relative, every gradient within 1e-4 relative and cosine 0.999999; and the balance loss and MTP, which
transformers does not train, against fp64 equations. fp32 rounding over a few layers leaves about 1e-6."""
import json
import os

os.environ["HF_HUB_OFFLINE"] = "1"
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import deepseek_v3 as v3
from program import fucina, values

YARN = dict(type="yarn", factor=8, original_max_position_embeddings=64, beta_fast=32, beta_slow=1)
CASES = {
    "plain": dict(),
    "yarn": dict(rope_theta=10000.0, rope_scaling=dict(YARN, mscale=1.0, mscale_all_dim=1.0)),
    "yarn_rotated_by_more": dict(rope_scaling=dict(YARN, mscale=0.707, mscale_all_dim=1.2), rms_norm_eps=1e-5),
    "no_query_latent": dict(q_lora_rank=None, routed_scaling_factor=1.0),
    "odd": dict(hidden_size=44, vocab_size=131, num_attention_heads=3, num_key_value_heads=3, num_hidden_layers=2,
                intermediate_size=52, moe_intermediate_size=20, n_routed_experts=9, num_experts_per_tok=3, n_group=3,
                topk_group=2, q_lora_rank=23, kv_lora_rank=18, qk_rope_head_dim=6, qk_nope_head_dim=9, v_head_dim=11,
                n_shared_experts=2),
    "odd_yarn_no_query_latent": dict(hidden_size=36, vocab_size=101, num_attention_heads=5, num_key_value_heads=5,
                                     num_hidden_layers=4, first_k_dense_replace=2, q_lora_rank=None, kv_lora_rank=14,
                                     qk_rope_head_dim=10, qk_nope_head_dim=7, v_head_dim=13,
                                     rope_scaling=dict(YARN, mscale=1.0, mscale_all_dim=1.0)),
    "one_group_tied": dict(n_group=1, topk_group=1, first_k_dense_replace=0, tie_word_embeddings=True,
                           norm_topk_prob=False, num_experts_per_tok=3),
}


def make_case(name, tmp_path, with_mtp=False, fused=False):
    config = v3.BASE | CASES[name]
    seed = 100 + sorted(CASES).index(name)
    weights = v3.random_weights(config, seed, with_mtp)
    directory = v3.write_checkpoint(tmp_path / "model", config, v3.fuse_experts(weights) if fused else weights)
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, config["vocab_size"], (2, 41)).tolist()
    (tmp_path / "ids.json").write_text(json.dumps(ids))
    return config, weights, directory, ids


def relative(ours, theirs):
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


def check_gradients(ours, theirs):
    assert set(ours) == set(theirs)
    for name, expected in theirs.items():
        mine, expected = ours[name].double().flatten(), expected.double().flatten()
        assert expected.norm() > 0, name
        assert (mine - expected).norm() / expected.norm() < 1e-4, name
        assert torch.nn.functional.cosine_similarity(mine, expected, 0) >= 0.999999, name


QUICK = ("yarn", "odd")


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in CASES])
def test_logits_loss_and_gradients_equal_transformers(name, tmp_path):
    from transformers import AutoModelForCausalLM

    config, weights, directory, ids = make_case(name, tmp_path)
    peer = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager",
                                                experts_implementation="eager")
    out = peer(input_ids=torch.tensor(ids), labels=torch.tensor(ids))
    out.loss.backward()
    for layer in range(config["first_k_dense_replace"], config["num_hidden_layers"]):  # the biases arrived there
        bias = f"model.layers.{layer}.mlp.gate.e_score_correction_bias"
        assert torch.equal(peer.get_buffer(bias), weights[bias]) and weights[bias].abs().max() > 0

    arguments = ("eval", directory, "--tokens", tmp_path / "ids.json", "--precision", "fp32")
    printed = values(fucina(*arguments, "--logits", tmp_path / "logits.npy").stdout)
    logits = np.load(tmp_path / "logits.npy")
    assert logits.dtype == np.float32 and logits.shape == (2, 41, config["vocab_size"])
    assert relative(logits, out.logits.detach()) < 1e-5
    assert abs(printed["loss"] / out.loss.item() - 1) < 1e-5

    printed = values(fucina(*arguments, "--gradients", tmp_path / "gradients.safetensors").stdout)
    assert abs(printed["loss"] / out.loss.item() - 1) < 1e-5
    check_gradients(load_file(tmp_path / "gradients.safetensors"),
                    {n: p.grad for n, p in peer.named_parameters()})


@pytest.mark.parametrize("name", ["no_query_latent", "odd", "one_group_tied"])
def test_balance_loss_and_mtp_equal_fp64_equations(name, tmp_path):
    config, weights, directory, ids = make_case(name, tmp_path, with_mtp=True)
    ids = [ids[0][:29], ids[1], [3, 1, 4]]
    (tmp_path / "ids.json").write_text(json.dumps(ids))
    w = {n: t.double().requires_grad_() for n, t in weights.items()}
    parts = [v3.losses(config, w, [document], True) for document in ids]
    main = sum(p[0] for p in parts) / sum(len(d) - 1 for d in ids)
    mtp = sum(p[1] for p in parts) / sum(len(d) - 2 for d in ids)
    balance = sum(p[2] for p in parts) / len(ids)
    (main + 0.3 * mtp + 0.05 * balance).backward()

    printed = values(fucina("eval", directory, "--tokens", tmp_path / "ids.json", "--precision", "fp32",
                            "--gradients", tmp_path / "gradients.safetensors", "--mtp-loss", 0.3,
                            "--balance-loss", 0.05).stdout)
    assert abs(printed["loss"] / main.item() - 1) < 1e-5
    assert abs(printed["mtp loss"] / mtp.item() - 1) < 1e-5
    assert abs(printed["balance"] / balance.item() - 1) < 1e-5
    expected = v3.fuse_experts({n: t.grad if t.grad is not None else torch.zeros_like(t) for n, t in w.items()})
    copies = (".embed_tokens.weight", ".shared_head.head.weight", "e_score_correction_bias")
    check_gradients(load_file(tmp_path / "gradients.safetensors"),
                    {n: g for n, g in expected.items()
                     if n == "model.embed_tokens.weight" or not n.endswith(copies)})


def test_spellings_and_dtypes_of_weights_agree(tmp_path):
    config, weights, directory, _ = make_case("plain", tmp_path)
    # Exact in bf16 and in f16, whose exponents reach less far down.
    rounded = {n: (t * 64).bfloat16().round() / 64 for n, t in weights.items()}
    with_mtp = v3.random_weights(config, 5, with_mtp=True)
    unused = {n: t for n, t in with_mtp.items() if n.startswith("model.layers.3.")}
    checkpoints = {"bf16": rounded, "fused_bf16": v3.fuse_experts(rounded),
                   "fp32": {n: t.float() for n, t in rounded.items()},
                   "f16": {n: t.half() for n, t in rounded.items()},
                   "an MTP module that does not run": rounded | unused,
                   "fused_fp32": {n: t.float() for n, t in v3.fuse_experts(rounded).items()}}
    results = {}
    for name, tensors in checkpoints.items():
        v3.write_checkpoint(tmp_path / name, config, tensors)
        fucina("eval", tmp_path / name, "--tokens", tmp_path / "ids.json", "--precision", "fp32", "--logits",
               tmp_path / "logits.npy")
        results[name] = np.load(tmp_path / "logits.npy")
    for name in results:
        assert np.array_equal(results[name], results["bf16"]), name


def test_wrong_weights_are_named(tmp_path):
    config, weights, directory, _ = make_case("plain", tmp_path)

    def error(changed):
        v3.write_checkpoint(tmp_path / "bad", config, changed)
        run = fucina("eval", tmp_path / "bad", "--tokens", tmp_path / "ids.json", check=False)
        assert run.returncode == 3 and run.stderr.count("\n") == 1
        return run.stderr

    up = "model.layers.1.mlp.experts.5.up_proj.weight"
    text = error({n: t for n, t in weights.items() if n != up})
    assert up in text and "missing" in text and "[32, 64]" in text
    text = error(weights | {up: weights[up][:31].clone()})
    assert up in text and "[31, 64]" in text and "[32, 64]" in text
    text = error(weights | {"model.layers.1.mlp.extra.weight": torch.zeros(3, 5)})
    assert "model.layers.1.mlp.extra.weight" in text and "[3, 5]" in text and "unexpected" in text
    text = error(weights | {up: weights[up].to(torch.float8_e4m3fn)})
    assert up in text and "F8_E4M3" in text


def test_wrong_input_gets_one_line(tmp_path):
    config, weights, directory, _ = make_case("plain", tmp_path)

    def error(code, *arguments):
        run = fucina("eval", *arguments, check=False)
        assert run.returncode == code, run.stderr
        assert run.stdout == "" and run.stderr.startswith("error: ") and run.stderr.count("\n") == 1
        return run.stderr

    def with_config(text):
        (directory / "config.json").write_text(text)
        return error(2, directory, "--tokens", tmp_path / "ids.json")

    assert "config.json:2:8" in with_config('{\n "a": 1]')
    assert "gpt_oss" in with_config('{"model_type": "gpt_oss"}')
    text = with_config(json.dumps(config | {"n_group": 3}))
    assert "n_group = 3" in text and "n_routed_experts = 8" in text
    (directory / "config.json").write_text(json.dumps(config))
    ids = tmp_path / "bad.json"
    ids.write_text("[[1, 2, 256]]")
    assert "256" in error(3, directory, "--tokens", ids)
    ids.write_text("[[1], [2]]")
    assert "nothing to predict" in error(3, directory, "--tokens", ids)
    ids.write_text("[[1, 2], [3, 4, 5]]")
    assert "list 1 has 3" in error(2, directory, "--tokens", ids, "--logits", tmp_path / "l.npy")
    assert not (tmp_path / "l.npy").exists()
    assert "holds no model" in error(3, tmp_path, "--tokens", ids)
    whole = (directory / "model.safetensors").read_bytes()
    (directory / "model.safetensors").write_bytes(whole[:-100])
    assert "model.safetensors" in error(3, directory, "--tokens", ids)
