"""Writes seeds/TARGET/*: what each fuzz target begins with, valid and hostile. Their sources are here, since
most are binary; `python tests/fuzz/make_seeds.py` makes them again (needs h5py and protoc)."""
import json
import pathlib
import struct
import subprocess

import h5py
import numpy

ROOT = pathlib.Path(__file__).resolve().parents[2]
SEEDS = pathlib.Path(__file__).parent / "seeds"


def write(target, name, data):
    path = SEEDS / target / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)


def safetensors(header, data):
    text = header if isinstance(header, str) else json.dumps(header, separators=(",", ":"))
    return struct.pack("<Q", len(text)) + text.encode() + data


def entry(shape, begin, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def make_safetensors():
    def put(name, header, data=bytes(24)):
        write("safetensors", name, safetensors(header, data))
    a, b = entry([2, 2], 0, 16), entry([4], 16, 24, "BF16")
    put("valid", {"__metadata__": {"format": "pt"}, "a": a, "b": b})
    put("dtypes", {name: entry([1], i * size, (i + 1) * size, name) for size, names in
                   [(1, ["U8", "I8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0"])]
                   for i, name in enumerate(names)}, bytes(6))
    put("foreign", {"a": {**entry([4, 2], 0, 4, "F4"), "more": [{"x": [1, -2.5, True, None]}]}}, bytes(4))
    put("scalar", {"a": entry([], 0, 4), "none": entry([0, 3], 4, 4)}, bytes(4))
    put("overlap", {"a": a, "b": entry([6], 8, 24, "F16")})
    put("gap", {"a": a, "b": entry([1], 20, 24)})
    put("twice", '{"a":%s,"a":%s}' % (json.dumps(a), json.dumps(b)))
    put("wraps", {"a": entry([2**62, 4], 0, 24)})
    put("wraps-to-4", {"a": entry([2**32, 2**32, 4], 0, 16)})
    put("wraps-to-16", {"a": entry([2**59 + 4], 0, 16)}, bytes(16))
    put("beyond", {"a": entry([2**40], 0, 2**42)})
    put("negative", '{"a":{"dtype":"F32","shape":[-1],"data_offsets":[-4,0]}}')
    put("float-dims", '{"a":{"dtype":"F32","shape":[1e0],"data_offsets":[0,4]}}')
    put("nul-name", '{"a\\u0000b":%s}' % json.dumps(entry([6], 0, 24)))
    put("deep", '{"a":{"x":' + "[" * 3000)
    write("safetensors", "long-header", struct.pack("<Q", 2**63) + b"{}")
    write("safetensors", "lfs", "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4\n")
    for name, shard in [("index", "model-00001-of-00001.safetensors"), ("index-up", "../../x.safetensors"),
                        ("index-absolute", "/etc/x.safetensors"), ("index-hidden", ".x.safetensors"),
                        ("index-backslash", "..\\x.safetensors"), ("index-nul", "a\0/x.safetensors")]:
        write("safetensors", name, json.dumps({"metadata": {"total_size": 24}, "weight_map": {"a": shard, "b": shard}}))


MANIFEST = """step: 4 updates: 4 next_sample: 32 model_hash: "00" model_config: "{}"
recipe { model { from: "x" } } data_hashes: "11" order { rules: 1 sequence_length: 24 shares: 1 }
files { name: "shard-00000-of-00001.h5" size: 4192 frame_xxh3: 7 } """
TENSOR = 'tensors { kind: "weight" name: "a" dtype: "F32" shape: 4 shape: 3 %s } '
BOX = 'boxes { file: %d offset: %d offset: %d extent: %d extent: %d byte_offset: %d nbytes: %d xxh3: 5 dataset: "/weight/a" } '


def make_manifest():
    def put(name, text):
        done = subprocess.run(["protoc", "--encode=fucina.Manifest", "-I", ROOT, ROOT / "configs/manifest.proto"],
                              input=text.encode(), capture_output=True, check=True)
        write("manifest", name, done.stdout)
    whole = BOX % (0, 0, 0, 4, 3, 2048, 48)
    put("valid", MANIFEST + TENSOR % whole)
    put("halves", MANIFEST + TENSOR % (BOX % (0, 0, 0, 2, 3, 2048, 24) + BOX % (0, 2, 0, 2, 3, 4096, 24)) +
        TENSOR.replace('"weight"', '"m"').replace("F32", "BF16") % (BOX % (0, 0, 0, 4, 3, 4120, 24)) +
        'tensors { kind: "v" name: "scalar" dtype: "F32" boxes { byte_offset: 4148 nbytes: 4 } }' +
        'tensors { kind: "v" name: "none" dtype: "F32" shape: 0 shape: 5 }')
    put("columns", MANIFEST + TENSOR % (BOX % (0, 0, 0, 4, 2, 2048, 32) + BOX % (0, 0, 2, 4, 1, 2080, 16)))
    put("overlap", MANIFEST + TENSOR % (BOX % (0, 0, 0, 3, 3, 2048, 36) + BOX % (0, 2, 0, 1, 3, 2084, 12)))
    put("hole", MANIFEST + TENSOR % (BOX % (0, 0, 0, 3, 3, 2048, 36)))
    put("same-bytes", MANIFEST + TENSOR % (BOX % (0, 0, 0, 2, 3, 2048, 24) + BOX % (0, 2, 0, 2, 3, 2048, 24)))
    put("beyond", MANIFEST + TENSOR % (BOX % (0, 0, 0, 4, 3, 2**62, 48)))
    put("before", MANIFEST + TENSOR % (BOX % (0, 0, 0, 4, 3, -8, 48)))
    put("huge", MANIFEST + 'tensors { kind: "weight" name: "a" dtype: "F32" shape: 2147483648 shape: 2147483648 shape: 4 }')
    put("file-2", MANIFEST + TENSOR % (BOX % (2**31, 0, 0, 4, 3, 2048, 48)))
    put("twice", MANIFEST + 2 * (TENSOR % whole))
    for name, file in [("up", "../x"), ("absolute", "/etc/passwd"), ("nul", "shard-00000-of-00001.h5\\000/x")]:
        put(name, f'step: 1 files {{ name: "{file}" size: 9 }}')
    write("manifest", "deep", b"\x3a\x80\x08" * 300)


def make_stores():
    def put(name, change=lambda file: None, libver="v110", tokens=numpy.arange(6, dtype="<u2"), **options):
        path = SEEDS / "token_store" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(path, "w", libver=(libver, libver) if libver != "earliest" else libver) as file:
            file.attrs.create("format_version", 1, dtype="<i8")
            file.attrs.create("vocab_size", 10, dtype="<i8")
            file.attrs.create("tokenizer_hash", numpy.bytes_(b"0123456789abcdef"))
            file.attrs.create("tokens_xxh3", 0, dtype="<u8")
            file.attrs.create("document_offsets_xxh3", 0, dtype="<u8")
            file.create_dataset("tokens", data=tokens, **options)
            file.create_dataset("document_offsets", data=numpy.array([0, 2, 6], dtype="<i8"))
            change(file)

    def external(file):
        del file["tokens"]
        file.create_dataset("tokens", (6,), "<u2", external=[("/etc/passwd", 0, 12)])

    def soft(file):
        del file["tokens"]
        file["tokens"] = h5py.SoftLink("/document_offsets")

    def elsewhere(file):
        del file["tokens"]
        file["tokens"] = h5py.ExternalLink("/etc/passwd", "/x")

    def huge(file):
        del file["tokens"]
        space = h5py.h5s.create_simple((2**50,))
        create = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        create.set_alloc_time(h5py.h5d.ALLOC_TIME_LATE)
        h5py.h5d.create(file.id, b"tokens", h5py.h5t.STD_U16LE, space, create)
    put("valid")
    put("old", libver="earliest")
    put("chunked", libver="earliest", chunks=(2,))
    put("external", external)
    put("soft-link", soft)
    put("external-link", elsewhere)
    put("huge", huge)
    put("deflated", tokens=numpy.zeros(4096, "<u2"), chunks=(4096,), compression="gzip")


def make_shards():
    def put(name, change=lambda file: None, libver="v110"):
        path = SEEDS / "shard" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(path, "w", libver=(libver, libver) if libver != "earliest" else libver) as file:
            for dataset in ("a", "b@2"):
                create = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
                create.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
                h5py.h5d.create(file.require_group("weight").id, dataset.encode(), h5py.h5t.IEEE_F32LE,
                                h5py.h5s.create_simple((2, 3)), create)
            change(file)

    def external(file):
        del file["weight/a"]
        file.create_dataset("weight/a", (2, 3), "<f4", external=[("/etc/passwd", 0, 24)])

    def elsewhere(file):
        del file["weight/a"]
        file["weight/a"] = h5py.ExternalLink("/etc/passwd", "/x")
    put("valid")
    put("old", libver="earliest")
    put("external", external)
    put("external-link", elsewhere)


def make_texts():
    for name in ("deepseek_v3_plain", "deepseek_v3_yarn"):
        write("model_config", name, (ROOT / "tests/golden" / name / "config.json").read_text())
    config = json.loads((ROOT / "tests/golden/deepseek_v3_yarn/config.json").read_text())
    for key, value in [("hidden_size", 2**62), ("num_hidden_layers", -1), ("rope_scaling", {"type": "x\ny"}),
                       ("eos_token_id", [1, 2, -3]), ("n_routed_experts", 0), ("vocab_size", 1e300),
                       ("q_lora_rank", None), ("model_type", "llama")]:
        write("model_config", f"{key}", json.dumps({**config, key: value}, separators=(",", ":")))

    tiny = (ROOT / "configs/quickstart.toml").read_text()
    write("recipe", "quickstart", tiny)
    write("recipe", "from", 'model.from = "/m"\ndata = { tokenizer = "t.json", sequence_length = 8, train = '
          '[{ path = "a.txt", weight = 0.5 }, { path = "b.jsonl" }] }\ntrain = { steps = 3, global_batch = 4 }\n'
          'run.dir = "/tmp/r"\n')
    write("recipe", "wrong-type", tiny.replace("[train]", "[train]\nprecision = 3\nseed = 1979-05-27T07:32:00Z"))
    write("recipe", "twice", "[train]\nsteps = 3\n[train]\nsteps = 4\n")
    write("recipe", "infinite", "train.learning_rate = inf\ntrain.steps = 9223372036854775807\ntrain.betas = [nan, 0.1]\n")
    write("recipe", "deep", "a = " + "[" * 3000)
    write("recipe", "beyond-ascii", tiny + 'gr\u00f6\u00dfe = "\u00e9"  # \u00e9\n')
    write("recipe", "quote-in-number", 'steps = 5\0"""[\ufee8]"""\n')
    write("recipe", "dots", ".".join("a" * 2000) + " = 1")

    for name, text in [("line", '{"text": "Some text, \\u00e9\\ud83d\\ude42", "meta": {"id": 7}}'),
                       ("twice", '{"text": 1, "text": "second"}'), ("number", '{"text": "x", "n": 1e999, "m": NaN}'),
                       ("half", '{"text": "\\ud83d"}'), ("utf8", b'{"text": "\xc3\x28\xff"}'), ("long", '{"n": %s}' % ("9" * 400)),
                       ("ids", "[[1, 2, 3], [], [99]]"), ("ids-beyond", "[[1, 100, 4294967297, -1, 1.5]]"),
                       ("completion", '{"prompt": "a", "completion": "b"}'),
                       ("messages", '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}'),
                       ("deep", "[" * 3000), ("deep-object", '{"a":' * 1500), ("bom", b"\xef\xbb\xbf[1]"),
                       ("nul", b'{"text": "a\x00b"}'), ("cut", '{"text": "a'), ("empty", '{"text": ""}')]:
        write("json", name, text)


def make_tokenizers():
    golden = json.loads((ROOT / "tests/golden/tokenizer/tokenizer.json").read_text())

    def put(name, tokenizer, config="", text="some text"):
        body = tokenizer if isinstance(tokenizer, str) else json.dumps(tokenizer, separators=(",", ":"))
        config = json.dumps(config) if config else ""
        write("tokenizer", name, "\0".join([body, config, "", text]))
    put("golden", golden, {"eos_token": golden["added_tokens"][0]["content"], "add_bos_token": False})
    ids = golden["model"]["vocab"]
    small = {**golden, "model": {"type": "BPE", "vocab": dict(list(ids.items())[:256]), "merges": []}, "added_tokens": []}
    del small["model"]["vocab"]["a"]
    base = {"version": "1.0", "added_tokens": [], "normalizer": {"type": "NFC"}, "decoder": {"type": "ByteLevel"},
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
            "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}}
    put("tiny", base, text="abab")
    token = {"id": 3, "content": "<|end|>", "special": True, "normalized": False, "lstrip": True, "rstrip": True}
    put("added", {**base, "added_tokens": [token]}, {"eos_token": "<|end|>", "bos_token": None}, "a<|end|>b")
    put("far-id", {**base, "added_tokens": [{**token, "id": 2**31 - 1}]})
    put("far-vocab", {**base, "model": {**base["model"], "vocab": {"a": 0, "b": 2**31 - 2}, "merges": []}})
    put("merge-pairs", {**base, "model": {**base["model"], "merges": [["a", "b"], ["a", "x"]]}})
    for name, pattern in [("regex", "\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s+(?!\\S)|\\s+"),
                          ("regex-slow", "(a*)*(a*)*b"), ("regex-count", "((a{1,999}){1,999}){1,999}"),
                          ("regex-deep", "(" * 2000), ("regex-empty", "()*|(?=x)*")]:
        put(name, {**base, "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}]}}, text="a" * 40)
    put("deep", '{"pre_tokenizer":' * 1000)


if __name__ == "__main__":
    make_safetensors()
    make_manifest()
    make_stores()
    make_shards()
    make_texts()
    make_tokenizers()
