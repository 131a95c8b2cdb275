"""What saving costs the 153M benchmark model: in one run that saves every few steps, steps with a save beside them and steps
without take turns; prints the table of docs/results/checkpoints.md, "Saving beside training".

    saves.py FUCINA [STEPS]
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

EVERY, OF = 4, 20  # saves are made each EVERY steps; what they cost is said for one in OF steps
SAVED = re.compile(r"^saved .* \(([0-9.]+) MiB in ([0-9.]+) s, of which training waited ([0-9.]+) s\)")
VARIANTS = [("fp32 moments", ['train.moments="fp32"']), ("bf16 moments", ['train.moments="bf16"']),
            ("fp32 moments, nothing copied", ["checkpoint.snapshot=0"])]


def measure(fucina, work, steps, keys):
    """(seconds of each step from the last one's line to its own, saves as (MiB, s, s waited), parameters)."""
    command = [fucina, "train", f"{work}/recipe.toml", "--fresh"]
    for key in [f"train.steps={steps}", "train.global_batch=8", f"checkpoint.every={EVERY}", *keys]:
        command += ["--set", key]
    times, saves, parameters = [], [], 0
    with subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, text=True) as child:
        for line in child.stdout:
            if line.startswith("parameters "):
                parameters = int(line.split()[1])
            if line.startswith("step "):
                times.append(time.monotonic())
            if found := SAVED.match(line):
                saves.append(tuple(float(part) for part in found.groups()))
    if child.returncode != 0:
        sys.exit(f"exit {child.returncode}")
    return [None] + [end - begin for begin, end in zip(times, times[1:])], saves[:-1], parameters


def main():
    fucina, steps = pathlib.Path(sys.argv[1]).resolve(), int(sys.argv[2]) if len(sys.argv) > 2 else 33
    generator = random.Random(1)
    print(f"| | a step, s | with a save beside it, s | training waited, s | one save in {OF} steps costs | a save took, s | MiB | bytes a parameter |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as directory:
        work = pathlib.Path(directory)
        (work / "recipe.toml").write_text(ranks.RECIPE.format(work=work))
        (work / "ids.json").write_text(json.dumps([[generator.randrange(8192) for _ in range(512)] for _ in range(400)]))
        for name, keys in VARIANTS:
            seconds, saves, parameters = measure(fucina, work, steps, keys)
            # Step i + 1 follows the save of step i; its time counts the save's beginning too. A save lasts two steps at most.
            beside = [seconds[i] + seconds[i + 1] for i in range(EVERY, steps - 1, EVERY)]
            alone = [seconds[i] + seconds[i + 1] for i in range(EVERY + 2, steps - 1, EVERY)]
            pair, with_save = statistics.median(alone), statistics.median(beside)
            size, took, waited = (statistics.median(save[c] for save in saves) for c in range(3))
            print(f"| {name} | {pair / 2:.2f} | {with_save / 2:.2f} | {waited:.2f} | {(with_save - pair) / (OF / 2 * pair):.1%} | {took:.1f} | "
                  f"{size:.0f} | {size * 2**20 / parameters:.2f} |", flush=True)


if __name__ == "__main__":
    main()
