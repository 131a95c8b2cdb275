"""A training run against torch: AdamW, clipping, schedule and accumulation, step by step.

Guards against a wrong optimizer, a loss that is not normalised over the whole batch, decay of the
wrong parameters, and gradients that are right once but drift.
"""
import math
import random

import pytest
import torch
import transformers

import deepseek_v3 as v3
import runs

STEPS, BATCH, LENGTH = 30, 8, 24
PEAK, LEAST, WARMUP = 4e-3, 4e-4, 5


def make_model(directory, seed=3):
    torch.manual_seed(seed)
    config = transformers.DeepseekV3Config(
        vocab_size=61, hidden_size=40, intermediate_size=56, moe_intermediate_size=24,
        num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=4, n_shared_experts=1,
        n_routed_experts=8, routed_scaling_factor=2.5, kv_lora_rank=16, q_lora_rank=24,
        qk_rope_head_dim=8, v_head_dim=12, qk_nope_head_dim=8, n_group=4, topk_group=2,
        num_experts_per_tok=3, first_k_dense_replace=1, max_position_embeddings=64,
        attn_implementation="eager", experts_implementation="eager")
    model = transformers.DeepseekV3ForCausalLM(config).float().train()
    for name, buffer in model.named_buffers():
        if name.endswith("e_score_correction_bias"):
            buffer.copy_(0.1 * torch.randn_like(buffer))
    model.save_pretrained(directory)
    return model


def learning_rate(step, schedule):
    """step from 1."""
    if step <= WARMUP:
        return PEAK * step / WARMUP
    if schedule == "constant":
        return PEAK
    part = (step - 1 - WARMUP) / (STEPS - WARMUP)
    return LEAST + (PEAK - LEAST) * 0.5 * (1 + math.cos(math.pi * part))


def torch_run(model, lists, schedule):
    decayed = [p for p in model.parameters() if p.dim() >= 2]
    plain = [p for p in model.parameters() if p.dim() < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}],
        lr=PEAK, betas=(0.9, 0.95), eps=1e-8)
    losses, norms = [], []
    for step in range(1, STEPS + 1):
        first = (step - 1) * BATCH
        batch = torch.tensor([lists[(first + i) % len(lists)] for i in range(BATCH)])
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, schedule)
        optimizer.zero_grad()
        for half in batch.split(BATCH // 2):  # accumulated: the mean of equal halves
            loss = model(input_ids=half, labels=half).loss / 2
            loss.backward()
            losses.append(loss.item())
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).item())
        optimizer.step()
    return [losses[2 * i] + losses[2 * i + 1] for i in range(STEPS)], norms


@pytest.mark.parametrize("schedule, micro_batch, ranks",
                         [("cosine", 2, 1), pytest.param("constant", 8, 1, marks=pytest.mark.slow),
                          pytest.param("cosine", 1, 2, marks=pytest.mark.slow)])
def test_thirty_steps_equal_torch(tmp_path, schedule, micro_batch, ranks):
    model = make_model(tmp_path / "hf")
    lists = runs.write_tokens(tmp_path / "ids.json", documents=100, lengths=(LENGTH,))
    keys = {f"model__{key}": None for key in runs.TINY}
    runs.train(tmp_path, ranks=ranks, **keys, model__from=str(tmp_path / "hf"), train__steps=STEPS,
               train__micro_batch=micro_batch, train__learning_rate=PEAK,
               train__min_learning_rate=LEAST, train__warmup_steps=WARMUP, train__schedule=schedule,
               train__clip_norm=1.0, train__mtp_loss=0.0, data__shuffle=False,
               data__sequence_length=LENGTH, data__valid=None)
    ours = runs.metrics(tmp_path)
    losses, norms = torch_run(model, lists, schedule)
    assert losses[-1] < 0.9 * losses[0], "nothing was learned, so nothing was compared"
    assert max(norms) > 1, "clipping took no part"
    for line, loss, norm in zip(ours, losses, norms, strict=True):
        step = line["step"]
        # fp32 on both sides; sums in another order, carried through the steps before.
        assert abs(line["loss"] - loss) <= 1e-4 * loss, (step, line["loss"], loss)
        assert abs(line["grad_norm"] - norm) <= 2e-3 * norm, (step, line["grad_norm"], norm)
        assert abs(line["lr"] - learning_rate(step, schedule)) <= 1e-12, (step, line["lr"])


@pytest.mark.parametrize("ranks, micro_batch", [(1, 2), (1, 8), pytest.param(2, 2, marks=pytest.mark.slow)])
def test_a_step_with_every_loss_equals_fp64(tmp_path, ranks, micro_batch):
    """Sequences of one to four documents of unequal lengths, the last grain half full: each loss is a mean over
    its own labels or sequences, whatever the grains and passes."""
    config = v3.BASE | dict(num_hidden_layers=2)
    weights = v3.random_weights(config, 11, with_mtp=True)
    v3.write_checkpoint(tmp_path / "hf", config, weights)
    lengths = [[24], [3, 9, 2, 7], [17], [21, 2], [13, 11], [19, 5], [8, 8, 6]]
    rng = random.Random(5)
    packs = [[[rng.randrange(config["vocab_size"]) for _ in range(n)] for n in pack] for pack in lengths]
    (tmp_path / "ids.json").write_text(str(sum(packs, [])))
    keys = {f"model__{key}": None for key in runs.TINY}
    done = runs.train(tmp_path, ranks=ranks, **keys, model__from=str(tmp_path / "hf"), train__steps=1,
                      train__global_batch=len(packs), train__micro_batch=micro_batch, exact__grain=2,
                      train__mtp_loss=0.7, train__balance_loss=1.0, train__merge_passes=False,
                      data__shuffle=False, data__sequence_length=24, data__valid=None)
    assert f"{len(packs)} sequences" in " ".join(done.stdout.split()), "the documents were packed otherwise"
    w = {name: tensor.double().requires_grad_() for name, tensor in weights.items()}
    parts = [v3.losses(config, w, pack, True) for pack in packs]
    main = sum(part[0] for part in parts) / sum(n - 1 for pack in lengths for n in pack)
    mtp = sum(part[1] for part in parts) / sum(n - 2 for pack in lengths for n in pack)
    balance = sum(part[2] for part in parts) / len(packs)
    (main + 0.7 * mtp + balance).backward()
    norm = math.sqrt(sum(tensor.grad.square().sum().item() for tensor in w.values() if tensor.grad is not None))
    line, = runs.metrics(tmp_path)
    for key, value in [("loss", main.item()), ("mtp_loss", mtp.item()), ("balance_loss", balance.item()),
                       ("grad_norm", norm)]:
        assert abs(line[key] / value - 1) < 1e-5, (key, line[key], value)


def test_steps_that_are_not_finite_are_skipped(tmp_path):
    """A finite weight in the embedding that is infinite in bf16: steps that meet its token change nothing, the others
    train on. (A weight of NaN would not be loaded.)"""
    model = make_model(tmp_path / "hf")
    with torch.no_grad():
        model.model.embed_tokens.weight[60, 3] = torch.finfo(torch.float32).max
    model.save_pretrained(tmp_path / "hf")
    lists = runs.write_tokens(tmp_path / "ids.json", documents=48, lengths=(LENGTH,), vocab=60)
    lists[12][5] = 60  # of step 2
    (tmp_path / "ids.json").write_text(str(lists))
    keys = {f"model__{key}": None for key in runs.TINY}
    keys.update(model__from=str(tmp_path / "hf"), train__mtp_loss=0.0, data__shuffle=False,
                train__precision="bf16", data__valid=None, checkpoint__keep=9, checkpoint__every=1)
    done = runs.train(tmp_path, **keys, train__steps=4)
    lines = runs.metrics(tmp_path)
    assert [line["loss"] is None for line in lines] == [False, True, False, False]
    assert [line["grad_norm"] is None for line in lines] == [False, True, False, False]
    assert "step 2 skipped: loss nan" in done.stdout and "sample 12: sequence 12 of" in done.stdout
    assert runs.state(tmp_path, 1) == runs.state(tmp_path, 2) != runs.state(tmp_path, 3)
    inspected = runs.run("checkpoint", "inspect", tmp_path / "run")
    assert "step         4, 3 updates" in inspected.stdout

    for ids in lists[16:]:  # every step from the second on
        ids[0] = 60
    (tmp_path / "ids.json").write_text(str(lists))
    path = runs.write_recipe(tmp_path / "recipe.toml", runs.recipe(
        tmp_path, **keys, train__steps=20, train__non_finite_limit=3))
    done = runs.run("train", path, "--fresh")
    assert done.returncode == 13 and "3 steps in a row, up to step 4" in done.stderr, done.stderr
    assert len(runs.metrics(tmp_path)) == 4
