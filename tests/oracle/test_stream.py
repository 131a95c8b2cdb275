"""Import and export take memory that does not grow with the model (docs/results/checkpoints.md has 6 GiB): of a small one the
peak is far below what its weights would take, and of one twice as large the same."""
import os
import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "bench"))
from program import BINARY, fucina
from stream_model import bytes_in, make, measure

pytestmark = pytest.mark.slow
MOST = 160  # MiB; on two threads, where the bound of eight and of any width is 512


def peaks(directory, gigabytes):
    environment = {**os.environ, "FUCINA_THREADS": "2"}
    size = make(directory / "hf", gigabytes)

    def run(*arguments):
        return measure(BINARY, *arguments, env=environment)[1]

    found = {"import": run("import", directory / "hf", directory / "checkpoint"),
             "fp8 like": run("export", directory / "checkpoint", directory / "fp8", "--dtype", "fp8", "--like", directory / "hf"),
             "bf16": run("export", directory / "checkpoint", directory / "bf16")}
    assert bytes_in(directory / "checkpoint") > MOST * 2**20 * 2
    assert 0.8 < bytes_in(directory / "fp8") / size < 1.01
    return size, found


def test_memory_does_not_grow_with_the_model(tmp_path):
    small, of_small = peaks(tmp_path / "small", 0.12)
    large, of_large = peaks(tmp_path / "large", 0.24)
    assert large > 1.8 * small
    for command, peak in of_large.items():
        assert peak < MOST and peak < of_small[command] + 8, (of_small, of_large)
    fucina("import", tmp_path / "small" / "fp8", tmp_path / "again")
    fucina("checkpoint", "diff", tmp_path / "small" / "checkpoint", tmp_path / "again")
