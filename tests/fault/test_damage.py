"""Damaged checkpoints are noticed, named, and passed over for the one before."""
import shutil

import pytest

import runs

STEPS = 12


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    directory = tmp_path_factory.mktemp("whole")
    runs.write_tokens(directory / "ids.json")
    runs.train(directory, ranks=2, train__steps=STEPS)
    return directory


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at if at >= 0 else len(data) + at] ^= 0x10
    path.write_bytes(data)


def payload_byte(path):
    """A byte within some dataset."""
    import h5py

    with h5py.File(path) as file:
        found = []
        file.visititems(lambda name, item: found.append(item.id.get_offset())
                        if isinstance(item, h5py.Dataset) else None)
        return found[len(found) // 2] + 5


def truncate(path, by):
    data = path.read_bytes()
    path.write_bytes(data[:len(data) - by])


SHARD = "shard-00001-of-00002.h5"
DAMAGE = {
    "flipped payload": lambda step: flip(step / SHARD, payload_byte(step / SHARD)),
    "flipped manifest": lambda step: flip(step / "MANIFEST.pb", 200),
    "flipped manifest checksum": lambda step: flip(step / "MANIFEST.pb", -1),
    "truncated manifest": lambda step: truncate(step / "MANIFEST.pb", 1),
    "empty manifest": lambda step: (step / "MANIFEST.pb").write_bytes(b""),
    "no manifest": lambda step: (step / "MANIFEST.pb").unlink(),
    "truncated shard": lambda step: truncate(step / SHARD, 4096),
    "no shard": lambda step: (step / SHARD).unlink(),
    "swapped shards": lambda step: swap(step / SHARD, step / "shard-00000-of-00002.h5"),
    "shard of another step": lambda step: shutil.copy(step.parent / f"step-{STEPS - 4:08d}" / SHARD,
                                                      step / SHARD),
}


def swap(one, other):
    kept = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(kept)


@pytest.mark.slow
@pytest.mark.parametrize("name, ranks", [(name, 1) for name in DAMAGE] +
                         [("flipped payload", 2), ("truncated shard", 2)])
def test_falls_back_loudly(tmp_path, whole, name, ranks):
    runs.copy_run(whole, tmp_path)
    newest = tmp_path / "run" / "checkpoints" / f"step-{STEPS:08d}"
    DAMAGE[name](newest)
    verified = runs.run("checkpoint", "verify", newest)
    assert verified.returncode in (3, 10) and len(verified.stderr.splitlines()) == 1
    done = runs.resume(tmp_path, ranks=ranks)
    assert "WARNING" in done.stdout and f"after step {STEPS - 4}" in done.stdout, done.stdout
    assert runs.same_run(whole, tmp_path, STEPS) is None


def test_no_valid_checkpoint_left(tmp_path, whole):
    runs.copy_run(whole, tmp_path)
    for name in runs.checkpoints(tmp_path):
        step = tmp_path / "run" / "checkpoints" / name
        flip(step / SHARD, payload_byte(step / SHARD))
    done = runs.resume(tmp_path, expect=10)
    assert "no valid checkpoint" in done.stderr and "--fresh" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_verify_compares_with_hdf5(tmp_path, whole):
    """A flip in HDF5's own bytes harms no load, but verify finds it."""
    runs.copy_run(whole, tmp_path)
    newest = tmp_path / "run" / "checkpoints" / f"step-{STEPS:08d}"
    assert runs.run("checkpoint", "verify", tmp_path / "run").returncode == 0
    flip(newest / SHARD, 20)  # in the superblock
    done = runs.run("checkpoint", "verify", newest)
    assert done.returncode == 3 and "HDF5" in done.stderr, done.stderr


def test_diff_and_prune(tmp_path, whole):
    runs.copy_run(whole, tmp_path)
    names = runs.checkpoints(tmp_path)
    steps = [tmp_path / "run" / "checkpoints" / name for name in names]
    done = runs.run("checkpoint", "diff", whole / "run", tmp_path / "run")
    assert done.returncode == 0 and " 0 differ" in done.stdout, done.stdout + done.stderr
    done = runs.run("checkpoint", "diff", steps[0], steps[-1])
    assert done.returncode == 3 and len(done.stderr.splitlines()) == 1
    assert "layers.1.moe.experts.gate_up" in done.stdout and "values differ" in done.stdout
    done = runs.run("checkpoint", "prune", tmp_path / "run", "--keep", "1")
    assert done.returncode == 0 and f"{len(names) - 1} removed, 1 left" in done.stdout
    assert runs.checkpoints(tmp_path) == names[-1:]
    for arguments in [(), ("--keep", "0"), ("--keep", "x")]:
        done = runs.run("checkpoint", "prune", tmp_path / "run", *arguments)
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    assert runs.run("checkpoint", "prune", steps[-1], "--keep", "1").returncode == 10


def test_inspect_lists_what_is_there(whole):
    done = runs.run("checkpoint", "inspect", whole / "run", "--tensors")
    assert done.returncode == 0
    assert f"step         {STEPS}, {STEPS} updates" in done.stdout
    assert "layers.1.moe.experts.gate_up" in done.stdout and '"hidden_size":32' in done.stdout
    done = runs.run("checkpoint", "inspect", whole / "elsewhere")
    assert done.returncode == 3 and "no such directory" in done.stderr


def test_too_few_open_files_are_no_damage(tmp_path, whole):
    """Whatever number of files the process may open, a resume loads the newest checkpoint or touches none."""
    runs.copy_run(whole, tmp_path)
    names, failed = runs.checkpoints(tmp_path), set()
    for limit in range(4, 20):
        done = runs.resume(tmp_path, expect=None, prefix=["prlimit", f"--nofile={limit}"])
        if done.returncode != 0 and "Too many open files" in done.stderr:
            failed.add(done.returncode)
        assert done.returncode != 10 and "set aside" not in done.stdout, (limit, done.stdout[-500:], done.stderr)
        assert runs.checkpoints(tmp_path) == names, limit
        assert runs.metrics(tmp_path) == runs.metrics(whole), limit
    assert 11 in failed, failed
    assert "resumed" in runs.resume(tmp_path).stdout
