"""The loss of a small model in bf16 and in fp8, same seeds, same data, fast numerics; writes docs/results/fp8.md.

    fp8_curve.py QUICKSTART_DATA FUCINA [STEPS [SEED ...]]        2000 steps, seeds 1 2 3
"""
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODEL = {
    "vocab_size": 4096, "hidden_size": 128, "num_hidden_layers": 5, "first_k_dense_replace": 1,
    "intermediate_size": 384, "num_attention_heads": 4, "q_lora_rank": 64, "kv_lora_rank": 64,
    "qk_nope_head_dim": 32, "qk_rope_head_dim": 32, "v_head_dim": 32, "n_routed_experts": 8,
    "num_experts_per_tok": 2, "n_group": 4, "topk_group": 2, "n_shared_experts": 1,
    "moe_intermediate_size": 128, "max_position_embeddings": 512,
}
TRAIN = {
    "micro_batch": 8, "global_batch": 8, "learning_rate": 2e-3, "min_learning_rate": 2e-4, "warmup_steps": 50,
    "router_bias_update": 1e-2, "balance_loss": 1e-4, "numerics": "fast", "threads": 1,
}
AIM = 0.25  # per cent, DeepSeek-V3's


def start(data, fucina, directory, precision, seed, steps):
    train = TRAIN | {"precision": precision, "seed": seed, "steps": steps}
    path = directory / f"{precision}-{seed}.toml"
    path.write_text(f"""[run]
dir = "{directory / f'{precision}-{seed}'}"
[model]
""" + "".join(f"{key} = {value}\n" for key, value in MODEL.items()) + f"""[data]
train = [{{ path = "{data / 'train.jsonl'}", format = "jsonl" }}]
valid = [{{ path = "{data / 'valid.jsonl'}", format = "jsonl" }}]
tokenizer = "{data / 'tokenizer.json'}"
sequence_length = 128
[train]
""" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in train.items()) + f"""[checkpoint]
every = {steps}
[eval]
every = {max(steps // 10, 1)}
""")
    return subprocess.Popen([fucina, "train", path], stdout=subprocess.DEVNULL)


def read(directory, precision, seed):
    """Training losses, {step: held-out loss}, tokens a second."""
    lines = [json.loads(line) for line in (directory / f"{precision}-{seed}" / "metrics.jsonl").open()]
    valid = {line["step"]: line["valid_loss"] for line in lines if "valid_loss" in line}
    return [line["loss"] for line in lines], valid, statistics.median(line["tokens_per_s"] for line in lines)


def gap(bf16, fp8):
    return 100 * (fp8 - bf16) / bf16


def train_all(data, fucina, scratch, steps, seeds):
    runs = {}
    for seed in seeds:
        pair = {name: start(data, fucina, scratch, name, seed, steps) for name in ("bf16", "fp8")}
        for name, process in pair.items():
            if process.wait() != 0:
                sys.exit(f"{name}, seed {seed}: exit {process.returncode}")
            runs[name, seed] = read(scratch, name, seed)
    return runs


def main():
    data, fucina = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2]).resolve()
    steps = int(sys.argv[3]) if len(sys.argv) > 3 else 2000
    seeds = [int(seed) for seed in sys.argv[4:]] or [1, 2, 3]
    with tempfile.TemporaryDirectory() as scratch:
        runs = train_all(data, fucina, pathlib.Path(scratch), steps, seeds)
    held_out = {name: {step: statistics.mean(runs[name, seed][1][step] for seed in seeds)
                       for step in runs[name, seeds[0]][1]} for name in ("bf16", "fp8")}
    tail = max(steps // 20, 1)
    ends = {key: statistics.mean(losses[-tail:]) for key, (losses, _, _) in runs.items()}
    gaps = [gap(runs["bf16", seed][1][steps], runs["fp8", seed][1][steps]) for seed in seeds]
    rows = [f"| {step} | {held_out['bf16'][step]:.4f} | {held_out['fp8'][step]:.4f} | "
            f"{gap(held_out['bf16'][step], held_out['fp8'][step]):+.2f} % |" for step in held_out["bf16"]]
    by_seed = [f"| {seed} | {runs['bf16', seed][1][steps]:.4f} | {runs['fp8', seed][1][steps]:.4f} | {one:+.2f} % | "
               f"{ends['bf16', seed]:.4f} | {ends['fp8', seed]:.4f} | {gap(ends['bf16', seed], ends['fp8', seed]):+.2f} % |"
               for seed, one in zip(seeds, gaps)]
    speeds = [f"{statistics.median(runs[name, seed][2] for seed in seeds):,.0f}" for name in ("bf16", "fp8")]
    (ROOT / "docs" / "results" / "fp8.md").write_text(f"""# Training in FP8

A mixture of experts of about 3 million parameters (hidden {MODEL['hidden_size']}, {MODEL['num_hidden_layers']} layers, {MODEL['n_routed_experts']} experts of {MODEL['moe_intermediate_size']}, top-2) on the
quickstart's English prose, 8 sequences of 128 tokens a step, `train.numerics = "fast"`, on a CPU: **{steps:,} steps, {len(seeds)} seed{'s' if len(seeds) > 1 else ''}**. Runs of one
seed begin with the same weights and see the same tokens. Made by `tests/bench/fp8_curve.py`. The aim is a gap of at most {AIM} %
after 2,000 steps, the mean of three seeds; here it is **{statistics.mean(gaps):+.2f} %** after {steps:,}.

Loss on the held-out pages, mean of the seeds:

| step | bf16 | fp8 | gap |
|---:|---:|---:|---:|
""" + "\n".join(rows) + f"""

At the end, by seed; "training" is the mean of the last {tail} steps:

| seed | held-out bf16 | fp8 | gap | training bf16 | fp8 | gap |
|---:|---:|---:|---:|---:|---:|---:|
""" + "\n".join(by_seed) + f"""

Both runs at a time, one thread each: {speeds[0]} tokens/s in bf16, {speeds[1]} in fp8.
""")


if __name__ == "__main__":
    main()
