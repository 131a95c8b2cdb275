"""Trains the quickstart's model under several layouts and compares every number of every step; writes
docs/results/layouts.md and docs/images/layouts.svg.

    layouts.py QUICKSTART_DATA FUCINA [STEPS]

QUICKSTART_DATA is what launch/quickstart.sh makes, runs/quickstart-data.
"""
import json
import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Name, ranks, overrides. The first is what the others must equal.
LAYOUTS = [
    ("1 rank", 1, []),
    ("1 rank, sequence by sequence", 1, ["train.micro_batch=1", "train.merge_passes=false"]),
    ("2 ranks, tensor 2", 2, ["parallel.tensor=2"]),
    ("2 ranks, pipeline 2", 2, ["parallel.pipeline=2", "train.micro_batch=2"]),
    ("4 ranks, expert 4 in waves, recompute", 4, ["parallel.expert=4", "parallel.dispatch_rows=256",
                                                  'train.recompute="block"']),
    ("4 ranks, tensor 2, expert 4, zero 1", 4, ["parallel.tensor=2", "parallel.expert=4", "parallel.zero=1"]),
    ("8 ranks, data, zero 2", 8, ["parallel.zero=2"]),
    ("8 ranks, pipeline 2, tensor 2, zero bubble", 8, ["parallel.pipeline=2", "parallel.tensor=2",
                                                       'parallel.schedule="zero_bubble"', "train.micro_batch=1",
                                                       "train.merge_passes=false"]),
]
COLOURS = ["#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#17becf"]


def train_command(data, fucina, steps, directory, ranks, overrides):
    """The command of the quickstart's training under a layout, and its environment."""
    sources = {name: f'[{{path="{data}/{name}.jsonl", format="jsonl"}}]' for name in ("train", "valid")}
    command = [fucina, "train", ROOT / "configs" / "quickstart.toml"]
    for value in [f'run.dir="{directory}"', f'data.tokenizer="{data}/tokenizer.json"',
                  f"data.train={sources['train']}", f"data.valid={sources['valid']}",
                  f"train.steps={steps}", "checkpoint.every=0", *overrides]:
        command += ["--set", value]
    if ranks > 1:
        command = [ROOT / "launch" / "mpirun.sh", "-np", str(ranks), *command]
    return [str(part) for part in command], {**os.environ, "FUCINA_THREADS": "1"}


def train(data, fucina, steps, directory, ranks, overrides):
    command, environment = train_command(data, fucina, steps, directory, ranks, overrides)
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        sys.exit(f"{ranks} ranks, {overrides}: exit {done.returncode}: {done.stderr[-2000:]}")
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        for key in ("tokens_per_s", "compute_s", "exposed_s"):
            line.pop(key, None)
    return lines


def picture(curves):
    """Every curve, one above the other by a hundredth of the height, else only the last would be seen."""
    width, height, left = 720, 360, 50
    losses = [line["loss"] for line in curves[0][1]]
    low, high = min(losses), max(losses)

    def point(step, loss, lift):
        x = left + (width - left - 10) * step / (len(losses) - 1)
        y = 20 + (height - 60) * (high - loss) / (high - low) - 3 * lift
        return f"{x:.1f},{y:.1f}"

    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
             'font-size="11"><rect width="100%" height="100%" fill="white"/>']
    for loss in (low, (low + high) / 2, high):
        y = 20 + (height - 60) * (high - loss) / (high - low)
        parts.append(f'<text x="8" y="{y + 4:.1f}">{loss:.2f}</text>')
        parts.append(f'<path d="M{left} {y:.1f}H{width - 10}" stroke="#ddd"/>')
    for i, (name, lines) in enumerate(curves):
        points = " ".join(point(step, line["loss"], i) for step, line in enumerate(lines))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{COLOURS[i]}" stroke-width="1.2"/>')
        parts.append(f'<text x="{width - 260}" y="{34 + 15 * i}" fill="{COLOURS[i]}">{name}</text>')
    parts.append(f'<text x="{left}" y="{height - 12}">loss over {len(losses)} steps; each curve is drawn 3 pixels '
                 'above the one before</text></svg>')
    return "\n".join(parts) + "\n"


def main():
    data, fucina = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2]).resolve()
    steps = int(sys.argv[3]) if len(sys.argv) > 3 else 200
    curves = []
    with tempfile.TemporaryDirectory() as scratch:
        for i, (name, ranks, overrides) in enumerate(LAYOUTS):
            curves.append((name, train(data, fucina, steps, pathlib.Path(scratch) / str(i), ranks, overrides)))
            same = curves[i][1] == curves[0][1]
            print(f"{name}: loss {curves[i][1][-1]['loss']!r}, {'the same' if same else 'DIFFERENT'}", flush=True)
            if not same:
                sys.exit(1)
    model = subprocess.run("lscpu | sed -n 's/^Model name: *//p'", shell=True, capture_output=True,
                           text=True).stdout.strip()
    last = curves[0][1][-1]
    rows = "".join(f"| {name} | {lines[-1]['loss']!r} | {lines[-1]['grad_norm']!r} | {lines[-1]['valid_loss']!r} |\n"
                   for name, lines in curves)
    (ROOT / "docs" / "images" / "layouts.svg").write_text(picture(curves))
    (ROOT / "docs" / "results" / "layouts.md").write_text(f"""# Every layout trains the same model

The quickstart's model (10 million parameters, MLA, 8 experts, MTP) on its English prose for {steps} steps, in exact numerics
and bf16, under {len(LAYOUTS)} layouts on one machine ({model}, 2 cores, ranks as processes). Every number of every line of
`metrics.jsonl` but the speed (losses, balance and MTP losses, gradient norm, learning rate, load of the busiest expert, tokens of
every expert, held-out loss) is the same to the last bit. Made by `tests/bench/layouts.py`.

![The curves](../images/layouts.svg)

| layout | loss of step {last['step']} | gradient norm | held-out loss |
|---|---:|---:|---:|
{rows}
`tests/layouts/layouts_test.cpp` compares losses, norms, counts, weights, router biases and moments over more layouts, with threads for
ranks; `tests/trainer/test_exactness.py` over MPI, with resumes under other layouts.
""")


if __name__ == "__main__":
    main()
