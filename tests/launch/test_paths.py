"""Where things lie: the home directory's tilde, links, and a cache that cannot be written."""
import os
import pwd

import pytest

import runs

PROSE = "Iron is worked while it is hot, and the smith who waits works twice. " * 30


@pytest.fixture
def text(tmp_path):
    (tmp_path / "prose.txt").write_text(PROSE)
    done = runs.run("tokenizer", "train", "--input", tmp_path / "prose.txt", "--vocab-size", 290,
                    "--output", tmp_path / "tokenizer.json")
    assert done.returncode == 0, done.stderr
    return {"model__vocab_size": 290, "data__tokenizer": str(tmp_path / "tokenizer.json"), "data__valid": None,
            "data__train": [{"path": str(tmp_path / "prose.txt")}], "train__steps": 1, "checkpoint__every": 0}


def test_a_tilde_is_the_home_directory(tmp_path, text, monkeypatch):
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir(), work.mkdir()
    for name in ("prose.txt", "tokenizer.json"):
        (tmp_path / name).rename(home / name)
    monkeypatch.chdir(work)
    monkeypatch.setenv("HOME", str(home))
    runs.train(work, **{**text, "run__dir": "~/run", "data__tokenizer": "~/tokenizer.json",
                        "data__train": [{"path": "~/prose.txt"}], "data__cache": "~/cache"})
    assert (home / "run" / "metrics.jsonl").exists() and list((home / "cache").glob("*.h5"))
    assert f'dir = "{home}/run"' in (home / "run" / "recipe.resolved.toml").read_text()
    done = runs.run("data", "check", "~/prose.txt", "--format=text")
    assert done.returncode == 0, done.stderr
    done = runs.run("eval", "~/run", "--data=~/prose.txt", "--tokenizer=~/tokenizer.json")
    assert done.returncode == 0, done.stderr
    monkeypatch.delenv("HOME")
    done = runs.run("data", "check", "~/nothing.txt", "--format=text")
    assert done.returncode == 3 and pwd.getpwuid(os.getuid()).pw_dir + "/nothing.txt" in done.stderr
    for command in (("data", "check", "~other/x.txt"), ("train", work / "recipe.toml", "--set", "run.dir=~other/x")):
        done = runs.run(*command)
        assert done.returncode == 2 and "~other/x" in done.stderr and "home directory" in done.stderr
    assert sorted(path.name for path in work.iterdir()) == ["recipe.toml"]


def test_links_are_followed(tmp_path, text):
    """A run directory, data and a tokenizer behind links, as a hub's cache keeps them."""
    blobs, links = tmp_path / "blobs", tmp_path / "links"
    for directory in (blobs, links, tmp_path / "elsewhere"):
        directory.mkdir()
    for name in ("prose.txt", "tokenizer.json"):
        (tmp_path / name).rename(blobs / name)
        (links / name).symlink_to(f"../blobs/{name}")
    (tmp_path / "runs").symlink_to(tmp_path / "elsewhere")
    runs.train(tmp_path, **{**text, "run__dir": str(tmp_path / "runs" / "one"),
                            "data__tokenizer": str(links / "tokenizer.json"),
                            "data__train": [{"path": str(links / "prose.txt")}],
                            "data__cache": str(tmp_path / "cache")})
    (tmp_path / "run").symlink_to(tmp_path / "elsewhere" / "one")
    runs.resume(tmp_path, "--set", "train.steps=2")
    assert runs.run("generate", tmp_path / "run", "--prompt", "Iron", "--max-tokens", 2).returncode == 0
    assert sorted(path.name for path in (tmp_path / "elsewhere").iterdir()) == ["one"]


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_cache_that_cannot_be_written(tmp_path, text, monkeypatch, ranks):
    work = tmp_path / "work"
    work.mkdir()
    (work / ".fucina-cache").write_text("a file is in the way")
    monkeypatch.chdir(work)
    done = runs.train(tmp_path, ranks=ranks, **text)
    assert f"kept in {tmp_path}/run.cache (data.cache names another place)" in done.stdout
    assert list((tmp_path / "run.cache").glob("prose-*.h5"))
    runs.resume(tmp_path, "--set", "train.steps=2", ranks=ranks)
    done = runs.run("eval", tmp_path / "run", "--data", tmp_path / "prose.txt", env={"TMPDIR": str(tmp_path)})
    assert done.returncode == 0 and f"{tmp_path}/fucina-cache" in done.stdout, done.stderr
    (tmp_path / "other").mkdir()
    runs.train(tmp_path / "other", ranks=ranks, **text, data__cache=str(tmp_path / "mine"))
    assert list((tmp_path / "mine").glob("prose-*.h5"))
    done = runs.train(tmp_path / "other", expect=None, **text, run__dir=str(tmp_path / "third"),
                      data__cache=str(work / ".fucina-cache" / "x"))
    assert done.returncode == 11 and "data.cache names another place" in done.stderr
