"""Runs the fuzz targets, two at a time, and says what each found: tests/fuzz/run.py LEVEL REPORT.xml [TARGET...]

LEVEL fast replays the seeds alone, default fuzzes each target for a minute, full for ten. The random seed is new each
time in full and 1 otherwise, so that a change is judged by what it changed. An input that breaks a target is kept in
build-fuzz/found; `build-fuzz/tests/fuzz/fuzz_TARGET FILE` runs it again.
"""
import concurrent.futures
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as xml

HERE = pathlib.Path(__file__).parent
BUILD = HERE.parents[1] / "build-fuzz"
SECONDS = {"fast": 0, "default": 60, "full": 600}
LIMITS = ["-timeout=10", "-rss_limit_mb=1024", "-malloc_limit_mb=256", "-max_len=16384"]


def fuzz(target, level):
    """What libFuzzer printed, and whether the target stood."""
    seconds = SECONDS[level]
    found, corpus = BUILD / "found", BUILD / "corpus" / target
    for folder in (found, corpus):
        folder.mkdir(parents=True, exist_ok=True)
    seeds = HERE / "seeds" / target
    if not any(seeds.iterdir()):
        return f"{seeds} holds no input", False
    command = [BUILD / "tests" / "fuzz" / f"fuzz_{target}", *LIMITS, f"-artifact_prefix={found / target}-"]
    command += [f"-max_total_time={seconds}", corpus, seeds] if seconds else ["-runs=0", seeds]
    command += [] if level == "full" else ["-seed=1"]
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=memory) as scratch:  # targets write small files
        # libhdf5 asks for as much memory as a file tells it to, and is given none.
        options = os.environ.get("ASAN_OPTIONS", "") + ":allocator_may_return_null=1"
        done = subprocess.run(command, capture_output=True, text=True, errors="replace",
                              env={**os.environ, "TMPDIR": scratch, "ASAN_OPTIONS": options})
    if done.returncode == 0:  # what crashed a child process alone is as it should be
        for path in found.glob(f"{target}-*"):
            path.unlink()
    return done.stderr, done.returncode == 0


def summary(text):
    """Seed, executions, executions a second and edges covered, of libFuzzer's last lines."""
    def last(pattern):
        return (re.findall(pattern, text) or ["?"])[-1]
    return (f"seed {last(r'Seed: ([0-9]+)')}, {last(r'Done ([0-9]+) runs')} executions, "
            f"{last(r'exec/s: ([0-9]+)')} a second, {last(r'cov: ([0-9]+)')} edges")


def main(level, report, names):
    targets = names or sorted(path.name.removesuffix("_fuzz.cpp") for path in HERE.glob("*_fuzz.cpp"))
    suite = xml.Element("testsuite", name="fuzz")
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        results = pool.map(lambda target: fuzz(target, level), targets)
        for target, (text, stood) in zip(targets, results):
            print(f"fuzz {target}: {'ok' if stood else 'FAILED'}, {summary(text)}", flush=True)
            case = xml.SubElement(suite, "testcase", classname="fuzz", name=target)
            if not stood:
                tail = "\n".join(line for line in text.splitlines() if not line.startswith("#"))[-6000:]
                print(tail)
                xml.SubElement(case, "failure", message="see the log")
    xml.ElementTree(suite).write(report)
    return any(case.find("failure") is not None for case in suite)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
