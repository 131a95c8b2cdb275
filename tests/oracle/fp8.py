"""DeepSeek-V3 models in FP8 as the release stores them, written and read by torch alone: E4M3 values, and an fp32 scale
for each block of 128 x 128, last blocks included. Nothing here knows Fucina's code."""
import torch

import deepseek_v3 as v3

BLOCK = 128
QUANTIZATION = dict(activation_scheme="dynamic", fmt="e4m3", quant_method="fp8", weight_block_size=[BLOCK, BLOCK])
# 576 rows make 5 blocks, the last a half one; other sizes have partial blocks both ways, or are smaller than one.
ODD = v3.BASE | dict(hidden_size=200, q_lora_rank=136, kv_lora_rank=512, qk_rope_head_dim=64, qk_nope_head_dim=24,
                     v_head_dim=20, intermediate_size=260, moe_intermediate_size=72, num_hidden_layers=2,
                     quantization_config=QUANTIZATION)


def in_fp8(name):
    """What the release stores in FP8: projections of attention, MLPs and experts."""
    return name.endswith(("_proj.weight", "_proj_with_mqa.weight")) and not name.endswith("eh_proj.weight")


def blocks(n):
    return -(-n // BLOCK)


def spread(scales, rows, columns):
    """A scale for every element of [..., rows, columns]."""
    return scales.repeat_interleave(BLOCK, -2)[..., :rows, :].repeat_interleave(BLOCK, -1)[..., :columns]


def quantize(weight, loss=1.0):
    """Values and scales of [..., R, C]; a loss > 1 leaves the top of E4M3's range unused, as other quantisers do."""
    *_, rows, columns = weight.shape
    padded = torch.nn.functional.pad(weight.float(), (0, -columns % BLOCK, 0, -rows % BLOCK))
    tiles = padded.unflatten(-1, (-1, BLOCK)).unflatten(-3, (-1, BLOCK))
    scales = tiles.abs().amax((-3, -1)) / 448 * loss
    scales[scales == 0] = 1.0
    return (weight / spread(scales, rows, columns)).to(torch.float8_e4m3fn), scales


def dequantize(values, scales):
    return values.float() * spread(scales, *values.shape[-2:])


def model(config, seed, with_mtp=False):
    """(as stored, as fp32 values): linear layers in FP8, the rest bf16, router biases fp32. Scales vary in how much of
    the range they use."""
    stored, plain = {}, {}
    for number, (name, weight) in enumerate(v3.random_weights(config, seed, with_mtp).items()):
        if in_fp8(name):
            values, scales = quantize(weight, 1.0 + number % 3 * 0.37)
            stored |= {name: values, name + "_scale_inv": scales}
            plain[name] = dequantize(values, scales)
        else:
            stored[name] = weight if name.endswith("_bias") else weight.bfloat16()
            plain[name] = stored[name].float()
    return stored, plain


def fuse(stored):
    """Experts as transformers 5 has them in memory, gate over up, in FP8 with scales of the fused matrix."""
    plain = {n: t for n, t in stored.items() if ".experts." not in n}
    experts = {n: dequantize(t, stored[n + "_scale_inv"]) for n, t in stored.items()
               if ".experts." in n and not n.endswith("_scale_inv")}
    for name, weight in v3.fuse_experts(experts).items():
        plain[name], plain[name + "_scale_inv"] = quantize(weight)
    return plain
