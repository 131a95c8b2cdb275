"""The memory table at the quickstart's shape: predicted before the first step, measured at the end of the run.

Guards against a plan that leaves something out, and against a table that does not say what the process holds.
"""
import json
import random
import re
import tomllib

import pytest

import runs

# Which pages of the program's code a run touches, and how tokens spread over experts, is known to no plan.
FLOOR = 1.0  # MiB
ROW = re.compile(r"^  ([a-z ]+?) +([0-9.]+) MiB +([0-9.]+) MiB$", re.M)


def quickstart(directory, **keys):
    recipe = tomllib.loads((runs.ROOT / "configs" / "quickstart.toml").read_text())
    rng = random.Random(1)
    documents = [[rng.randrange(4096) for _ in range(min(4000, int(rng.lognormvariate(5.5, 1)) + 2))]
                 for _ in range(150)]
    (directory / "ids.json").write_text(json.dumps(documents))
    data = [{"path": str(directory / "ids.json"), "format": "tokens"}]
    values = {f"{table}.{key}": value for table, entries in recipe.items() for key, value in entries.items()}
    values.update({"run.dir": str(directory / "run"), "data.train": data, "data.valid": data, "train.steps": 4,
                   "train.warmup_steps": 0, "eval.every": 0, "checkpoint.every": 0})
    values.update({key.replace("__", "."): value for key, value in keys.items()})
    del values["data.tokenizer"]
    return runs.write_recipe(directory / "recipe.toml", values)


@pytest.mark.slow
@pytest.mark.parametrize("ranks, keys", [(2, {}), (2, {"parallel__expert": 2}), (2, {"parallel__tensor": 2}),
                                         (2, {"parallel__tensor": 2, "parallel__sequence": False}),
                                         (2, {"parallel__zero": 1}), (2, {"parallel__zero": 2}), (2, {"parallel__zero": 3}),
                                         (2, {"parallel__pipeline": 2, "train__micro_batch": 1}),
                                         (4, {"parallel__pipeline": 2, "parallel__zero": 3, "train__micro_batch": 1}),
                                         (4, {"parallel__expert": 2, "parallel__zero": 3, "train__recompute": "block"}),
                                         (4, {"parallel__expert": 4, "parallel__zero": 1, "exact__replicas": 4}),
                                         (2, {"exact__replicas": 4}), (1, {"exact__replicas": 4}), (1, {}), (1, {"train__recompute": "block"}),
                                         (1, {"train__numerics": "fast", "train__precision": "fp32"})])
def test_predicted_is_what_is_measured(tmp_path, ranks, keys):
    done = runs.run("train", quickstart(tmp_path, **keys), ranks=ranks, env={"FUCINA_THREADS": "2" if ranks < 4 else "1"}, timeout=600)
    assert done.returncode == 0, done.stderr
    rows = {name: (float(predicted), float(measured)) for name, predicted, measured in ROW.findall(done.stdout)}
    assert {"weights", "packed weights", "moments", "gradients", "activations", "kernel scratch", "program",
            "in all"} <= rows.keys(), done.stdout
    off = {name: row for name, row in rows.items() if abs(row[0] - row[1]) > max(0.05 * row[1], FLOOR)}
    assert not off, off
