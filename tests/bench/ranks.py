"""Tokens a second of the 153M benchmark model under several layouts of two ranks, beside one rank with as many threads;
prints the table of docs/results/speed.md, "Ranks". Layouts take turns, ROUNDS times (1 if it is left out).

    ranks.py FUCINA [ROUNDS]
"""
import json
import os
import pathlib
import random
import re
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
RECIPE = """
[run]
dir = "{work}/run"
[model]
vocab_size = 8192
hidden_size = 512
num_hidden_layers = 8
num_attention_heads = 8
q_lora_rank = 256
kv_lora_rank = 128
qk_nope_head_dim = 64
qk_rope_head_dim = 32
v_head_dim = 64
n_routed_experts = 32
moe_intermediate_size = 384
num_experts_per_tok = 4
n_group = 4
topk_group = 2
n_shared_experts = 1
first_k_dense_replace = 1
intermediate_size = 1536
max_position_embeddings = 512
routed_scaling_factor = 2.5
[data]
train = [{{ path = "{work}/ids.json", format = "tokens" }}]
sequence_length = 512
[train]
steps = 5
micro_batch = 4
global_batch = 16
learning_rate = 3e-4
warmup_steps = 0
schedule = "constant"
[checkpoint]
every = 0
"""
FAST = 'train.numerics="fast"'
ONE_WAVE = "exact.grain=2"
LAYOUTS = [
    ("1 rank, 2 threads", 1, [ONE_WAVE]),
    ("data", 2, [ONE_WAVE]),
    ("data, `zero` 2", 2, [ONE_WAVE, "parallel.zero=2"]),
    ("`expert` 2", 2, [ONE_WAVE, "parallel.expert=2"]),
    ("`tensor` 2", 2, [ONE_WAVE, "parallel.tensor=2"]),
    ("`pipeline` 2, 1f1b", 2, [ONE_WAVE, "parallel.pipeline=2"]),
    ("`pipeline` 2, zero_bubble", 2, [ONE_WAVE, "parallel.pipeline=2", 'parallel.schedule="zero_bubble"']),
    ("1 rank, 2 threads, fast", 1, [FAST]),
    ("`expert` 2, fast", 2, [FAST, "parallel.expert=2"]),
    ("`tensor` 2, fast", 2, [FAST, "parallel.tensor=2"]),
]
IN_ALL = re.compile(r"^  in all .* ([0-9.]+) MiB$", re.M)


def measure(fucina, work, ranks, keys):
    command = [fucina, "train", f"{work}/recipe.toml", "--fresh"]
    for key in keys:
        command += ["--set", key]
    if ranks > 1:
        command = [ROOT / "launch" / "mpirun.sh", "-np", str(ranks), *command]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True,
                          env={**os.environ, "FUCINA_THREADS": str(2 // ranks)})
    if done.returncode != 0:
        sys.exit(f"{keys}: exit {done.returncode}: {done.stderr[-2000:]}")
    lines = [json.loads(line) for line in (work / "run" / "metrics.jsonl").read_text().splitlines()]
    memory = float(IN_ALL.findall(done.stdout)[-1])
    seconds = [line.get("exposed_s", 0.0) for line in lines[1:]]
    return [line["tokens_per_s"] for line in lines[1:]], memory, statistics.median(seconds), lines[-1]["loss"]


def main():
    fucina, rounds = pathlib.Path(sys.argv[1]).resolve(), int(sys.argv[2]) if len(sys.argv) > 2 else 1
    generator = random.Random(1)
    speeds = {name: [] for name, _, _ in LAYOUTS}
    rest = {}
    with tempfile.TemporaryDirectory() as scratch:
        work = pathlib.Path(scratch)
        ids = [[int(generator.paretovariate(0.5)) % 8192 for _ in range(512)] for _ in range(80)]
        (work / "ids.json").write_text(json.dumps(ids))
        (work / "recipe.toml").write_text(RECIPE.format(work=work))
        for _ in range(rounds):
            for name, ranks, keys in LAYOUTS:
                tokens, *rest[name] = measure(fucina, work, ranks, keys)
                speeds[name] += tokens
                print(name, tokens, *rest[name], file=sys.stderr, flush=True)
    print("| layout | tokens/s | of one rank | waiting for others, s a step | GiB a rank |\n|---|---:|---:|---:|---:|")
    alone = 1.0
    for name, ranks, _ in LAYOUTS:
        speed = statistics.median(speeds[name])
        alone = speed if ranks == 1 else alone
        memory, waits, _ = rest[name]
        print(f"| {name} | {speed:,.0f} | {speed / alone:.2f} | {waits:.2f} | {memory / 1024:.2f} |")


if __name__ == "__main__":
    main()
