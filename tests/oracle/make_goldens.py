"""Writes tests/golden/deepseek_v3_*: tiny checkpoints with transformers' logits, loss and gradients (eager, fp32), which
tests/trainer/golden_test.cpp compares without Python.

usage: python tests/oracle/make_goldens.py        the files change only if transformers' numbers do
"""
import os
import pathlib

os.environ["HF_HUB_OFFLINE"] = "1"
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

import deepseek_v3 as v3

GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "golden"
SMALL = dict(hidden_size=18, vocab_size=29, num_attention_heads=3, num_key_value_heads=3, max_position_embeddings=64,
             num_hidden_layers=2, intermediate_size=22, moe_intermediate_size=7, n_routed_experts=6,
             num_experts_per_tok=2, n_group=3, topk_group=2, q_lora_rank=10, kv_lora_rank=9, qk_rope_head_dim=4,
             qk_nope_head_dim=5, v_head_dim=7)
YARN = dict(type="yarn", factor=4, original_max_position_embeddings=16, mscale=1.0, mscale_all_dim=0.8)
CASES = {"deepseek_v3_plain": SMALL, "deepseek_v3_yarn": SMALL | dict(q_lora_rank=None, rope_scaling=YARN)}


def main():
    for seed, (name, changes) in enumerate(CASES.items()):
        config = v3.BASE | changes | dict(torch_dtype="bfloat16")
        weights = {n: t.bfloat16() for n, t in v3.random_weights(config, seed).items()}
        directory = v3.write_checkpoint(GOLDEN / name, config, weights)
        model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager",
                                                     experts_implementation="eager")
        ids = torch.randint(0, config["vocab_size"], (2, 13), generator=torch.Generator().manual_seed(seed))
        out = model(input_ids=ids, labels=ids)
        out.loss.backward()
        expected = {"gradients." + n: p.grad for n, p in model.named_parameters()}
        save_file(expected | {"ids": ids.int(), "logits": out.logits.detach(), "loss": out.loss.detach()[None]},
                  directory / "expected.safetensors")


if __name__ == "__main__":
    main()
