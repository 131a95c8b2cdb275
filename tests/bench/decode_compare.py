"""Alternates Fucina and transformers at decoding on prepared models and prints a table (see decoding.sh).

    decode_compare.py WORK_DIR BENCH_DECODE ROUNDS
"""
import itertools
import json
import pathlib
import statistics
import subprocess
import sys

PEER = pathlib.Path(__file__).with_name("decode_peer.py")
TOKENS = 100


def last_line(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit {done.returncode}: {done.stderr.strip()[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def main():
    work, program, rounds = pathlib.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    peers = list(itertools.product(("bf16", "fp32"), ("eager", "grouped_mm")))
    print("| model | cached | Fucina, ms a token | MB read | GB/s | of reading memory | transformers' best, ms | ratio |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for model, length in itertools.product(("quickstart", "medium"), (64, 1024)):
        ours, theirs = [], {peer: [] for peer in peers}
        for round_ in range(rounds):
            ours.append(last_line([program, str(work / model), str(length), str(TOKENS)]))
            for dtype, experts in peers:
                best = min((statistics.median(v) for v in theirs.values() if v), default=0)
                mine = theirs[dtype, experts]
                if round_ > 0 and statistics.median(mine) > 1.5 * best:
                    continue  # no longer in the race
                mine.append(last_line([sys.executable, str(PEER), "run", str(work / model), str(length),
                                       str(TOKENS // 4), "--dtype", dtype, "--experts", experts])["ms"])
        ms = statistics.median(run["ms"] for run in ours)
        rate = ours[0]["bytes"] / ms * 1e3
        share = statistics.median(run["bytes"] / run["ms"] * 1e3 / run["bandwidth"] for run in ours)
        best, name = min((statistics.median(v), ", ".join(peer)) for peer, v in theirs.items())
        print(f"| {model} | {length} | {ms:.3f} | {ours[0]['bytes'] / 1e6:.1f} | {rate / 1e9:.1f} | {share:.0%} "
              f"| {best:.1f} ({name}) | {best / ms:.0f} |", flush=True)


if __name__ == "__main__":
    main()
