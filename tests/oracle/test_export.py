"""`fucina export`: transformers loads what it writes and computes the trainer's logits and text; what comes back in
is the same tensors. The run is trained under a layout that cuts its tensors every way."""
import json
import os
import random

os.environ["HF_HUB_OFFLINE"] = "1"
import h5py
import numpy as np
import pytest
import torch
from safetensors import safe_open

import runs

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    directory = tmp_path_factory.mktemp("export")
    runs.write_tokens(directory / "ids.json")
    runs.train(directory, ranks=4, parallel__tensor=2, parallel__expert=4, train__steps=4, eval__every=0)
    return directory


def logits(source, directory, precision="fp32"):
    ids = np.random.default_rng(1).integers(0, 60, (3, 20)).tolist()
    (directory / "prompt.json").write_text(json.dumps(ids))
    done = runs.run("eval", source, "--tokens", directory / "prompt.json", "--logits", directory / "l.npy",
                    "--precision", precision)
    assert done.returncode == 0, done.stderr
    return torch.tensor(ids), np.load(directory / "l.npy")


def export(trained, out, *options):
    done = runs.run("export", trained / "run", out, *options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def tensors(directory):
    found = {}
    for path in sorted(directory.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            found |= {name: file.get_tensor(name) for name in file.keys()}
    return found


@pytest.mark.parametrize("shard_size", [5, 5e-5])
def test_transformers_computes_the_same(trained, tmp_path, shard_size):
    from transformers import AutoModelForCausalLM

    out = tmp_path / "out"
    export(trained, out, "--dtype", "fp32", "--shard-size", shard_size)
    assert (len(list(out.glob("*.safetensors"))) > 1) == (shard_size < 1)
    peer, info = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32, attn_implementation="eager",
                                                      experts_implementation="eager", output_loading_info=True)
    assert not info["missing_keys"] and not info["mismatched_keys"]
    assert all(name.startswith("model.layers.3.") for name in info["unexpected_keys"])  # MTP
    ids, ours = logits(trained / "run", tmp_path)
    with torch.no_grad():
        theirs = peer(ids).logits.numpy()
    # Both sum in fp32, in other orders.
    np.testing.assert_allclose(ours.reshape(theirs.shape), theirs, atol=1e-5 * np.abs(theirs).max())
    assert (logits(out, tmp_path)[1] == ours).all()  # what comes back in has the same bits
    printed = runs.run("generate", trained / "run", "--tokens", tmp_path / "prompt.json", "--temperature", "0",
                       "--max-tokens", "16", "--precision", "fp32", "--ignore-eos").stdout
    text = peer.generate(ids, do_sample=False, max_new_tokens=16, min_new_tokens=16, eos_token_id=None, pad_token_id=0)
    assert [json.loads(line) for line in printed.splitlines()] == text.tolist()


def test_bf16_is_fp32_rounded_once(trained, tmp_path):
    export(trained, tmp_path / "fp32", "--dtype", "fp32")
    export(trained, tmp_path / "bf16")
    whole, halves = tensors(tmp_path / "fp32"), tensors(tmp_path / "bf16")
    assert whole.keys() == halves.keys()
    for name, tensor in whole.items():
        bias = name.endswith("e_score_correction_bias")
        assert halves[name].dtype == (torch.float32 if bias else torch.bfloat16), name
        assert torch.equal(halves[name], tensor.to(halves[name].dtype)), name


def test_training_goes_on_from_an_export(trained, tmp_path):
    """Weights that went out and came in again train as they would have."""
    export(trained, tmp_path / "fp32", "--dtype", "fp32")
    losses = []
    for source in (trained / "run", tmp_path / "fp32"):
        directory = tmp_path / f"from-{len(losses)}"
        directory.mkdir()
        runs.write_tokens(directory / "ids.json", seed=2)
        keys = {f"model__{key}": None for key in runs.TINY}
        runs.train(directory, model__from=str(source), train__steps=3, eval__every=0, train__balance_loss=1e-3, **keys)
        losses.append([step["loss"] for step in runs.metrics(directory)])
    assert losses[0] == losses[1]


def test_layouts_write_the_same_bytes(trained, tmp_path):
    one = tmp_path / "one"
    one.mkdir()
    runs.write_tokens(one / "ids.json")
    runs.train(one, train__steps=4, eval__every=0)
    for directory, name in ((trained, "a"), (one, "b")):
        export(directory, tmp_path / name)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_nonsense_is_refused_in_a_line_and_leaves_nothing(trained, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    (tmp_path / "file").touch()
    for arguments, code, words in [
        ((trained / "run", tmp_path / "full"), 2, "is there already"),
        ((trained / "run", tmp_path / "file"), 2, "is there already"),
        ((trained / "none", tmp_path / "out"), 3, "no such directory"),
        ((trained / "run", tmp_path / "out", "--dtype", "fp4"), 2, "fp4"),
        ((trained / "run", tmp_path / "out", "--tokenizer", tmp_path / "none.json"), 0, "not there"),
    ]:
        done = runs.run("export", *arguments)
        assert done.returncode == code and words in done.stdout + done.stderr, (arguments, done.stderr)
        assert code == 0 or len(done.stderr.splitlines()) == 1


def test_damage_anywhere_in_the_weights_is_found(trained, tmp_path):
    """The last byte of a dataset, of 12 of them, is another; among them parts of tensors that several ranks wrote."""
    runs.copy_run(trained, tmp_path)
    newest = tmp_path / "run" / "checkpoints" / runs.checkpoints(trained)[-1]
    places = []
    for shard in sorted(newest.glob("*.h5")):
        with h5py.File(shard) as file:
            file.visititems(lambda name, found: places.append((name, shard, found.id.get_offset() + found.id.get_storage_size() - 1))
                            if name.startswith("weight/") and isinstance(found, h5py.Dataset) else None)
    parts = [place for place in places if "@" in place[0]]
    assert len(parts) >= 4 and len(places) > 40
    draw = random.Random(runs.SEED)
    for name, shard, at in draw.sample(parts, 4) + draw.sample(places, 8):
        content = shard.read_bytes()
        shard.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1:])
        done = runs.run("export", newest, tmp_path / "never")
        assert done.returncode == 3 and "damaged" in done.stderr, (name, done.stderr)
        assert name.split("/")[1].split("@")[0] in done.stderr, (name, done.stderr)
        assert not list(tmp_path.glob("never*"))
        shard.write_bytes(content)
    assert runs.run("export", newest, tmp_path / "never").returncode == 0
