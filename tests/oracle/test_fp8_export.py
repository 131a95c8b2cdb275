"""`fucina export --dtype fp8`: what came in as FP8 and was not trained goes out as the same bytes; what was trained is
rounded as torch rounds it, and how much of the training is kept is what torch says."""
import json
import os
import re

os.environ["HF_HUB_OFFLINE"] = "1"
import numpy as np
import pytest
import torch
from safetensors import safe_open

import deepseek_v3 as v3
import fp8
import runs
from program import fucina
from test_fp8 import IDS, without_quantization, write

pytestmark = pytest.mark.slow
COPIES = ("layers.2.embed_tokens.weight", "layers.2.shared_head.head.weight")  # MTP's of the embedding and the head


def tensors(directory):
    found = {}
    for path in directory.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            found |= {name: file.get_tensor(name) for name in file.keys()}
    return found


def equal(ours, theirs):
    """Name by name, dtype and bytes."""
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype and ours[name].shape == tensor.shape, name
        assert torch.equal(ours[name].contiguous().view(torch.uint8), tensor.contiguous().view(torch.uint8)), name


def export(model, out, *options, expect=0):
    done = runs.run("export", model, out, "--dtype", "fp8", *options)
    assert done.returncode == expect, (done.returncode, done.stdout, done.stderr)
    return done.stdout if expect == 0 else done.stderr


def checkpoint(directory, weights, config=fp8.ODD):
    """A checkpoint of these fp32 weights."""
    v3.write_checkpoint(directory / "weights", without_quantization(config), weights)
    fucina("import", directory / "weights", directory / "checkpoint")
    return directory / "checkpoint"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """(directory in FP8, its tensors, their values in fp32)"""
    directory = tmp_path_factory.mktemp("base")
    stored, plain = fp8.model(fp8.ODD, 8, with_mtp=True)
    stored |= {"model.norm.weight": stored["model.norm.weight"].float()}  # dtypes are those of the directory
    write(directory / "hf", fp8.ODD, stored, 3)
    return directory / "hf", stored, plain


@pytest.mark.parametrize("scale_fmt", [None, "ue8m0"])
def test_what_was_not_trained_goes_out_as_it_came(base, scale_fmt, tmp_path):
    directory, stored, _ = base
    config = fp8.ODD
    if scale_fmt:  # V3.1: powers of two
        config = config | dict(quantization_config=fp8.QUANTIZATION | dict(scale_fmt=scale_fmt))
        stored = stored | {n: torch.exp2(t.log2().ceil()) for n, t in stored.items() if n.endswith("_scale_inv")}
        directory = write(tmp_path / "hf", config, stored)
    fucina("import", directory, tmp_path / "checkpoint")
    said = export(tmp_path / "checkpoint", tmp_path / "out", "--like", directory, "--shard-size", 1e-3)
    equal(tensors(tmp_path / "out"), {n: t for n, t in stored.items() if not n.endswith(COPIES)})
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written["quantization_config"] == config["quantization_config"]
    all_blocks = sum(t.numel() for n, t in stored.items() if n.endswith("_scale_inv"))
    assert re.search(rf"all in FP8 .*rounding moves it by 0 of its norm; nothing of it was trained; "
                     rf"{all_blocks} of {all_blocks} blocks are as they were", said), said
    fucina("import", tmp_path / "out", tmp_path / "again")
    assert fucina("checkpoint", "diff", tmp_path / "checkpoint", tmp_path / "again").returncode == 0


def test_rounding_is_torch_s(tmp_path):
    _, weights = fp8.model(fp8.ODD, 9)
    zero = "model.layers.1.mlp.experts.2.down_proj.weight"
    weights = v3.random_weights(fp8.ODD, 9) | {zero: torch.zeros_like(weights[zero])}
    said = export(checkpoint(tmp_path, weights), tmp_path / "out")
    expected = {}
    for name, weight in weights.items():
        if fp8.in_fp8(name):
            expected[name], expected[name + "_scale_inv"] = fp8.quantize(weight)
        else:
            expected[name] = weight if name.endswith("_bias") else weight.bfloat16()
    equal(tensors(tmp_path / "out"), expected)
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written["quantization_config"] == fp8.QUANTIZATION and written["torch_dtype"] == "bfloat16"
    assert "--like DIR" in said
    (tmp_path / "ids.json").write_text(json.dumps(IDS))
    v3.write_checkpoint(tmp_path / "plain", without_quantization(fp8.ODD),
                        {n: fp8.dequantize(t, expected[n + "_scale_inv"]) if n + "_scale_inv" in expected else t.float()
                         for n, t in expected.items() if not n.endswith("_scale_inv")})
    for name in ("out", "plain"):
        fucina("eval", tmp_path / name, "--tokens", tmp_path / "ids.json", "--precision", "fp32", "--logits",
               tmp_path / f"{name}.npy")
    assert np.array_equal(np.load(tmp_path / "out.npy"), np.load(tmp_path / "plain.npy"))


def kept(plain, trained, written, written_base):
    """By the definition, in fp64."""
    change = agreed = 0.0
    for name in plain:
        if fp8.in_fp8(name):
            delta = trained[name].double() - plain[name].double()
            change += (delta ** 2).sum().item()
            agreed += ((written[name].double() - written_base[name].double()) * delta).sum().item()
    return 100 * agreed / change


def dequantized(stored):
    return {n: fp8.dequantize(t, stored[n + "_scale_inv"]) for n, t in stored.items() if n + "_scale_inv" in stored}


def trained_by(plain, size):
    generator = torch.Generator().manual_seed(3)
    return {n: t + torch.randn(t.shape, generator=generator) * t.std() * size if fp8.in_fp8(n) else t
            for n, t in plain.items() if not n.endswith(COPIES)}


def share_said(said):
    return float(re.search(r"all in FP8 .* ([-\d.]+) % of the change is kept", said).group(1))


@pytest.mark.parametrize("size, least, most", [(0.003, 0, 40), (0.1, 90, 102)])
def test_how_much_of_the_training_is_kept(base, size, least, most, tmp_path):
    directory, _, plain = base
    trained = trained_by(plain, size)
    model = checkpoint(tmp_path, trained)
    if size < 0.01:
        refused = export(model, tmp_path / "out", "--like", directory, expect=2)
        assert refused.count("\n") == 1 and "less than 50 % is refused" in refused and "--force" in refused
        assert not list(tmp_path.glob("out*"))
    said = export(model, tmp_path / "out", "--like", directory, *(["--force"] if size < 0.01 else []))
    written = dequantized(tensors(tmp_path / "out"))
    share = kept({n: plain[n] for n in trained}, trained, written, plain)
    for name, values in written.items():  # of both scales the one that brings a block nearer
        other = fp8.dequantize(*fp8.quantize(trained[name]))
        assert ((values - trained[name]) ** 2).sum() <= ((other - trained[name]) ** 2).sum() * 1.0001, name
    assert least < share < most
    assert abs(share_said(said) - share) < 0.06  # it is said with one digit
    for group in ("attention", "mlp", "moe.experts", "moe.shared", "mtp.block.attention", "mtp.block.moe.experts"):
        assert re.search(rf"^{re.escape(group)} +rounding moves .* 0 of \d+ blocks are as they were", said, re.M), said


def test_a_base_that_is_not_fp8_is_rounded_as_the_model_is(tmp_path):
    """A change at random, and one towards where rounding takes the base anyway, of which nothing is kept."""
    plain = {n: t.bfloat16().float() for n, t in v3.random_weights(fp8.ODD, 10).items()}
    rounded = {n: fp8.dequantize(*fp8.quantize(t)) for n, t in plain.items() if fp8.in_fp8(n)}
    base = v3.write_checkpoint(tmp_path / "base", without_quantization(fp8.ODD),
                               v3.fuse_experts({n: t.bfloat16() for n, t in plain.items()}))
    towards = plain | {n: plain[n] + 0.3 * (rounded[n] - plain[n]) for n in rounded}
    for number, (trained, least, most) in enumerate([(trained_by(plain, 0.02), 50, 150), (towards, -5, 5)]):
        (tmp_path / str(number)).mkdir()
        out = tmp_path / f"out{number}"
        said = export(checkpoint(tmp_path / str(number), trained), out, "--like", base, "--force")
        share = kept(plain, trained, dequantized(tensors(out)), rounded)
        assert abs(share_said(said) - share) < 0.06 and least < share < most


def test_blocks_that_training_left_alone_keep_their_bytes(base, tmp_path):
    directory, stored, plain = base
    name = "model.layers.0.self_attn.kv_a_proj_with_mqa.weight"  # [576, 200]: 5 x 2 blocks
    changed = plain[name].clone()
    changed[300, 150] = 20 * plain[name].abs().max()
    changed[575, 3] = -changed[575, 3]
    model = checkpoint(tmp_path, {n: t for n, t in plain.items() if not n.endswith(COPIES)} | {name: changed})
    said = export(model, tmp_path / "out", "--like", directory, "--force")
    values, scales = stored[name].clone(), stored[name + "_scale_inv"].clone()
    fresh, fresh_scales = fp8.quantize(changed)
    for row, column in ((2, 1), (4, 0)):
        block = (slice(row * 128, row * 128 + 128), slice(column * 128, column * 128 + 128))
        if row == 2:  # larger than 448 times its scale was
            values.view(torch.uint8)[block] = fresh.view(torch.uint8)[block]
            scales[row, column] = fresh_scales[row, column]
        else:
            values.view(torch.uint8)[575, 3] ^= 0x80
    expected = {n: t for n, t in stored.items() if not n.endswith(COPIES)}
    equal(tensors(tmp_path / "out"), expected | {name: values, name + "_scale_inv": scales})
    blocks = [t.numel() for n, t in stored.items() if n.endswith("_scale_inv")]
    assert f"; {sum(blocks) - 2} of {sum(blocks)} blocks are as they were" in said


def test_nonsense_is_refused_in_a_line_and_leaves_nothing(base, tmp_path):
    directory, stored, plain = base
    model = checkpoint(tmp_path, {n: t for n, t in plain.items() if not n.endswith(COPIES)})
    other = fp8.ODD | dict(moe_intermediate_size=80)
    write(tmp_path / "other", other, fp8.model(other, 1)[0])
    part = {n: t for n, t in stored.items() if "experts.3.up_proj" not in n}
    write(tmp_path / "part", fp8.ODD, part)
    write(tmp_path / "gptq", fp8.ODD | dict(quantization_config=dict(quant_method="gptq")), stored)
    for options, code, words in ((("--like", tmp_path / "other"), 3, "[80, 200], expected [72, 200]"),
                                 (("--like", tmp_path / "part"), 3, "experts.3.up_proj.weight: missing"),
                                 (("--like", tmp_path / "gptq"), 2, "quant_method"),
                                 (("--like", tmp_path / "none"), 3, "config.json"),
                                 (("--like", directory, "--dtype", "bf16"), 2, "--dtype fp8")):
        options = options if "--dtype" in options else ("--dtype", "fp8", *options)
        done = runs.run("export", model, tmp_path / "out", *options)
        assert done.returncode == code and words in done.stderr and done.stderr.count("\n") == 1, done.stderr
        assert not list(tmp_path.glob("out*"))
