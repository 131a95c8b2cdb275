"""Training on text and JSONL: the cache is made once for all ranks, samples are written, tokenizer and data are pinned."""
import json
import math
import random
import re
import shutil

import pytest

import runs

WORDS = "the fire of a forge lights iron and iron takes what shape the hammer and hand give it".split()


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    directory = tmp_path_factory.mktemp("text")
    rng = random.Random(2)
    prose = [" ".join(rng.choices(WORDS, k=rng.randrange(5, 40))) + ".\n" for _ in range(120)]
    (directory / "prose.txt").write_text("".join(prose))
    (directory / "lines.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in prose))
    for name, size in (("one", 300), ("two", 290)):
        done = runs.run("tokenizer", "train", "--input", directory / "prose.txt", "--vocab-size", size,
                        "--output", directory / f"{name}.json")
        assert done.returncode == 0, done.stderr
    return directory


def train(directory, material, ranks=1, expect=0, **keys):
    values = {"model__vocab_size": 300, "train__steps": 8, "checkpoint__every": 4, "eval__every": 4,
              "data__sequence_length": 32, "data__tokenizer": str(material / "one.json"),
              "data__train": [{"path": str(material / "prose.txt")},
                              {"path": str(material / "lines.jsonl"), "weight": 0.5}],
              "data__valid": [{"path": str(material / "lines.jsonl")}]}
    return runs.train(directory, ranks=ranks, expect=expect, **{**values, **keys})


def samples(directory):
    return [json.loads(line) for line in (directory / "run" / "samples.jsonl").read_text().splitlines()]


def test_ranks_agree_and_samples_follow_a_resume(tmp_path, material, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir(), two.mkdir()
    done = train(two, material, ranks=2)
    assert done.stdout.count("prepared ") == 2, "each source once, though two ranks and data.valid use it"
    done = train(one, material)
    assert "prepared " not in done.stdout, "the cache was there"
    assert runs.same_run(one, two, 8) is None
    assert [sample["step"] for sample in samples(one)] == [4, 8]
    assert samples(one) == samples(two)
    assert all(sample["prompt"] and sample["text"] for sample in samples(one))
    runs.resume(one, "--set", "train.steps=12", env={"FUCINA_FAULT": "save.begin,nth=1"}, expect=None)
    assert [sample["step"] for sample in samples(one)] == [4, 8, 12]
    runs.resume(one, "--set", "train.steps=12")
    assert [sample["step"] for sample in samples(one)] == [4, 8, 12]


def test_bits_per_byte_are_those_of_the_text_predicted(tmp_path, material, monkeypatch):
    tokenizers = pytest.importorskip("tokenizers")
    monkeypatch.chdir(tmp_path)
    train(tmp_path, material)
    done = runs.run("eval", tmp_path / "run", "--data", material / "lines.jsonl")
    assert done.returncode == 0, done.stderr
    loss = float(re.search(r"loss +(\S+) nats a token", done.stdout)[1])
    bits = float(re.search(r"(\S+) bits a byte of text", done.stdout)[1])
    tokenizer = tokenizers.Tokenizer.from_file(str(material / "one.json"))
    predicted = text_bytes = 0
    for line in (material / "lines.jsonl").read_text().splitlines():
        ids = tokenizer.encode(json.loads(line)["text"], add_special_tokens=False).ids
        for begin in range(0, len(ids) + 1, 32):  # pieces; the last ends with the end-of-text token
            piece = ids[begin:begin + 32]
            predicted += len(piece) - (begin + 32 <= len(ids))
            text_bytes += sum(len(tokenizer.decode([token]).encode()) for token in piece[1:])
    assert bits == pytest.approx(loss * predicted / math.log(2) / text_bytes, rel=1e-5)
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["valid_bits_per_byte"] == pytest.approx(bits, rel=1e-5)


def test_the_tokenizer_is_pinned(tmp_path, material, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train(tmp_path, material)
    done = runs.resume(tmp_path, "--set", f"data.tokenizer={material / 'two.json'}", expect=2)
    assert "the tokenizer's hash is" in done.stderr and len(done.stderr.splitlines()) == 1


def test_the_data_is_pinned(tmp_path, material, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(material / "prose.txt", tmp_path / "prose.txt")
    train(tmp_path, material, data__train=[{"path": str(tmp_path / "prose.txt"), "weight": 1.0}])
    with open(tmp_path / "prose.txt", "a") as prose:
        prose.write("One more line.\n")
    done = runs.resume(tmp_path, "--set", "train.steps=9", expect=3)
    assert "prose.txt: its tokens hash to" in done.stderr and len(done.stderr.splitlines()) == 1


def test_text_without_a_fitting_tokenizer(tmp_path, material, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for ranks in (1, 2):
        done = train(tmp_path, material, ranks=ranks, expect=2, data__tokenizer=None)
        assert "tokenizer" in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
        done = train(tmp_path, material, ranks=ranks, expect=2, model__vocab_size=200)
        assert "300" in done.stderr and "200" in done.stderr, done.stderr
        done = train(tmp_path, material, ranks=ranks, expect=3,
                     data__train=[{"path": str(tmp_path / "none.txt")}])
        assert "none.txt" in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
        assert not (tmp_path / "run").exists(), "a failed start leaves no run directory"
