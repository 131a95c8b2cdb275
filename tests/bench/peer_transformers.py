"""The peer of the training benchmark: transformers' DeepseekV3 on the CPU, as one would run it there.

    peer_transformers.py init OUT_DIR TOKENS.json   writes the random initial model and the token ids
    peer_transformers.py train DIR TOKENS.json --dtype bf16|fp32 --experts eager|grouped_mm --steps N

`train` prints one JSON object a step: {"step", "loss", "tokens_per_s"}, and last {"peak_bytes"}.
fp32 weights, under bf16 autocast or not; fused AdamW; micro-batches of 4 x 512 tokens, 4 accumulated. Where a step
would take over five minutes, as the first micro-batch tells, steps are one micro-batch and {"cut": seconds} comes first.
"""
import argparse
import json
import os
import resource
import time

os.environ["HF_HUB_OFFLINE"] = "1"
import numpy
import torch
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

LENGTH, MICRO_BATCH, ACCUMULATE = 512, 4, 4
LONGEST_STEP = 300  # seconds
CONFIG = dict(
    vocab_size=8192, hidden_size=512, num_hidden_layers=8, num_attention_heads=8,
    num_key_value_heads=8, q_lora_rank=256, kv_lora_rank=128, qk_nope_head_dim=64,
    qk_rope_head_dim=32, v_head_dim=64, n_routed_experts=32, moe_intermediate_size=384,
    num_experts_per_tok=4, n_group=4, topk_group=2, n_shared_experts=1, first_k_dense_replace=1,
    intermediate_size=1536, max_position_embeddings=LENGTH, routed_scaling_factor=2.5,
    tie_word_embeddings=False, num_nextn_predict_layers=0)


def init(directory, tokens, steps):
    torch.manual_seed(1)
    DeepseekV3ForCausalLM(DeepseekV3Config(**CONFIG)).save_pretrained(directory)
    # Zipf-distributed ids, as in text; every document is one sequence.
    random = numpy.random.default_rng(1)
    ids = (random.zipf(1.1, (steps * MICRO_BATCH * ACCUMULATE, LENGTH)) - 1) % CONFIG["vocab_size"]
    with open(tokens, "w") as file:
        json.dump(ids.tolist(), file)


def train(directory, tokens, dtype, experts, steps):
    model = DeepseekV3ForCausalLM.from_pretrained(
        directory, dtype=torch.float32, experts_implementation=experts)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95), eps=1e-8,
                                  weight_decay=0.1, fused=True)
    with open(tokens) as file:
        ids = torch.tensor(json.load(file))

    def micro_batch(number, parts):
        first = number * MICRO_BATCH
        batch = ids[[(first + i) % len(ids) for i in range(MICRO_BATCH)]]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == "bf16"):
            loss = model(batch, labels=batch, use_cache=False).loss / parts
        loss.backward()
        return loss.item()

    begin = time.perf_counter()
    micro_batch(0, ACCUMULATE)
    optimizer.zero_grad(set_to_none=True)
    step_seconds = ACCUMULATE * (time.perf_counter() - begin)
    parts = ACCUMULATE if step_seconds <= LONGEST_STEP else 1
    if parts == 1:
        steps = 2
        print(json.dumps(dict(cut=step_seconds)))
    for step in range(steps):
        begin = time.perf_counter()
        total = sum(micro_batch(step * ACCUMULATE + part, parts) for part in range(parts))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds = time.perf_counter() - begin
        tokens_a_step = LENGTH * MICRO_BATCH * parts
        print(json.dumps(dict(step=step + 1, loss=total, tokens_per_s=tokens_a_step / seconds)),
              flush=True)
    print(json.dumps(dict(peak_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["init", "train"])
    parser.add_argument("directory")
    parser.add_argument("tokens")
    parser.add_argument("--dtype", choices=["bf16", "fp32"], default="bf16")
    parser.add_argument("--experts", default="eager")
    parser.add_argument("--steps", type=int, default=2)
    arguments = parser.parse_args()
    if arguments.command == "init":
        init(arguments.directory, arguments.tokens, 16)
    else:
        train(arguments.directory, arguments.tokens, arguments.dtype, arguments.experts,
              arguments.steps)


if __name__ == "__main__":
    main()
