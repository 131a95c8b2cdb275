"""Alternates Fucina and transformers on one prepared model and prints the comparison (see against_transformers.sh).

    compare.py WORK_DIR FUCINA ROUNDS
"""
import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys

PEER = pathlib.Path(__file__).with_name("peer_transformers.py")
RECIPE = """
[run]
dir = "{run}"
[model]
from = "{work}/model"
[data]
train = [{{ path = "{work}/tokens.json", format = "tokens" }}]
sequence_length = 512
shuffle = false
[train]
steps = 5
micro_batch = 4
global_batch = 16
learning_rate = 3e-4
min_learning_rate = 3e-4
warmup_steps = 0
schedule = "constant"
weight_decay = 0.1
betas = [0.9, 0.95]
clip_norm = 1.0
precision = "bf16"
"""
GRAIN = "exact.grain=4"
VARIANTS = {
    "exact": ['train.numerics="exact"'],  # exact.products = "auto", the default
    "exact, grain 4": ['train.numerics="exact"', GRAIN],
    "exact, order amx": ['train.numerics="exact"', 'exact.products="amx"'],
    "exact, order fma": ['train.numerics="exact"', 'exact.products="fma"'],
    "fast": ['train.numerics="fast"', GRAIN],
    "fast, bf16 moments": ['train.numerics="fast"', GRAIN, 'train.moments="bf16"'],
    "fp32, exact": ['train.numerics="exact"', 'train.precision="fp32"'],
    "fp32, fast": ['train.numerics="fast"', GRAIN, 'train.precision="fp32"'],
}
PEERS = [f"{dtype}, {experts}" for dtype in ("bf16", "fp32") for experts in ("eager", "grouped_mm")]
if os.environ.get("PEERS"):
    PEERS = os.environ["PEERS"].split(";")


def run(command):
    """Runs to the end; returns (stdout, peak resident bytes of the child)."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        out, errors = child.stdout.read(), child.stderr.read()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit {child.returncode}: {errors.strip()[-2000:]}")
    return out, usage.ru_maxrss * 1024


def fucina(work, program, settings):
    recipe = work / "bench.toml"
    recipe.write_text(RECIPE.format(run=work / "run", work=work))
    command = [program, "train", str(recipe), "--fresh"]
    for setting in settings:
        command += ["--set", setting]
    _, peak = run(command)
    lines = [json.loads(line) for line in (work / "run" / "metrics.jsonl").read_text().splitlines()]
    log = (work / "run" / "log.txt").read_text()
    shutil.rmtree(work / "run")  # a checkpoint is 1.8 GB
    return [line for line in lines if "loss" in line], peak, log


def peak_shares(log):
    """Of every step, from its line on the screen: it depends on the moment, so metrics.jsonl has none."""
    return [float(share) / 100 for share in re.findall(r"^step .* peak ([0-9.]+)%", log, re.M)]


def peer(work, name, steps=2):
    dtype, experts = name.split(", ")
    out, _ = run([sys.executable, str(PEER), "train", str(work / "model"), str(work / "tokens.json"),
                  "--dtype", dtype, "--experts", experts, "--steps", str(steps)])
    lines = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    if lines[0].get("cut"):
        print(f"transformers, {name}: a step would take {lines[0]['cut']:.0f} s, so it is one micro-batch", flush=True)
        lines = lines[1:]
    return lines[:-1], lines[-1]["peak_bytes"]


def fastest(speeds):
    return max((name for name in PEERS if speeds[name]), key=lambda name: statistics.median(speeds[name]))


def measure_peers(work, speeds, peaks, losses):
    """All of them in the first round, then those that may still be the best."""
    first = not any(speeds[name] for name in PEERS)
    best = 0 if first else statistics.median(speeds[fastest(speeds)])
    for name in PEERS:
        if not first and statistics.median(speeds[name]) < 0.7 * best:
            continue
        steps, peaks[name] = peer(work, name)
        speeds[name] += [s["tokens_per_s"] for s in steps[1:]]
        losses[name] = [s["loss"] for s in steps]


def show(variants, speeds, peaks, shares, losses):
    best = fastest(speeds)
    reference = statistics.median(speeds[best])
    print(f"\n{'':32}{'tokens/s':>10}{'min':>8}{'max':>8}{'ratio':>8}{'peak GB':>9}{'memory':>8}{'peak share':>12}")
    for name, values in speeds.items():
        label = f"Fucina, {name}" if name in variants else f"transformers, {name}"
        share = f"{statistics.median(shares[name]):.0%}" if shares.get(name) else ""
        print(f"{label:32}{statistics.median(values):10.0f}{min(values):8.0f}{max(values):8.0f}"
              f"{statistics.median(values) / reference:8.2f}{peaks[name] / 1e9:9.2f}"
              f"{peaks[name] / peaks[best]:8.2f}{share:>12}")
    if "exact" in speeds and "fast" in speeds:
        price = statistics.median(speeds["fast"]) / statistics.median(speeds["exact"])
        print(f"\nfast over exact: {price:.3f}")
    print("\nlosses of the first steps (same weights, same tokens):")
    for name, values in losses.items():
        print(f"  {name:20}" + " ".join(f"{v:.4f}" for v in values[:3]))


def main():
    work, program, rounds = pathlib.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    chosen = os.environ.get("VARIANTS")
    variants = {k: v for k, v in VARIANTS.items() if not chosen or k in chosen.split(";")}
    speeds = {name: [] for name in [*variants, *PEERS]}
    peaks, losses, shares = {}, {}, {name: [] for name in variants}
    for round_ in range(rounds):
        for name, settings in variants.items():
            steps, peaks[name], log = fucina(work, program, settings)
            speeds[name] += [s["tokens_per_s"] for s in steps[1:]]  # the first step warms up
            shares[name] += peak_shares(log)[1:]
            losses[name] = [s["loss"] for s in steps]
        measure_peers(work, speeds, peaks, losses)
        print(f"round {round_ + 1}: " + ", ".join(
            f"{name} {statistics.median(values):.0f}" for name, values in speeds.items()), flush=True)
    show(variants, speeds, peaks, shares, losses)


if __name__ == "__main__":
    main()
