"""Swapped, wrong and unreadable paths, and disks with no room: import, export, and what works on checkpoints, say so in a line
with the right exit code before they do anything, and leave nothing."""
import os
import subprocess

import pytest

import runs


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A run, an export of it, and things that are neither; also a name with a space and a newline."""
    directory = tmp_path_factory.mktemp("paths")
    runs.write_tokens(directory / "ids.json")
    runs.train(directory, train__steps=2, eval__every=0)
    assert runs.run("export", directory / "run", directory / "hf").returncode == 0
    (directory / "empty").mkdir()
    (directory / "file").touch()
    (directory / "a b\nc").mkdir()
    return directory


HF_WANTED, RUN_WANTED = "expected a Hugging Face directory", "expected a run or a checkpoint"
WRONG = [
    ("import run OUT", 2, "run: is a run or a checkpoint already; " + HF_WANTED),
    ("import run/checkpoints/step-00000002 OUT", 2, "step-00000002: is a run or a checkpoint already; " + HF_WANTED),
    ("import file OUT", 3, "file: is a file; " + HF_WANTED),
    ("import none OUT", 3, "none: no such directory; " + HF_WANTED),
    ("import empty OUT", 3, "empty/config.json: cannot open"),
    ("import NAME OUT", 3, "a b c/config.json: cannot open"),
    ("import EMPTY OUT", 2, "HF_DIR: is empty; expected a path"),
    ("import hf EMPTY", 2, "OUT: is empty; expected a path"),
    ("import hf file/OUT", 2, "file is a file, no directory"),
    ("import hf run", 2, "run: is there already"),
    ("export hf OUT", 2, "hf: is a Hugging Face directory already; " + RUN_WANTED),
    ("export run hf", 2, "hf: is there already"),
    ("export run file/OUT/b", 2, "file is a file, no directory"),
    ("export file OUT", 3, "file: is a file; expected a run, checkpoint or Hugging Face directory"),
    ("export run OUT --verify text", 2, "has no tokenizer.json"),
    ("checkpoint diff run hf", 10, "hf: is a Hugging Face directory; `fucina import` makes a checkpoint of one"),
    ("checkpoint verify file", 3, "file: is a file; " + RUN_WANTED),
    ("checkpoint inspect NAME", 10, "a b c: no valid checkpoint in it"),
    ("checkpoint reshard run run", 2, "run: is there already"),
    ("checkpoint reshard run file/OUT", 2, "file is a file, no directory"),
    ("checkpoint reshard hf OUT", 10, "hf: is a Hugging Face directory"),
    ("checkpoint prune hf --keep 1", 10, "hf is no run directory"),
    ("checkpoint prune run/checkpoints/step-00000002 --keep 1", 10, "is no run directory"),
    ("generate file --prompt a", 3, "file: is a file; expected a run, checkpoint or Hugging Face directory"),
    ("generate hf --chat --prompt a", 2, "hf: has no tokenizer.json"),
    ("data preview EMPTY --tokenizer file", 2, "file: is empty; expected a path"),
    ("data preview file --tokenizer empty", 3, "empty: is a directory, expected a file"),
]


def told(done, code, words):
    assert done.returncode == code and words in done.stderr, (done.args, done.returncode, done.stderr)
    assert done.stderr.count("\n") == 1 and done.stdout == "", (done.args, done.stdout, done.stderr)


@pytest.mark.parametrize("command, code, words", WRONG, ids=[row[0] for row in WRONG])
def test_wrong_paths(command, code, words, place):
    before = sorted(place.rglob("*"))
    names = {"EMPTY": "", "NAME": str(place / "a b\nc")}
    arguments = command.split(" ")
    arguments = [names.get(word, str(place / word) if place.joinpath(word).exists() or "OUT" in word or word == "none" else word)
                 for word in arguments]
    told(runs.run(*arguments), code, words)
    assert sorted(place.rglob("*")) == before


def test_a_disk_without_room(place, tmp_path):
    """Is seen before anything is written; nothing stays, not even an empty directory."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "fucina-test", disk], capture_output=True).returncode != 0:
        pytest.skip("this machine lets nobody mount a file system")
    try:
        (disk / "filler").write_bytes(b"\0" * 900_000)
        for command in ("import", place / "hf"), ("export", place / "run"), ("checkpoint", "reshard", place / "run"):
            done = runs.run(*command, disk / "out")
            assert done.returncode == 11 and f"{disk}: no space left: " in done.stderr, done.stderr
            assert done.stderr.count("\n") == 1 and list(disk.iterdir()) == [disk / "filler"]
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_what_may_not_be_read(place):
    """By another user, from a directory that only its owner may enter."""
    def run(*arguments):
        return runs.run(*arguments, prefix=["setpriv", "--reuid", "65534", "--clear-groups"])

    above = [path for path in (place, *place.parents) if not path.stat().st_mode & 1]
    modes = [path.stat().st_mode for path in above]
    try:
        for path, mode in zip(above, modes):
            path.chmod(mode | 0o55)
        if run("--version").returncode != 0:
            pytest.skip("the program cannot be read by others")
        (place / "run").chmod(0o700)
        for command in ("export", "run", "out"), ("generate", "run", "--prompt", "a"), ("checkpoint", "verify", "run"):
            told(run(*(str(place / word) if word in ("run", "out") else word for word in command)), 3, "run: cannot open: Permission denied")
        done = run("checkpoint", "prune", place / "run", "--keep", 1)
        assert done.returncode == 11 and done.stderr == f"error: {place}/run/lock: Permission denied\n"
    finally:
        (place / "run").chmod(0o755)
        for path, mode in zip(above, modes):
            path.chmod(mode)
