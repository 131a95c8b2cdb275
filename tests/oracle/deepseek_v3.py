"""DeepSeek-V3 checkpoints with random weights, and its equations in fp64.

The equations are arXiv 2412.19437 §2 and 2405.04434 §2.1 written down once more, plainly and for one document at a
time; autograd gives their gradients. They cover what transformers has no training for: the balance loss and MTP.
"""
import json
import math
import pathlib

import torch
from safetensors.torch import save_file

BASE = dict(model_type="deepseek_v3", architectures=["DeepseekV3ForCausalLM"], hidden_size=64, vocab_size=256,
            num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=512, num_hidden_layers=3,
            intermediate_size=128, moe_intermediate_size=32, n_routed_experts=8, num_experts_per_tok=2, n_group=4,
            topk_group=2, first_k_dense_replace=1, q_lora_rank=32, kv_lora_rank=16, qk_rope_head_dim=8,
            qk_nope_head_dim=16, v_head_dim=16, n_shared_experts=1, routed_scaling_factor=2.5, norm_topk_prob=True,
            rms_norm_eps=1e-6, tie_word_embeddings=False, num_nextn_predict_layers=1, torch_dtype="float32")


def block_shapes(c, layer):
    d, heads = c["hidden_size"], c["num_attention_heads"]
    q = heads * (c["qk_nope_head_dim"] + c["qk_rope_head_dim"])
    rank, a = c["kv_lora_rank"], f"model.layers.{layer}.self_attn."
    shapes = {f"model.layers.{layer}.input_layernorm.weight": [d],
              f"model.layers.{layer}.post_attention_layernorm.weight": [d],
              a + "kv_a_proj_with_mqa.weight": [rank + c["qk_rope_head_dim"], d],
              a + "kv_a_layernorm.weight": [rank],
              a + "kv_b_proj.weight": [heads * (c["qk_nope_head_dim"] + c["v_head_dim"]), rank],
              a + "o_proj.weight": [d, heads * c["v_head_dim"]]}
    if c["q_lora_rank"]:
        shapes |= {a + "q_a_proj.weight": [c["q_lora_rank"], d], a + "q_a_layernorm.weight": [c["q_lora_rank"]],
                   a + "q_b_proj.weight": [q, c["q_lora_rank"]]}
    else:
        shapes[a + "q_proj.weight"] = [q, d]

    def mlp(prefix, width):
        return {prefix + "gate_proj.weight": [width, d], prefix + "up_proj.weight": [width, d],
                prefix + "down_proj.weight": [d, width]}

    m, width = f"model.layers.{layer}.mlp.", c["moe_intermediate_size"]
    if layer < c["first_k_dense_replace"]:
        return shapes | mlp(m, c["intermediate_size"])
    shapes |= {m + "gate.weight": [c["n_routed_experts"], d],
               m + "gate.e_score_correction_bias": [c["n_routed_experts"]]}
    for e in range(c["n_routed_experts"]):
        shapes |= mlp(f"{m}experts.{e}.", width)
    return shapes | mlp(m + "shared_experts.", width * c["n_shared_experts"])


def random_weights(c, seed, with_mtp=False, scale=0.1):
    """Hub names; far from initial weights, so that gains, bias and every expert matter."""
    d, layers = c["hidden_size"], c["num_hidden_layers"]
    shapes = {"model.embed_tokens.weight": [c["vocab_size"], d], "model.norm.weight": [d]}
    if not c["tie_word_embeddings"]:
        shapes["lm_head.weight"] = [c["vocab_size"], d]
    for layer in range(layers + with_mtp):
        shapes |= block_shapes(c, layer)
    if with_mtp:
        p = f"model.layers.{layers}."
        shapes |= {p + "enorm.weight": [d], p + "hnorm.weight": [d], p + "shared_head.norm.weight": [d],
                   p + "eh_proj.weight": [d, 2 * d]}
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in shapes.items():
        spread = 0.2 if len(shape) == 1 else max(scale, 1 / math.sqrt(shape[-1]))
        if "_a_proj" in name:  # small latents: the epsilon of their norms shows
            spread *= 0.1
        weights[name] = torch.randn(shape, generator=generator) * spread + ("norm" in name)
    if with_mtp:  # copies that the hub has and that a loader must pass over
        weights[p + "embed_tokens.weight"] = weights["model.embed_tokens.weight"].clone()
        weights[p + "shared_head.head.weight"] = weights.get("lm_head.weight", weights["model.embed_tokens.weight"]).clone()
    return weights


def fuse_experts(weights):
    """The spelling that transformers 5 has in memory: experts.gate_up_proj [E, 2I, D] and experts.down_proj."""
    fused, experts = {}, {}
    for name, tensor in weights.items():
        head, found, tail = name.partition(".experts.")
        if not found:
            fused[name] = tensor
            continue
        index, projection, _ = tail.split(".")
        experts.setdefault((head, projection), {})[int(index)] = tensor
    for (head, projection) in {(head, p) for head, p in experts if p != "up_proj"}:
        def stacked(which):
            return torch.stack([experts[head, which][e] for e in range(len(experts[head, which]))])
        if projection == "gate_proj":
            fused[head + ".experts.gate_up_proj"] = torch.cat([stacked("gate_proj"), stacked("up_proj")], 1)
        else:
            fused[head + ".experts.down_proj"] = stacked("down_proj")
    return fused


def write_checkpoint(directory, config, weights):
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config, indent=1))
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, directory / "model.safetensors",
              metadata={"format": "pt"})
    return directory


def rms(x, gain, eps):
    return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + eps) * gain


def swiglu(w, p, x):
    gate, up = x @ w[p + "gate_proj.weight"].T, x @ w[p + "up_proj.weight"].T
    return (gate * torch.sigmoid(gate) * up) @ w[p + "down_proj.weight"].T


def rope(c, x, positions):
    """Pairs (2i, 2i+1) of the last dimension; no YaRN here (its parity is with transformers)."""
    r = c["qk_rope_head_dim"]
    angles = positions[:, None] * c.get("rope_theta", 10000.0) ** (-torch.arange(0, r, 2, dtype=torch.float64) / r)
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack([even * angles.cos() - odd * angles.sin(), odd * angles.cos() + even * angles.sin()], -1).flatten(-2)


def attention(c, w, p, x):
    tokens, heads, n, r = len(x), c["num_attention_heads"], c["qk_nope_head_dim"], c["qk_rope_head_dim"]
    positions = torch.arange(tokens, dtype=torch.float64)
    if c["q_lora_rank"]:
        x_q = rms(x @ w[p + "q_a_proj.weight"].T, w[p + "q_a_layernorm.weight"], 1e-6)
        q = x_q @ w[p + "q_b_proj.weight"].T
    else:
        q = x @ w[p + "q_proj.weight"].T
    q = q.view(tokens, heads, n + r).transpose(0, 1)
    down = x @ w[p + "kv_a_proj_with_mqa.weight"].T
    latent = rms(down[:, :c["kv_lora_rank"]], w[p + "kv_a_layernorm.weight"], 1e-6)
    kv = (latent @ w[p + "kv_b_proj.weight"].T).view(tokens, heads, -1).transpose(0, 1)
    q = torch.cat([q[..., :n], rope(c, q[..., n:], positions)], -1)
    shared = rope(c, down[:, c["kv_lora_rank"]:], positions)
    k = torch.cat([kv[..., :n], shared.expand(heads, -1, -1)], -1)
    scores = (q @ k.transpose(1, 2)) * (n + r) ** -0.5
    scores = scores.masked_fill(torch.triu(torch.ones(tokens, tokens, dtype=torch.bool), 1), -math.inf)
    out = torch.softmax(scores, -1) @ kv[..., n:]
    return out.transpose(0, 1).flatten(1) @ w[p + "o_proj.weight"].T


def moe(c, w, p, x):
    """Output, balance loss of the sequence x (eq. 17-20), tokens per expert."""
    tokens, experts, k = len(x), c["n_routed_experts"], c["num_experts_per_tok"]
    scores = torch.sigmoid(x @ w[p + "gate.weight"].T)
    choice = (scores + w[p + "gate.e_score_correction_bias"]).detach()
    groups = choice.view(tokens, c["n_group"], -1)
    kept = groups.topk(2, -1)[0].sum(-1).topk(c["topk_group"], -1)[1]
    mask = torch.full_like(groups, -math.inf).scatter(1, kept[..., None].expand(-1, -1, groups.shape[-1]), 0.0)
    chosen = (groups + mask).view(tokens, experts).topk(k, -1)[1]
    weights = scores.gather(1, chosen)
    if c["norm_topk_prob"]:
        weights = weights / weights.sum(-1, keepdim=True)
    weights = weights * c["routed_scaling_factor"]
    y = swiglu(w, p + "shared_experts.", x)
    for e in range(experts):
        rows, which = torch.where(chosen == e)
        y = y.index_add(0, rows, weights[rows, which, None] * swiglu(w, f"{p}experts.{e}.", x[rows]))
    counts = torch.bincount(chosen.flatten(), minlength=experts)
    fraction = counts.double() * experts / (k * tokens)
    share = (scores / scores.sum(-1, keepdim=True)).mean(0)
    return y, (fraction * share).sum(), counts


def block(c, w, layer, x, lengths):
    """x: a sequence of documents of these lengths."""
    p, eps = f"model.layers.{layer}.", c["rms_norm_eps"]
    h = rms(x, w[p + "input_layernorm.weight"], eps)
    x = x + torch.cat([attention(c, w, p + "self_attn.", document) for document in h.split(lengths)])
    h = rms(x, w[p + "post_attention_layernorm.weight"], eps)
    if layer < c["first_k_dense_replace"]:
        return x + swiglu(w, p + "mlp.", h), 0.0
    y, balance, _ = moe(c, w, p + "mlp.", h)
    return x + y, balance


def cross_entropy(logits, documents, shift, marks=None):
    """Summed; the label of a token is the one `shift` later in its document, where that is marked."""
    total = 0.0
    for d, rows in enumerate(logits.split([len(ids) - shift + 1 for ids in documents])):
        labels = torch.tensor(documents[d][shift:], dtype=torch.long)
        if marks:
            labels[torch.tensor(marks[d][shift:]) == 0] = -100
        total = total + torch.nn.functional.cross_entropy(rows[:-1], labels, reduction="sum")
    return total


def losses(c, w, documents, with_mtp, marks=None):
    """Of a sequence of documents, two tokens or more each: summed cross-entropy, summed MTP cross-entropy,
    balance loss. `marks`: 0 or 1 of each token of each document, whether it is a target; all are without them."""
    lengths = [len(ids) for ids in documents]
    table, head = w["model.embed_tokens.weight"], w.get("lm_head.weight", w["model.embed_tokens.weight"])
    x, balance = table[torch.tensor(sum(documents, []))], 0.0
    for layer in range(c["num_hidden_layers"]):
        x, b = block(c, w, layer, x, lengths)
        balance = balance + b
    hidden = rms(x, w["model.norm.weight"], c["rms_norm_eps"])
    main = cross_entropy(hidden @ head.T, documents, 1, marks)
    if not with_mtp:
        return main, torch.zeros((), dtype=torch.float64), balance
    p, eps = f"model.layers.{c['num_hidden_layers']}.", c["rms_norm_eps"]
    next_ids = torch.tensor(sum((ids[1:] for ids in documents), []))
    before = torch.cat([rows[:-1] for rows in hidden.split(lengths)])
    joined = torch.cat([rms(table[next_ids], w[p + "enorm.weight"], eps),
                        rms(before, w[p + "hnorm.weight"], eps)], -1)
    x, b = block(c, w, c["num_hidden_layers"], joined @ w[p + "eh_proj.weight"].T, [n - 1 for n in lengths])
    logits = rms(x, w[p + "shared_head.norm.weight"], eps) @ head.T
    return main, cross_entropy(logits, documents, 2, marks), balance + b
