"""`fucina generate` in fp32: greedy continuation equals transformers'; sampling repeats with its seed; text in and out."""
import json
import os

os.environ["HF_HUB_OFFLINE"] = "1"
import numpy as np
import pytest
import torch

import deepseek_v3 as v3
from program import ROOT, fucina


def make_model(tmp_path, **changes):
    config = v3.BASE | dict(eos_token_id=[250, 251]) | changes
    return v3.write_checkpoint(tmp_path / "model", config, v3.random_weights(config, 5))


@pytest.mark.slow
@pytest.mark.parametrize("q_lora_rank", [32, None])
def test_greedy_equals_transformers(q_lora_rank, tmp_path):
    from transformers import AutoModelForCausalLM

    directory = make_model(tmp_path, q_lora_rank=q_lora_rank)
    prompts = np.random.default_rng(1).integers(0, 250, (2, 9)).tolist()
    (tmp_path / "ids.json").write_text(json.dumps(prompts))
    printed = fucina("generate", directory, "--tokens", tmp_path / "ids.json", "--temperature", 0, "--max-tokens", 24,
                     "--precision", "fp32", "--ignore-eos").stdout
    peer = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager",
                                                experts_implementation="eager")
    out = peer.generate(torch.tensor(prompts), do_sample=False, max_new_tokens=24, min_new_tokens=24, eos_token_id=None,
                        pad_token_id=0)
    assert [json.loads(line) for line in printed.splitlines()] == out.tolist()


def test_seed_decides_and_eos_stops(tmp_path):
    directory = make_model(tmp_path)
    (tmp_path / "ids.json").write_text("[[1, 2, 3]]")

    def ids(*options):
        return json.loads(fucina("generate", directory, "--tokens", tmp_path / "ids.json", *options).stdout)

    free = ids("--seed", 1, "--temperature", 5, "--top-p", 1, "--max-tokens", 40, "--ignore-eos")
    assert free == ids("--seed", 1, "--temperature", 5, "--top-p", 1, "--max-tokens", 40, "--ignore-eos")
    assert free != ids("--seed", 2, "--temperature", 5, "--top-p", 1, "--max-tokens", 40, "--ignore-eos")
    assert len(free) == 43
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"eos_token_id": free[9]}))
    stopped = ids("--seed", 1, "--temperature", 5, "--top-p", 1, "--max-tokens", 40)
    assert stopped == free[:free.index(free[9], 3)]


def test_text_goes_in_and_comes_out(tmp_path):
    tokenizer = ROOT / "tests" / "golden" / "tokenizer" / "tokenizer.json"
    vocab = max(json.loads(tokenizer.read_text())["model"]["vocab"].values()) + 16
    directory = make_model(tmp_path, vocab_size=vocab)
    (directory / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    text = fucina("generate", directory, "--prompt", "The forge", "--max-tokens", 8, "--seed", 3).stdout
    assert text.startswith("The forge") and len(text) > len("The forge\n")
    prompts = ["The forge", "iron", "a b c"]
    alone = [fucina("generate", directory, "--prompt", prompt, "--max-tokens", 8, "--seed", 3).stdout for prompt in prompts]
    assert alone[0] == text
    for batch in (1, 2, 8):
        several = fucina("generate", directory, *(word for prompt in prompts for word in ("--prompt", prompt)),
                         "--max-tokens", 8, "--seed", 3, "--batch", batch).stdout
        assert several == "".join(f"== {i}\n{one}" for i, one in enumerate(alone, 1))
    missing = fucina("generate", tmp_path / "nowhere", "--prompt", "x", check=False)
    assert missing.returncode == 3 and "nowhere" in missing.stderr and missing.stderr.count("\n") == 1
