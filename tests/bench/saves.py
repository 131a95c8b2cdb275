"""What saving costs: tokens a second of the 153M benchmark model with a save every 20 steps beside none, in turns; prints the
table of docs/results/checkpoints.md, "Saving".

    saves.py FUCINA [ROUNDS]
"""
import json
import pathlib
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time

import ranks

STEPS, EVERY = 41, 20
SAVED = re.compile(r"^saved .* \(([0-9.]+) MiB in ([0-9.]+) s, of which training waited ([0-9.]+) s\)")
VARIANTS = [("no save", 0, "fp32"), ("a save each 20 steps", EVERY, "fp32"),
            ("no save, bf16 moments", 0, "bf16"), ("a save each 20 steps, bf16 moments", EVERY, "bf16")]


def measure(fucina, work, every, moments):
    """(seconds from the first step's line to the last one's, saves before it as (MiB, bytes a parameter, seconds, waited))."""
    command = [fucina, "train", f"{work}/recipe.toml", "--fresh", "--set", f"train.steps={STEPS}", "--set", "train.global_batch=8",
               "--set", f"checkpoint.every={every}", "--set", f'train.moments="{moments}"']
    times, saves, parameters = {}, [], 0
    with subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, text=True) as child:
        for line in child.stdout:
            if line.startswith("parameters "):
                parameters = int(line.split()[1])
            if line.startswith("step "):
                times[int(line.split()[1].split("/")[0])] = time.monotonic()
            if (found := SAVED.match(line)) and STEPS not in times:
                saves.append(tuple(float(part) for part in found.groups()))
    if child.returncode != 0:
        sys.exit(f"exit {child.returncode}")
    return times[STEPS] - times[1], [(size, size * 2**20 / parameters, *rest) for size, *rest in saves]


def main():
    fucina, rounds = pathlib.Path(sys.argv[1]).resolve(), int(sys.argv[2]) if len(sys.argv) > 2 else 1
    generator = random.Random(1)
    found = {name: [] for name, _, _ in VARIANTS}
    with tempfile.TemporaryDirectory() as directory:
        work = pathlib.Path(directory)
        (work / "recipe.toml").write_text(ranks.RECIPE.format(work=work))
        (work / "ids.json").write_text(json.dumps([[generator.randrange(8192) for _ in range(512)] for _ in range(400)]))
        for _ in range(rounds):
            for name, every, moments in VARIANTS:
                found[name].append(measure(fucina, work, every, moments))
                print(name, *found[name][-1], file=sys.stderr, flush=True)
    print("| | tokens/s | of no save | a checkpoint, MiB | bytes a parameter | written in, s | waited for, s |\n|---|---|---|---|---|---|---|")
    for i, (name, _, _) in enumerate(VARIANTS):
        seconds = statistics.median(run[0] for run in found[name])
        alone = statistics.median(run[0] for run in found[VARIANTS[i - i % 2][0]])
        saves = [save for run in found[name] for save in run[1]]
        columns = [statistics.median(save[c] for save in saves) for c in range(4)] if saves else None
        rest = f"{columns[0]:.0f} | {columns[1]:.2f} | {columns[2]:.2f} | {columns[3]:.2f}" if saves else " | | | "
        print(f"| {name} | {(STEPS - 1) * 8 * 512 / seconds:.0f} | {alone / seconds:.3f} | {rest} |")


if __name__ == "__main__":
    main()
