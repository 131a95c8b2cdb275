"""Runs of the program for tests: recipes, ranks, metrics and the state in a checkpoint."""
import json
import os
import pathlib
import random
import shutil
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
FUCINA = os.environ.get("FUCINA_BINARY", str(ROOT / "build-test" / "fucina"))
LEVEL = os.environ.get("FUCINA_TEST_LEVEL", "default")  # of tests/run.sh
SEED = int(os.environ.get("FUCINA_TEST_SEED", random.randrange(2**32)))  # for what is drawn at random
MPIRUN = str(ROOT / "launch" / "mpirun.sh")

TINY = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "moe_intermediate_size": 16,
    "num_hidden_layers": 3, "num_attention_heads": 4, "n_routed_experts": 8, "kv_lora_rank": 16,
    "q_lora_rank": 24, "qk_rope_head_dim": 8, "v_head_dim": 8, "qk_nope_head_dim": 8, "n_group": 2,
    "topk_group": 1, "num_experts_per_tok": 2, "first_k_dense_replace": 1,
}


def write_tokens(path, documents=120, lengths=(20, 24, 9, 37), vocab=61, seed=1):
    """Ids with something to learn: each follows from the one before, most of the time."""
    rng = random.Random(seed)
    lists = []
    for _ in range(documents):
        ids = [rng.randrange(vocab)]
        for _ in range(rng.choice(lengths) - 1):
            ids.append((3 * ids[-1] + 7) % vocab if rng.random() < 0.8 else rng.randrange(vocab))
        lists.append(ids)
    path.write_text(json.dumps(lists))
    return lists


def recipe(directory, **keys):
    """A recipe as a dict of dotted keys; None leaves a default."""
    values = {f"model.{key}": value for key, value in TINY.items()}
    values.update({
        "run.dir": str(directory / "run"), "data.sequence_length": 24, "train.steps": 12,
        "train.global_batch": 8, "train.micro_batch": 2, "train.learning_rate": 3e-3,
        "train.precision": "fp32", "train.mtp_loss": 0.3, "train.threads": 1, "checkpoint.every": 4,
        "eval.every": 4,
        "data.train": [{"path": str(directory / "ids.json"), "format": "tokens"}],
        "data.valid": [{"path": str(directory / "ids.json"), "format": "tokens"}],
    })
    values.update({key.replace("__", "."): value for key, value in keys.items()})
    return {key: value for key, value in values.items() if value is not None}


def toml(value):
    if isinstance(value, list):
        return "[" + ", ".join(toml(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml(item)}" for key, item in value.items()) + " }"
    return json.dumps(value)


def write_recipe(path, values):
    path.write_text("".join(f"{key} = {toml(value)}\n" for key, value in values.items()))
    return path


def run(*arguments, ranks=1, env=None, prefix=(), timeout=120):
    command = [*prefix, *([MPIRUN, "-np", str(ranks)] if ranks > 1 else []), FUCINA, *map(str, arguments)]
    environment = {**os.environ, "FUCINA_THREADS": "1", **(env or {})}
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment)


def train(directory, ranks=1, env=None, prefix=(), expect=0, **keys):
    """Trains in directory/run; returns the finished process."""
    path = write_recipe(directory / "recipe.toml", recipe(directory, **keys))
    done = run("train", path, ranks=ranks, env=env, prefix=prefix)
    assert expect is None or done.returncode == expect, (done.returncode, done.stdout[-2000:], done.stderr)
    return done


def resume(directory, *arguments, ranks=1, env=None, prefix=(), expect=0):
    done = run("resume", directory / "run", *arguments, ranks=ranks, env=env, prefix=prefix)
    assert expect is None or done.returncode == expect, (done.returncode, done.stdout[-2000:], done.stderr)
    return done


def metrics(directory):
    """All lines of metrics.jsonl, without what time decides."""
    lines = []
    for text in (directory / "run" / "metrics.jsonl").read_text().splitlines():
        line = json.loads(text)
        for key in ("tokens_per_s", "compute_s", "exposed_s"):
            line.pop(key, None)
        lines.append(line)
    return lines


def last_step(directory):
    """Of metrics.jsonl, whose last line a kill may have torn; 0 without one."""
    try:
        text = (directory / "run" / "metrics.jsonl").read_text()
    except FileNotFoundError:
        return 0
    lines = text[:text.rfind("\n") + 1].splitlines()
    return json.loads(lines[-1])["step"] if lines else 0


def checkpoints(directory):
    return sorted(path.name for path in (directory / "run" / "checkpoints").iterdir())


def state(directory, step):
    """Name -> bytes of every tensor in a checkpoint, through h5py."""
    import h5py
    import numpy

    pieces = {}
    for shard in sorted((directory / "run" / "checkpoints" / f"step-{step:08d}").glob("*.h5")):
        with h5py.File(shard) as file:
            def visit(name, item):
                if isinstance(item, h5py.Dataset):
                    base, _, begin = name.partition("@")
                    begin = [int(index) for index in begin.split(",")] if begin else []
                    begin += [0] * (len(item.shape) - len(begin))
                    pieces.setdefault(base, []).append((begin, item[...]))
            file.visititems(visit)

    def together(parts):
        shape = numpy.max([numpy.add(begin, part.shape) for begin, part in parts], axis=0)
        whole = numpy.empty(shape, parts[0][1].dtype)
        for begin, part in parts:
            whole[tuple(slice(b, b + n) for b, n in zip(begin, part.shape))] = part
        return whole.tobytes()

    return {name: together(parts) for name, parts in pieces.items()}


def same_run(one, other, step):
    """Nothing if both ended with the same bits, else where they differ first."""
    for a, b in zip(metrics(one), metrics(other)):
        if a != b:
            return f"step {a['step']}: " + str({key: (a[key], b.get(key)) for key in a if a[key] != b.get(key)})
    if len(metrics(one)) != len(metrics(other)):
        return f"{len(metrics(one))} and {len(metrics(other))} steps"
    a, b = state(one, step), state(other, step)
    if a.keys() != b.keys():
        return f"tensors {sorted(a.keys() ^ b.keys())}"
    differ = [name for name in a if a[name] != b[name]]
    return f"tensors {differ[:5]} of {len(differ)}" if differ else None


def wait_for_step(directory, step):
    path = directory / "run" / "metrics.jsonl"
    for _ in range(600):
        if path.exists() and len(path.read_text().splitlines()) >= step:
            return
        time.sleep(0.05)
    raise AssertionError("the run makes no progress")


def long_run(directory, ranks=1):
    """The command of a run that does not end by itself."""
    write_tokens(directory / "ids.json")
    path = write_recipe(directory / "recipe.toml",
                        recipe(directory, train__steps=100000, checkpoint__every=0, data__valid=None))
    return ([MPIRUN, "-np", str(ranks)] if ranks > 1 else []) + [FUCINA, "train", str(path)]


def start_long(directory, ranks=1, **options):
    environment = {**os.environ, "FUCINA_THREADS": "1"}
    process = subprocess.Popen(long_run(directory, ranks), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               text=True, env=environment, **options)
    wait_for_step(directory, 2)
    return process


def copy_run(source, target):
    """A run directory as it stands, at another place."""
    target.mkdir(exist_ok=True)
    shutil.copytree(source / "run", target / "run")
    shutil.copy(source / "ids.json", target / "ids.json")
