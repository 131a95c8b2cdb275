"""The peer of the decoding benchmark: transformers' cached generation, one token at a time, greedy.

    decode_peer.py init quickstart|medium OUT_DIR    writes a random model of the quickstart's shape, or the 153M one
    decode_peer.py run DIR LENGTH TOKENS --dtype bf16|fp32 --experts eager|grouped_mm

`run` prints {"ms": median, "best_ms": least} of a token after a prompt of LENGTH.
"""
import argparse
import json
import os
import statistics
import time

os.environ["HF_HUB_OFFLINE"] = "1"
import torch
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

import peer_transformers

POSITIONS = 2048
QUICKSTART = dict(  # configs/quickstart.toml
    vocab_size=4096, hidden_size=256, num_hidden_layers=5, num_attention_heads=4, num_key_value_heads=4,
    q_lora_rank=128, kv_lora_rank=64, qk_nope_head_dim=32, qk_rope_head_dim=32, v_head_dim=32, n_routed_experts=8,
    moe_intermediate_size=192, num_experts_per_tok=2, n_group=4, topk_group=2, n_shared_experts=1,
    first_k_dense_replace=1, intermediate_size=768, num_nextn_predict_layers=0)


def init(shape, directory):
    config = QUICKSTART if shape == "quickstart" else peer_transformers.CONFIG
    torch.manual_seed(1)
    DeepseekV3ForCausalLM(DeepseekV3Config(**{**config, "max_position_embeddings": POSITIONS})).save_pretrained(directory)


@torch.inference_mode()
def run(arguments):
    dtype = torch.bfloat16 if arguments.dtype == "bf16" else torch.float32
    model = DeepseekV3ForCausalLM.from_pretrained(
        arguments.directory, dtype=dtype, experts_implementation=arguments.experts).eval()
    prompt = torch.tensor([[(7 * i + 3) % model.config.vocab_size for i in range(arguments.length)]])
    out = model(prompt, use_cache=True)
    times = []
    for _ in range(arguments.tokens):
        begin = time.perf_counter()
        token = out.logits[:, -1:].argmax(-1)
        out = model(token, past_key_values=out.past_key_values, use_cache=True)
        times.append(1e3 * (time.perf_counter() - begin))
    print(json.dumps(dict(ms=statistics.median(times), best_ms=min(times))))


def main():
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("init")
    make.add_argument("shape", choices=["quickstart", "medium"])
    make.add_argument("directory")
    time_it = commands.add_parser("run")
    time_it.add_argument("directory")
    time_it.add_argument("length", type=int)
    time_it.add_argument("tokens", type=int)
    time_it.add_argument("--dtype", default="bf16")
    time_it.add_argument("--experts", default="eager")
    arguments = parser.parse_args()
    if arguments.command == "init":
        init(arguments.shape, arguments.directory)
    else:
        run(arguments)


if __name__ == "__main__":
    main()
