"""Input that would compute, and mean nothing: every command says what is wrong, where, and what to do."""
import gzip
import json

import pytest

import runs

PROSE = "Iron is worked while it is hot, and the smith who waits works twice. " * 30


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tokenizer")
    (directory / "prose.txt").write_text(PROSE)
    done = runs.run("tokenizer", "train", "--input", directory / "prose.txt", "--vocab-size", 290,
                    "--output", directory / "tokenizer.json")
    assert done.returncode == 0, done.stderr
    return directory / "tokenizer.json"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run at step 6 whose model has 32 positions."""
    directory = tmp_path_factory.mktemp("trained")
    runs.write_tokens(directory / "ids.json")
    runs.train(directory, train__steps=6, checkpoint__every=3, eval__every=0, model__max_position_embeddings=32)
    return directory


def one_line(done, code, *words):
    assert done.returncode == code, (done.stdout[-500:], done.stderr)
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    for word in words:
        assert word in lines[0], lines[0]


@pytest.mark.parametrize("length, train, valid, name", [
    (24, [[5], [7], [9]] * 20, [[1, 2, 3]] * 8, "ids.json"),
    (24, [[1, 2, 3, 4]] * 40, [[3], [4]], "valid.json"),
    (1, [[1, 2, 3, 4]] * 40, [[1, 2, 3]] * 8, "ids.json"),
])
def test_nothing_to_predict(tmp_path, length, train, valid, name):
    (tmp_path / "ids.json").write_text(json.dumps(train))
    (tmp_path / "valid.json").write_text(json.dumps(valid))
    done = runs.train(tmp_path, expect=None, data__sequence_length=length,
                      data__valid=[{"path": str(tmp_path / "valid.json")}])
    one_line(done, 3, name, "nothing to predict", f"sequence length of {length}")
    assert not (tmp_path / "run").exists()


def test_nothing_to_predict_in_eval(tmp_path, trained):
    (tmp_path / "one.json").write_text("[[3], [], [4]]")
    for option in ("--tokens", "--data"):
        one_line(runs.run("eval", trained / "run", option, tmp_path / "one.json"), 3, "nothing to predict", "one.json")


def test_a_batch_that_predicts_nothing_moves_no_weight(tmp_path):
    """Its loss is null, not 0, and the step is skipped."""
    (tmp_path / "ids.json").write_text(json.dumps([[5]] * 24 * 8 + [[1, 2, 3]] * 24))
    runs.train(tmp_path, train__steps=1, data__shuffle=False, data__valid=None, data__sequence_length=24,
               checkpoint__every=1, model__num_nextn_predict_layers=0, train__mtp_loss=0)
    only = runs.metrics(tmp_path)[0]
    assert only["loss"] is None and only["skipped"]


def test_fewer_steps_than_done(tmp_path, trained):
    runs.copy_run(trained, tmp_path)
    resolved = tmp_path / "run" / "recipe.resolved.toml"
    before = resolved.read_text()
    one_line(runs.resume(tmp_path, "--set", "train.steps=4", expect=None), 2, "train.steps = 4", "step 6")
    assert resolved.read_text() == before
    done = runs.resume(tmp_path)
    assert "nothing is left to do: the run is at step 6 of 6; --set train.steps=N" in done.stdout
    assert "steps = 6" in resolved.read_text()


def test_positions_beyond_the_models(tmp_path, trained):
    run = trained / "run"
    long, mixed = tmp_path / "long.json", tmp_path / "mixed.json"
    long.write_text(json.dumps([list(range(33))]))
    mixed.write_text(json.dumps([[1, 2], list(range(40))]))
    one_line(runs.run("eval", run, "--tokens", mixed), 3, "list 1", "40 tokens", "positions for 32")
    one_line(runs.run("eval", run, "--data", mixed, "--sequence-length", 33), 2, "--sequence-length", "33", "32")
    one_line(runs.run("generate", run, "--tokens", long), 2, "the prompt", "33 tokens", "positions for 32")
    done = runs.run("generate", run, "--tokens", trained / "ids.json", "--max-tokens", 3)
    (tmp_path / "few.json").write_text("[[1, 2, 3]]")
    done = runs.run("generate", run, "--tokens", tmp_path / "few.json", "--max-tokens", 100, "--ignore-eos")
    assert done.returncode == 0 and "last of the model's 32 positions" in done.stderr
    assert len(json.loads(done.stdout)) == 32
    runs.write_tokens(tmp_path / "ids.json")
    done = runs.train(tmp_path, expect=None, data__sequence_length=64, model__max_position_embeddings=32)
    one_line(done, 2, "data.sequence_length", "64 tokens", "positions for 32")


@pytest.mark.parametrize("name, content, words", [
    ("a.txt", PROSE.encode("utf-16"), "UTF-16"),
    ("a.txt", PROSE.encode("utf-16-be"), "UTF-16BE"),
    ("a.txt", gzip.compress(PROSE.encode()), "gzip"),
    ("a.txt", PROSE.replace("waits", "attends à l'été").encode("latin-1"), "not UTF-8"),
    ("a.jsonl", gzip.compress(b'{"text": "x"}\n'), "gzip"),
    ("a.jsonl", '{"text": "x"}\n'.encode("utf-16"), "UTF-16"),
    ("a.jsonl", b'[{"text": "x"}]', "JSON array"),
    ("a.jsonl.gz", gzip.compress(b'{"text": "x"}\n'), "gzip"),
], ids=["utf16", "utf16-bare", "gzip", "latin1", "jsonl-gzip", "jsonl-utf16", "array", "gz"])
def test_text_that_is_not_text(tmp_path, tokenizer, name, content, words):
    path = tmp_path / name
    path.write_bytes(content)
    prepare = ("data", "prepare", "--tokenizer", tokenizer, "--input", path, "--output", tmp_path / "out.h5")
    commands = [("data", "check", path), prepare]
    if name == "a.txt":
        commands.append(("tokenizer", "train", "--input", path, "--vocab-size", 300, "--output", tmp_path / "t.json"))
    for command in commands:
        done = runs.run(*command)
        assert done.returncode == 3 and words in done.stderr and name in done.stderr, (command, done.stderr)
        assert done.stderr.count("\n") == 1
    if not name.endswith(".gz"):
        done = runs.train(tmp_path, expect=None, model__vocab_size=290, data__tokenizer=str(tokenizer),
                          data__train=[{"path": str(path)}], data__valid=None)
        one_line(done, 3, words, name)
    assert not (tmp_path / "out.h5").exists()


def test_a_few_broken_bytes_are_replaced_and_said(tmp_path, tokenizer, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_bytes(PROSE.encode() + b"caf\xe9.")
    text = {"model__vocab_size": 290, "data__tokenizer": str(tokenizer), "data__valid": None,
            "data__train": [{"path": str(tmp_path / "a.txt")}], "train__steps": 1}
    done = runs.train(tmp_path, **text)
    assert "1 of 2075 bytes are not UTF-8 and are read as U+FFFD" in done.stdout
    done = runs.run("data", "prepare", "--tokenizer", tokenizer, "--input", "a.txt", "--output", "a.h5")
    assert done.returncode == 0 and "1 of 2075 bytes are not UTF-8" in done.stdout
    (tmp_path / "a.txt").write_bytes(b"caf\xe9. " * 30)
    (tmp_path / "second").mkdir()
    done = runs.train(tmp_path / "second", expect=None, **text)
    one_line(done, 3, "30 of 180 bytes", "data.broken_limit = 0.167")
    runs.train(tmp_path / "second", **text, data__broken_limit=0.167)


def test_the_last_of_a_key_given_twice(tmp_path, tokenizer):
    """As for Python's json, in the ids that come out."""
    def ids(line):
        (tmp_path / "d.jsonl").write_text(line + "\n")
        done = runs.run("data", "prepare", "--tokenizer", tokenizer, "--input", tmp_path / "d.jsonl",
                        "--output", tmp_path / "out.h5")
        assert done.returncode == 0, done.stderr
        import h5py
        with h5py.File(tmp_path / "out.h5") as file:
            return file["tokens"][...].tolist()

    line = '{"text": "first", "id": 1, "text": "second"}'
    assert ids(line) == ids(json.dumps({"text": json.loads(line)["text"]}))
