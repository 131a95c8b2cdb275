"""Prints docs/results/cuda-static.md: static_table.py NVCC_VERSION LOG..., logs of nvcc -Xptxas=-v.

What a kernel is, ptxas says. What one call costs at DeepSeek-V3's shapes is counted by hand in `WORK`:
bytes that must move once, and operations, against an H100's peaks. Fails on spills and local memory.
"""
import re
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

# An H100 SXM: NVIDIA's data sheet (dense), and the CUDA C++ Programming Guide, "Compute Capabilities".
BANDWIDTH = 3.35e12
PEAK = {"fp32": 67e12, "bf16": 989e12, "fp8": 1979e12}
REGISTERS, WARPS, BLOCKS, SHARED = 65536, 64, 32, 228 * 1024
RESERVED = 1024  # of shared memory, a block

# DeepSeek-V3 (arXiv 2412.19437), 4,096 tokens a rank; experts over 64 ranks, evenly used.
TOKENS, HIDDEN, HEADS, NOPE, ROPE, VALUE = 4096, 7168, 128, 128, 64, 128
Q_RANK, KV_RANK, EXPERTS, CHOICES, WIDTH, OWN_EXPERTS = 1536, 512, 256, 8, 2048, 4
VOCABULARY = 129280
QK = NOPE + ROPE
ROWS = TOKENS * CHOICES


def memory(*parts):
    """The size of a struct that is aligned to 1024."""
    return (sum(parts) + 1023) // 1024 * 1024


TILE_BYTES = 2 * 2 * 16 * 68 * 4  # kernels/cuda/device/product_tile.h
RING_BF16 = memory(6 * (128 + 128) * 64 * 2, 2 * 6 * 8)  # slots, mbarriers
RING_FP8 = memory(5 * (128 + 128) * 128, 8 * 16 * 64 * 4, 5 * 128 * 4, 2 * 5 * 8)  # out, scales
THREADS = {  # the others have 256
    "embedding.cu sort_kernel": 1024,
    "gemm_fp8.cu": 384,
    "gemm_fp8_wgrad.cu": 384,
    "gemm_wgmma.cu": 384,
    "gemm_wgmma_wgrad.cu": 384,
    "latent_attention.cu": 512,
    "norm.cu": 128,
    "router.cu": 128,
    "token_map.cu count_kernel": 128,
    "token_map.cu fill_kernel": 128,
}
DYNAMIC = {  # bytes of shared memory at these shapes, one chunk and one leaf
    "embedding.cu sum_kernel": 256 * 4,
    "gemm.cu": TILE_BYTES,
    "gemm_wgrad.cu": TILE_BYTES,
    "gemm_wgmma.cu": RING_BF16,
    "gemm_wgmma_wgrad.cu": RING_BF16,
    "gemm_fp8.cu": RING_FP8,
    "gemm_fp8_wgrad.cu": memory(5 * (128 + 128) * 128, 2 * 5 * 128 * 4, 2 * 5 * 8),
    "latent_attention.cu": (NOPE + ROPE + 2 * KV_RANK) * 4,
    "router.cu forward_kernel": 4 * (EXPERTS + 2 * 8 + CHOICES) * 4,
}

Call = namedtuple("Call", "what bytes operations unit", defaults=[0, "fp32"])
Kernel = namedtuple("Kernel", "file name registers shared stack spills")


def product(what, m, k, n, in_bytes=2, out_bytes=2, groups=1, unit="bf16"):
    return Call(what, in_bytes * (m * k + groups * k * n) + out_bytes * m * n, 2 * m * k * n, unit)


def wgrad(what, m, k, n, groups=1, unit="bf16", in_bytes=2):
    return Call(what, in_bytes * m * (k + n) + 4 * groups * k * n, 2 * m * k * n, unit)


PAIRS = TOKENS * (TOKENS + 1) // 2 * HEADS  # (query, key) of one document


def attention(what, columns, tensors):
    return Call(what, 2 * TOKENS * HEADS * tensors, 2 * PAIRS * columns)


# One call of each kernel; the first whose key begins "file kernel" counts.
WORK = {
    "attention.cu forward_kernel<2>": attention("MLA forward", QK + VALUE, 2 * QK + 2 * VALUE),
    "attention_backward.cu delta_kernel": Call("MLA", 4 * TOKENS * HEADS * VALUE),
    "attention_backward.cu gradient_kernel<queries, 3>":
        attention("MLA dQ", 2 * QK + VALUE, 3 * QK + 2 * VALUE),
    "attention_backward.cu gradient_kernel<keys, 3>":
        attention("MLA dK", 2 * QK + VALUE, 3 * QK + 2 * VALUE),
    "attention_backward.cu gradient_kernel<values, 2>":
        attention("MLA dV", QK + VALUE, 2 * QK + 2 * VALUE),
    "attention_backward.cu shared_sum_kernel":
        Call("RoPE keys of 128 heads", TOKENS * ROPE * (4 * HEADS + 2)),
    "embedding.cu sum_kernel": Call("4,096 tokens", TOKENS * HIDDEN * (2 + 4)),
    "embedding.cu zero_kernel": Call("129,280 x 7,168", 4 * VOCABULARY * HIDDEN),
    "gemm.cu product_kernel<__nv_bfloat16, Store>":
        product("o_proj", TOKENS, HEADS * VALUE, HIDDEN, unit="fp32"),
    "gemm.cu product_kernel<__nv_bfloat16, Swiglu":
        product("routed gate and up", ROWS, HIDDEN, 2 * WIDTH, groups=OWN_EXPERTS, unit="fp32"),
    "gemm.cu product_kernel<float, Store>":
        product("router", TOKENS, HIDDEN, EXPERTS, 4, 4, unit="fp32"),
    "gemm_fp8.cu gemm_kernel": product("routed gate and up", ROWS, HIDDEN, 2 * WIDTH, 1, 2,
                                       OWN_EXPERTS, "fp8"),
    "gemm_fp8_pack.cu pack_kernel": Call("o_proj", 5 * HEADS * VALUE * HIDDEN),
    "gemm_fp8_wgrad.cu wgrad_kernel": Call("routed gate and up", ROWS * (HIDDEN + 2 * WIDTH)
                                           + 8 * OWN_EXPERTS * HIDDEN * WIDTH,
                                           4 * ROWS * HIDDEN * WIDTH, "fp8"),
    "gemm_pack.cu transpose_kernel<__nv_bfloat16>": Call("o_proj", 4 * HEADS * VALUE * HIDDEN),
    "gemm_wgmma.cu product_kernel": product("routed gate and up", ROWS, HIDDEN, 2 * WIDTH,
                                            groups=OWN_EXPERTS),
    "gemm_wgmma_wgrad.cu wgrad_kernel": wgrad("routed gate and up", ROWS, HIDDEN, 2 * WIDTH,
                                              OWN_EXPERTS),
    "gemm_wgrad.cu wgrad_kernel<__nv_bfloat16>": wgrad("o_proj", TOKENS, HEADS * VALUE, HIDDEN,
                                                       unit="fp32"),
    "gemm_wgrad.cu wgrad_kernel<float>": Call("router", 4 * (TOKENS * (HIDDEN + EXPERTS)
                                              + HIDDEN * EXPERTS), 2 * TOKENS * HIDDEN * EXPERTS),
    "head_loss.cu largest_kernel": Call("head", 4 * TOKENS * VOCABULARY),
    "head_loss.cu sum_kernel": Call("head", 4 * TOKENS * VOCABULARY),
    "head_loss.cu finish_kernel": Call("head", 6 * TOKENS * VOCABULARY),
    "latent_attention.cu latent_kernel":
        Call("a token after 4,096", 2 * TOKENS * (KV_RANK + ROPE),
             2 * TOKENS * HEADS * (2 * KV_RANK + ROPE)),
    "moe.cu combine_kernel<8>": Call("8 choices, shared, residual", 2 * HIDDEN * (ROWS + 3 * TOKENS)),
    "moe.cu copy_kernel<uint4>": Call("permute", 2 * 2 * ROWS * HIDDEN),
    "norm.cu forward_kernel<__nv_bfloat16, 8,": Call("7,168", 4 * TOKENS * HIDDEN),
    "norm.cu backward_kernel<__nv_bfloat16, 8,": Call("7,168", 6 * TOKENS * HIDDEN),
    "norm.cu weight_leaf_kernel<__nv_bfloat16>": Call("7,168", 4 * TOKENS * HIDDEN),
    "optimizer.cu adamw_kernel<8>": Call("2^28 weights", 22 << 28),
    "optimizer.cu squares_kernel": Call("2^28 weights", 4 << 28),
    "quantize.cu quantize_kernel<fp32, false>": Call("7,168", int(TOKENS * HIDDEN * 3.03)),
    "quantize.cu quantize_kernel<power_of_two, false>": Call("7,168", int(TOKENS * HIDDEN * 3.03)),
    "quantize.cu quantize_kernel<fp32, true>": Call("both ways", int(TOKENS * HIDDEN * 4.06)),
    "quantize.cu quantize_kernel<power_of_two, true>": Call("both ways", int(TOKENS * HIDDEN * 4.06)),
    "quantize.cu tokens_kernel": Call("7,168, along tokens", int(TOKENS * HIDDEN * 3.03)),
    "rope.cu rope_kernel<__nv_bfloat16>": Call("queries", 4 * TOKENS * HEADS * ROPE),
    "router.cu forward_kernel": Call("8 of 256", TOKENS * (8 * EXPERTS + 8 * CHOICES)),
    "router.cu backward_kernel": Call("8 of 256", TOKENS * (12 * EXPERTS + 8 * CHOICES)),
    "rows.cu rows_kernel<8>": Call("to fp32", 6 * TOKENS * HIDDEN),
    "swiglu.cu forward_kernel<__nv_bfloat16, 8>": Call("routed", 2 * 3 * ROWS * WIDTH),
    "swiglu.cu backward_kernel": Call("routed", 2 * 6 * ROWS * WIDTH),
    "token_map.cu count_kernel": Call("8 of 256", 4 * ROWS),
    "token_map.cu fill_kernel": Call("8 of 256", 16 * ROWS),
}


# The matrices of a layer: rows, inputs, outputs, groups.
PROJECTIONS = {
    "q_a": (TOKENS, HIDDEN, Q_RANK, 1), "q_b": (TOKENS, Q_RANK, HEADS * QK, 1),
    "kv_a": (TOKENS, HIDDEN, KV_RANK + ROPE, 1), "kv_b": (TOKENS, KV_RANK, HEADS * (NOPE + VALUE), 1),
    "o": (TOKENS, HEADS * VALUE, HIDDEN, 1), "shared up": (TOKENS, HIDDEN, 2 * WIDTH, 1),
    "shared down": (TOKENS, WIDTH, HIDDEN, 1), "routed up": (ROWS, HIDDEN, 2 * WIDTH, OWN_EXPERTS),
    "routed down": (ROWS, WIDTH, HIDDEN, OWN_EXPERTS)}


def products(unit):
    size = 1 if unit == "fp8" else 2
    for name, (m, k, n, groups) in PROJECTIONS.items():
        yield product(name, m, k, n, size, groups=groups, unit=unit)
        yield product(name + " dgrad", m, n, k, size, groups=groups, unit=unit)
        yield wgrad(name + " wgrad", m, k, n, groups, unit, size)


def layer(unit):
    """Forward and backward of one MoE layer without recomputation, as (group, calls)."""
    of = WORK.__getitem__
    yield "products of weights, " + unit, list(products(unit))
    yield "attention, fp32 on CUDA cores", [call for key, call in WORK.items()
                                            if key.startswith("attention")]
    yield "router and its product, fp32", [
        of("rows.cu rows_kernel<8>"), of("gemm.cu product_kernel<float, Store>"),
        of("gemm.cu product_kernel<float, Store>"), of("gemm_wgrad.cu wgrad_kernel<float>"),
        of("router.cu forward_kernel"), of("router.cu backward_kernel"),
        of("token_map.cu count_kernel"), of("token_map.cu fill_kernel")]
    moves = 4  # to experts and from them, both ways
    yield "rows: norms, SwiGLU, RoPE, to experts and back", (
        2 * [of("norm.cu forward_kernel<__nv_bfloat16, 8,"),
             of("norm.cu backward_kernel<__nv_bfloat16, 8,"),
             of("norm.cu weight_leaf_kernel<__nv_bfloat16>"), of("rope.cu rope_kernel<__nv_bfloat16>")]
        + [of("swiglu.cu forward_kernel<__nv_bfloat16, 8>"), of("swiglu.cu backward_kernel"),
           of("moe.cu combine_kernel<8>"), of("moe.cu combine_kernel<8>")]
        + moves * [of("moe.cu copy_kernel<uint4>")])
    if unit == "fp8":  # of x and dy, along a row and along tokens
        elements = sum(2 * m * (k + n) for m, k, n, _ in PROJECTIONS.values())
        yield "quantisation of operands", [Call("", int(3.03 * elements))]


def seconds(call):
    return max(call.bytes / BANDWIDTH, call.operations / PEAK[call.unit])


def read_kernels(logs):
    text = subprocess.run(["c++filt"], input="\n".join(f"FILE {log}\n{log.read_text()}" for log in logs),
                          capture_output=True, text=True, check=True).stdout
    kernels, file, name, stack, spills = [], "", "", 0, 0
    for line in text.splitlines():
        if line.startswith("FILE "):
            file = Path(line[5:]).name.removesuffix(".log")
        elif found := re.search(r"Compiling entry function '(.*)' for", line):
            name = short(found[1])
        elif found := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+)", line):
            stack, spills = int(found[1]), int(found[2]) + int(found[3])
        elif found := re.search(r"Used (\d+) registers", line):
            shared = re.search(r"(\d+) bytes smem", line)
            kernels.append(Kernel(file, name, int(found[1]), int(shared[1]) if shared else 0, stack,
                                  spills))
    return sorted(kernels)


def short(name):
    name = re.sub(r"^void |fucina::(cuda::)?|\(anonymous namespace\)::", "", name)
    for enum, values in {"ScaleFormat": ["fp32", "power_of_two"], "Of": ["queries", "keys", "values"],
                         "bool": ["false", "true"]}.items():
        for number, value in enumerate(values):
            name = name.replace(f"({enum}){number}", value)
    return re.sub(r"\(.*$", "", name).replace("> >", ">>")


def of_kernel(table, kernel, otherwise=None):
    name = f"{kernel.file} {kernel.name}"
    return next((value for key, value in table.items() if name.startswith(key)), otherwise)


def blocks_per_multiprocessor(kernel, threads, dynamic):
    """As CUDA's occupancy calculator: registers go to warps 256 at a time, shared memory in 128s."""
    warps = (threads + 31) // 32
    of_warp = (kernel.registers * 32 + 255) // 256 * 256
    by_registers = REGISTERS // 4 // of_warp * 4 // warps
    shared = (kernel.shared + dynamic + RESERVED + 127) // 128 * 128
    return min(by_registers, WARPS // warps, BLOCKS, SHARED // shared)


def row(kernel):
    threads, dynamic = of_kernel(THREADS, kernel, 256), of_kernel(DYNAMIC, kernel, 0)
    blocks = blocks_per_multiprocessor(kernel, threads, dynamic)
    cells = [kernel.file, f"`{kernel.name}`", kernel.registers, kernel.spills,
             f"{kernel.shared} + {dynamic}", threads, blocks, f"{blocks * threads // 32 * 100 // WARPS} %"]
    call = of_kernel(WORK, kernel)
    if call is None:
        return cells + ["", "", "", ""]
    by = "memory" if call.bytes / BANDWIDTH >= seconds(call) else call.unit
    return cells + [call.what, f"{call.bytes / 1e6:,.1f}",
                    f"{call.operations / 1e9:,.1f}" if call.operations else "",
                    f"{1e6 * seconds(call):,.1f} ({by})"]


def markdown(head, align, rows):
    lines = [head, align] + [list(map(str, cells)) for cells in rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def layer_table():
    rows, sums = [], {}
    for unit in ("bf16", "fp8"):
        for name, calls in layer(unit):
            spent = sum(map(seconds, calls))
            sums[unit] = sums.get(unit, 0) + spent
            rows.append([unit, name, f"{sum(c.bytes for c in calls) / 1e9:.2f}",
                         f"{sum(c.operations for c in calls) / 1e12:.2f}", f"{1e3 * spent:.2f}"])
        rows.append([unit, "**sum**", "", "", f"**{1e3 * sums[unit]:.1f}**"])
    return markdown(["products in", "kernels", "GB", "Tflop", "ms at least"],
                    ["---", "---", "---:", "---:", "---:"], rows)


def page(version, kernels):
    return f"""# The CUDA kernels, without a GPU

Made by `bash tests/simt/static_check.sh --write` with nvcc {version} for sm_90a (flags:
`kernels/cuda/nvcc.flags`). The check fails on any local memory, spill, warning or `C75xx` remark, when
a kernel does not compile for sm_100, and when this page no longer agrees with the same compiler.

**Nothing here was measured: no GPU has run these kernels.** Registers, spills and static shared memory
are ptxas's words; blocks and warps per multiprocessor follow from them by CUDA's occupancy formula,
with the dynamic shared memory of the shape named. The last three columns are a bound: bytes that one
call must move at least, each once, and its operations, at DeepSeek-V3's shapes (4,096 tokens on a rank,
hidden 7,168, 128 heads, 8 of 256 experts of width 2,048, 4 of them on the rank), over an H100's peaks
(3.35 TB/s; dense 989 Tflop/s in bf16, 1,979 in fp8, 67 in fp32). Real kernels stay below such peaks.

{markdown(["file", "kernel", "registers", "spilled bytes", "shared memory, static + dynamic",
           "threads", "blocks / SM", "warps", "call", "MB", "Gflop", "µs at least"],
          ["---", "---"] + 6 * ["---:"] + ["---"] + 3 * ["---:"], map(row, kernels))}

## One MoE layer of DeepSeek-V3, forward and backward

The same bound, summed over the calls of one layer without recomputation and without what ranks send
each other.

{layer_table()}

DeepSeek's own trace (profile-data, 4,096 tokens on an H800, 64 ranks) has **32.1 ms** for one layer's
forward and backward, communication included and hidden. The sums above are what the hardware's peaks
allow these kernels, not what they take; attention, on CUDA cores, is where they cannot come near
DeepSeek's, whose attention runs on tensor cores (5.5 ms of the 32.1).
"""


def main():
    kernels = read_kernels([Path(log) for log in sys.argv[2:]])
    print(page(sys.argv[1], kernels), end="")
    bad = [kernel for kernel in kernels if kernel.stack + kernel.spills > 0]
    for kernel in bad:
        print(f"static_table: {kernel.file}: {kernel.name} has {kernel.stack} bytes of local memory and "
              f"{kernel.spills} of spills", file=sys.stderr)
    if not kernels:
        print("static_table: no kernel was compiled", file=sys.stderr)
    names = [f"{kernel.file} {kernel.name}" for kernel in kernels]
    lost = [key for table in (THREADS, DYNAMIC, WORK) for key in table
            if not any(name.startswith(key) for name in names)]
    for key in lost:
        print(f"static_table: no kernel is called {key}", file=sys.stderr)
    sys.exit(bool(bad or lost or not kernels))


main()
