"""Tokens a second of `fucina generate` with several prompts together, on the 153M benchmark model after one step of training;
prints the table of docs/results/decoding.md, "Several prompts". Variants take turns.

    generate_batches.py FUCINA [ROUNDS] [THREADS]     (3 rounds, all cores)
"""
import json
import os
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile

import ranks
from stream_model import measure

PROMPT, TOKENS = 64, 128  # tokens of a prompt, and that are made behind the first one
VARIANTS = [(1, 1), (4, 4), (16, 1), (16, 16)]  # prompts, of which so many together


def main():
    fucina = str(pathlib.Path(sys.argv[1]).resolve())
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    env = {**os.environ, "FUCINA_THREADS": sys.argv[3] if len(sys.argv) > 3 else str(os.cpu_count())}
    generator = random.Random(1)
    lists = [[generator.randrange(8192) for _ in range(512)] for _ in range(16)]
    with tempfile.TemporaryDirectory() as directory:
        work = pathlib.Path(directory)
        (work / "recipe.toml").write_text(ranks.RECIPE.format(work=work))
        (work / "ids.json").write_text(json.dumps(lists))
        subprocess.run([fucina, "train", work / "recipe.toml", "--set", "train.steps=1"], check=True, stdout=subprocess.DEVNULL, env=env)
        for prompts, _ in VARIANTS:
            (work / f"{prompts}.json").write_text(json.dumps([ids[:PROMPT] for ids in lists[:prompts]]))

        def run(prompts, batch, tokens):
            seconds, _, cpu = measure(fucina, "generate", work / "run", "--tokens", work / f"{prompts}.json", "--batch", batch,
                                      "--max-tokens", tokens, "--temperature", 0, "--ignore-eos", env=env)
            return seconds, cpu

        taken = {variant: [] for variant in VARIANTS}
        for _ in range(rounds):
            for variant in VARIANTS:  # loading the model and the first token are taken off
                (begin, begin_cpu), (end, end_cpu) = run(*variant, 1), run(*variant, 1 + TOKENS)
                taken[variant].append((end - begin, end_cpu - begin_cpu))
        print("| prompts | together | ms a step | tokens/s | times one alone | CPU ms a token | tokens a CPU second |\n|---:|---:|---:|---:|---:|---:|---:|")
        alone = statistics.median(seconds for seconds, _ in taken[1, 1]) / TOKENS
        for (prompts, batch), times in taken.items():
            seconds, cpu = (statistics.median(column) for column in zip(*times))
            made = prompts * TOKENS
            print(f"| {prompts} | {batch} | {1e3 * seconds / made * batch:.2f} | {made / seconds:,.0f} | {alone * made / seconds:.1f} "
                  f"| {1e3 * cpu / made:.2f} | {made / cpu:,.0f} |")
        print(f"\n{PROMPT} tokens a prompt, {TOKENS} made; {env['FUCINA_THREADS']} threads; over the cores {os.getloadavg()[0]:.1f} threads wanted to run.")


if __name__ == "__main__":
    main()
