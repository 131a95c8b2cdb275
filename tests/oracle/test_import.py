"""`fucina import`: what it makes is the model of the Hugging Face directory to the last bit, for every command that takes
one, however often it was killed on the way."""
import json
import os
import shutil

os.environ["HF_HUB_OFFLINE"] = "1"
import numpy as np
import pytest
import torch
from safetensors import safe_open

import deepseek_v3 as v3
import fp8
import runs
from program import fucina, values
from test_fp8 import IDS, write

pytestmark = pytest.mark.slow
CONFIG = fp8.ODD | dict(eos_token_id=7, vocab_size=272)
SHARDS = ("--shard-size", 2e-3)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """(directory, its weights as fp32): FP8 with MTP, in shards, with a tokenizer's files."""
    directory = tmp_path_factory.mktemp("import") / "hf"
    stored, plain = fp8.model(CONFIG, 6, with_mtp=True)
    write(directory, CONFIG, stored, 3)
    documents = directory.parent / "text.txt"
    documents.write_text("the forge and the fire and the hammer and the steel\n" * 50)
    fucina("tokenizer", "train", "--input", documents, "--vocab-size", 264, "--output", directory / "tokenizer.json")
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 9]}))
    (directory / "chat_template.jinja").write_text("{{ messages[0].content }}")
    (directory / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 77}))
    (directory.parent / "ids.json").write_text(json.dumps(IDS))
    return directory, plain


def bring_in(source, out, *options, env=None, expect=0):
    done = runs.run("import", source[0], out, *SHARDS, *options, env=env)
    assert done.returncode == expect, (done.returncode, done.stdout, done.stderr)
    return done.stdout


def content(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.fixture(scope="module")
def imported(source):
    out = source[0].parent / "out"
    said = bring_in(source, out)
    assert "kept" not in said and len(list(out.glob("shard-*.h5"))) > 3
    return out


def test_every_command_sees_the_same_model(source, imported, tmp_path):
    ids = source[0].parent / "ids.json"
    for precision in ("fp32", "bf16"):
        logits = []
        for model in (source[0], imported):
            fucina("eval", model, "--tokens", ids, "--precision", precision, "--logits", tmp_path / "l.npy")
            logits.append(np.load(tmp_path / "l.npy"))
        assert np.array_equal(*logits)
    losses = [values(fucina("eval", model, "--tokens", ids, "--mtp-loss", 0.5, "--gradients", tmp_path / model.name).stdout)
              for model in (source[0], imported)]
    assert losses[0] == losses[1] and "mtp loss" in losses[0]
    assert (tmp_path / "hf").read_bytes() == (tmp_path / "out").read_bytes()
    texts = [fucina("generate", model, "--prompt", "the forge", "--temperature", 0, "--max-tokens", 12).stdout
             for model in (source[0], imported)]
    assert texts[0] == texts[1] and "forge" in texts[0]  # with the tokenizer that came along
    assert "every checksum is right" in fucina("checkpoint", "verify", imported).stdout
    assert "step         0, 0 updates" in fucina("checkpoint", "inspect", imported).stdout
    assert fucina("checkpoint", "diff", imported, imported).returncode == 0


def test_training_starts_from_its_weights_alone(source, imported, tmp_path):
    losses = []
    for model in (source[0], imported):
        directory = tmp_path / model.name
        directory.mkdir()
        runs.write_tokens(directory / "ids.json")
        keys = {f"model__{key}": None for key in runs.TINY}
        runs.train(directory, model__from=str(model), train__steps=2, eval__every=0, **keys)
        losses.append([step["loss"] for step in runs.metrics(directory)])
    assert losses[0] == losses[1]


def test_export_of_it_is_the_identity(source, imported, tmp_path):
    said = fucina("export", imported, tmp_path / "back", "--dtype", "fp32").stdout
    assert "note" not in said
    found = {}
    for path in (tmp_path / "back").glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            found |= {name: file.get_tensor(name) for name in file.keys()}
    copies = ("layers.2.embed_tokens.weight", "layers.2.shared_head.head.weight")  # MTP's of the embedding and the head
    assert found.keys() == {name for name in source[1] if not name.endswith(copies)}
    for name, tensor in found.items():
        assert torch.equal(tensor, source[1][name]), name
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        assert (tmp_path / "back" / name).read_bytes() == (source[0] / name).read_bytes()
    config = json.loads((tmp_path / "back" / "config.json").read_text())
    assert config["eos_token_id"] == [7, 9] and "quantization_config" not in config


@pytest.mark.parametrize("fault", ["import.part", "import.part,nth=14", "import.journal", "import.journal,nth=20",
                                   "import.shard", "import.shard,nth=3", "import.checked", "import.manifest",
                                   "import.renamed"])
def test_killed_anywhere_it_goes_on(source, imported, fault, tmp_path):
    out = tmp_path / "out"
    bring_in(source, out, env={"FUCINA_FAULT": fault}, expect=-9)
    assert out.exists() == (fault == "import.renamed")
    said = bring_in(source, out)
    assert ("kept of an earlier import" in said) == (fault != "import.part"), said
    assert content(out) == content(imported)
    assert not list(tmp_path.glob("out.*"))


def test_killed_again_and_again_it_ends(source, imported, tmp_path):
    out, times = tmp_path / "out", 0
    while not out.exists():
        done = runs.run("import", source[0], out, *SHARDS, env={"FUCINA_FAULT": "import.journal,nth=6"})
        assert done.returncode in (-9, 0), done.stderr
        times += 1
    assert times > 5 and content(out) == content(imported)


def test_what_an_interrupted_import_left_is_looked_at(source, imported, tmp_path):
    """Bytes that changed since are written again; other sources or shards begin anew; garbage does not matter."""
    out, partial = tmp_path / "out", tmp_path / "out.importing"
    stop = {"FUCINA_FAULT": "import.journal,nth=20"}

    def damage(change):
        shutil.rmtree(out, ignore_errors=True)
        bring_in(source, out, env=stop, expect=-9)
        change()
        said = bring_in(source, out)
        assert content(out) == content(imported)
        return said

    def edit(name, at, to):
        with open(partial / name, "r+b") as file:
            file.seek(at)
            file.write(to)

    def shard(number):
        return sorted(path.name for path in imported.glob("shard-*"))[number]

    def kept(said):
        return float(said.partition(" MB of it kept")[0].split()[-1])

    whole = kept(damage(lambda: None))
    assert whole > 2
    assert 0.2 < whole - kept(damage(lambda: edit(shard(0), 20000, b"\xff" * 8))) < 0.3  # the embedding
    assert kept(damage(lambda: edit(shard(0), 8, b"\0\0\0"))) < whole - 1  # HDF5's own bytes
    assert kept(damage(lambda: edit(shard(1), (imported / shard(1)).stat().st_size, b"1"))) < whole - 1
    assert kept(damage(lambda: (partial / shard(0)).unlink())) < whole - 1
    assert "kept" not in damage(lambda: (partial / "import.journal").write_text(""))
    assert kept(damage(lambda: (partial / "import.journal").open("a").write("3 0\n-1 x\n99999999 0\n7"))) > 1
    assert "kept" not in damage(lambda: os.utime(source[0] / "model-00001-of-00003.safetensors"))


def test_nonsense_is_refused_in_a_line(source, imported, tmp_path):
    bad = tmp_path / "bad"
    shutil.copytree(source[0], bad)
    stored, _ = fp8.model(CONFIG, 6, with_mtp=True)
    name = "model.layers.1.mlp.experts.3.up_proj.weight_scale_inv"
    for tensors, words in (({n: t for n, t in stored.items() if n != name}, [name, "missing"]),
                           (stored | {name: torch.full_like(stored[name], float("nan"))}, [name, "nan"]),
                           (stored | {"model.layers.0.bias": torch.ones(2)}, ["layers.0.bias", "unexpected"])):
        write(bad, CONFIG, tensors, 2)
        done = runs.run("import", bad, tmp_path / "never")
        assert done.returncode == 3 and done.stderr.count("\n") == 1, done.stderr
        assert all(word in done.stderr for word in words) and not (tmp_path / "never").exists()
    for target, code, words in ((imported, 2, "is there already"), (source[0] / "config.json", 2, "is there already")):
        done = runs.run("import", source[0], target)
        assert done.returncode == code and words in done.stderr and done.stderr.count("\n") == 1
    done = runs.run("import", imported, tmp_path / "x")
    assert done.returncode == 2 and "is a run or a checkpoint already" in done.stderr
