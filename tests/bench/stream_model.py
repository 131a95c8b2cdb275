"""Import and export of a synthetic DeepSeek-V3-shaped model beside plain cp: time, MB/s and peak memory, as a table of
docs/results/checkpoints.md.

    stream_model.py FUCINA DIRECTORY [GB]     (6.7; DIRECTORY needs five times as much room for a while)

Half of the bytes are bf16 (embedding, head, the experts of one layer), the other half FP8 with scales; few layers, many experts. Files leave the page
cache before each measured command, and cp is timed with the sync that both of ours do.
"""
import json
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import time

import numpy as np

BLOCK, SHARD = 128, 2_000_000_000
POOL = 1 << 26  # random bytes that all tensors are cut out of


def config_for(gigabytes):
    """Of so many GB, about."""
    small = gigabytes < 1
    width = 512 if small else 2048
    expert = 3 * width * (width // 2)  # weights
    bf16_layers, vocab = 1, 4096 if small else 129280
    rest = gigabytes * 1e9 - 4 * vocab * width
    experts = max(8, int(rest / expert / 4) // 8 * 8)  # two layers in FP8 and one in bf16: four bytes an expert's weight
    return dict(model_type="deepseek_v3", architectures=["DeepseekV3ForCausalLM"], vocab_size=vocab, hidden_size=width,
                intermediate_size=4 * width, moe_intermediate_size=width // 2, num_hidden_layers=2 + bf16_layers + 1,
                first_k_dense_replace=1, num_attention_heads=16, num_key_value_heads=16, q_lora_rank=width * 3 // 4,
                kv_lora_rank=512, qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128, n_routed_experts=experts,
                n_shared_experts=1, num_experts_per_tok=8, n_group=8, topk_group=4, num_nextn_predict_layers=0,
                quantization_config=dict(activation_scheme="dynamic", fmt="e4m3", quant_method="fp8",
                                         weight_block_size=[BLOCK, BLOCK]))


def tensors(c):
    """(name, dtype, shape) in the order of the files."""
    d, heads = c["hidden_size"], c["num_attention_heads"]

    def linear(name, rows, columns, dtype="F8_E4M3"):
        yield name, dtype, [rows, columns]
        if dtype == "F8_E4M3":
            yield name + "_scale_inv", "F32", [-(-rows // BLOCK), -(-columns // BLOCK)]

    def mlp(prefix, width, dtype="F8_E4M3"):
        for name in ("gate_proj", "up_proj"):
            yield from linear(f"{prefix}{name}.weight", width, d, dtype)
        yield from linear(f"{prefix}down_proj.weight", d, width, dtype)

    yield "model.embed_tokens.weight", "BF16", [c["vocab_size"], d]
    for layer in range(c["num_hidden_layers"]):
        p = f"model.layers.{layer}."
        for norm, width in (("input_layernorm", d), ("post_attention_layernorm", d),
                            ("self_attn.q_a_layernorm", c["q_lora_rank"]), ("self_attn.kv_a_layernorm", c["kv_lora_rank"])):
            yield f"{p}{norm}.weight", "BF16", [width]
        a = p + "self_attn."
        yield from linear(a + "q_a_proj.weight", c["q_lora_rank"], d)
        yield from linear(a + "q_b_proj.weight", heads * (c["qk_nope_head_dim"] + c["qk_rope_head_dim"]), c["q_lora_rank"])
        yield from linear(a + "kv_a_proj_with_mqa.weight", c["kv_lora_rank"] + c["qk_rope_head_dim"], d)
        yield from linear(a + "kv_b_proj.weight", heads * (c["qk_nope_head_dim"] + c["v_head_dim"]), c["kv_lora_rank"])
        yield from linear(a + "o_proj.weight", d, heads * c["v_head_dim"])
        if layer < c["first_k_dense_replace"]:
            yield from mlp(p + "mlp.", c["intermediate_size"])
            continue
        yield p + "mlp.gate.weight", "BF16", [c["n_routed_experts"], d]
        yield p + "mlp.gate.e_score_correction_bias", "F32", [c["n_routed_experts"]]
        dtype = "BF16" if layer == c["num_hidden_layers"] - 1 else "F8_E4M3"
        for e in range(c["n_routed_experts"]):
            yield from mlp(f"{p}mlp.experts.{e}.", c["moe_intermediate_size"], dtype)
        yield from mlp(p + "mlp.shared_experts.", c["moe_intermediate_size"])
    yield "model.norm.weight", "BF16", [d]
    yield "lm_head.weight", "BF16", [c["vocab_size"], d]


def pools():
    """Bytes of each dtype."""
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 256, POOL, dtype=np.uint8)
    codes[codes & 0x7f == 0x7f] = 0x38  # no NaN
    values = (rng.standard_normal(POOL // 4, dtype=np.float32) * 0.02).view(np.uint32) >> 16
    scales = rng.random(POOL // 16, dtype=np.float32) * 1e-4 + 1e-4
    return {"F8_E4M3": codes.tobytes(), "BF16": values.astype(np.uint16).tobytes(), "F32": scales.tobytes()}


SIZES = {"F8_E4M3": 1, "BF16": 2, "F32": 4}


def make(directory, gigabytes):
    """Writes the model; returns its bytes."""
    config, pool = config_for(gigabytes), pools()
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(config))
    shards, places = [[]], {}
    for name, dtype, shape in tensors(config):
        size = SIZES[dtype] * int(np.prod(shape))
        if sum(one[3] for one in shards[-1]) + size > SHARD:
            shards.append([])
        shards[-1].append((name, dtype, shape, size))
    for number, shard in enumerate(shards):
        file = f"model-{number + 1:05d}-of-{len(shards):05d}.safetensors"
        header, end = {}, 0
        for name, dtype, shape, size in shard:
            header[name] = dict(dtype=dtype, shape=shape, data_offsets=[end, end + size])
            end += size
            places[name] = file
        text = json.dumps(header).encode()
        with open(directory / file, "wb") as out:
            out.write(struct.pack("<Q", len(text)) + text)
            for at, (name, dtype, shape, size) in enumerate(shard):
                begin = at * 4099 * 4 % (len(pool[dtype]) // 2)
                while size > 0:
                    piece = pool[dtype][begin:begin + size]
                    out.write(piece)
                    size -= len(piece)
                    begin = 0
    (directory / "model.safetensors.index.json").write_text(json.dumps(dict(metadata={}, weight_map=places)))
    return bytes_in(directory)


def bytes_in(directory):
    return sum(path.stat().st_size for path in directory.iterdir())


def forget(directory):
    """Out of the page cache."""
    for path in directory.iterdir():
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


# A process's peak counts from before its exec, when it was its parent: so a small parent starts it.
RUN = """import os, sys
child = os.spawnvp(os.P_NOWAIT, sys.argv[1], sys.argv[1:])
_, status, usage = os.wait4(child, 0)
print(usage.ru_maxrss, usage.ru_utime + usage.ru_stime)
sys.exit(status != 0)"""


def measure(*command, env=None):
    """(seconds, peak MiB, seconds of CPU)"""
    begin = time.perf_counter()
    done = subprocess.run([sys.executable, "-S", "-c", RUN, *map(str, command)], stdout=subprocess.PIPE, text=True, env=env)
    if done.returncode != 0:
        sys.exit(f"{command} failed")
    peak, cpu = done.stdout.split()[-2:]
    return time.perf_counter() - begin, int(peak) / 1024, float(cpu)


def copy(source, target):
    seconds, *rest = measure("cp", "-r", source, target)
    begin = time.perf_counter()
    for path in target.iterdir():
        with open(path, "rb") as file:
            os.fsync(file.fileno())
    return seconds + time.perf_counter() - begin, *rest


def row(name, read, written, seconds, peak, cpu):
    return (f"| {name} | {read / 1e9:.2f} | {written / 1e9:.2f} | {seconds:.1f} | {cpu:.1f} | {written / 1e6 / seconds:,.0f} | "
            f"{(read + written) / 1e6 / seconds:,.0f} | {peak:.0f} |")


def main():
    fucina, directory = sys.argv[1], pathlib.Path(sys.argv[2])
    hf, checkpoint, out = directory / "hf", directory / "checkpoint", directory / "out"
    size = make(hf, float(sys.argv[3]) if len(sys.argv) > 3 else 6.7)
    print("| | GB read | GB written | s | CPU s | MB/s written | MB/s moved | peak MiB |\n|---|---|---|---|---|---|---|---|", flush=True)

    def measured(name, source, target, run):
        shutil.rmtree(target, ignore_errors=True)
        forget(source)
        taken = run(source, target)
        print(row(name, bytes_in(source), bytes_in(target), *taken), flush=True)

    measured("`cp -r` of the Hugging Face directory, and fsync", hf, out, copy)
    shutil.rmtree(out)
    measured("`fucina import`", hf, checkpoint, lambda a, b: measure(fucina, "import", a, b))
    measured("`fucina export --dtype fp8 --like`", checkpoint, out,
             lambda a, b: measure(fucina, "export", a, b, "--dtype", "fp8", "--like", hf))
    shutil.rmtree(hf)
    measured("`fucina export --dtype fp8`", checkpoint, out, lambda a, b: measure(fucina, "export", a, b, "--dtype", "fp8"))
    measured("`fucina export` (bf16)", checkpoint, out, lambda a, b: measure(fucina, "export", a, b))
    shutil.rmtree(out)
    load = os.getloadavg()[2]
    print(f"\nThe model has {size / 2**30:.2f} GiB; {os.cpu_count()} cores, over which {load:.1f} threads wanted to run on average.")


if __name__ == "__main__":
    main()
