"""Fine-tuning on real conversations, whole: a model of transformers, rows of the package llamafactory, training against
torch step by step, another layout on the way, an export, and transformers on what came out."""
import json
import os
import pathlib
import subprocess
import sys
import tarfile

import pytest
import torch
import transformers
from tokenizers import Tokenizer

import deepseek_v3 as v3
import runs

os.environ["HF_HUB_OFFLINE"] = "1"
STEPS, BATCH, LENGTH, RATE = 12, 6, 160, 4e-3
# The generation block is what transformers takes its marks from; to the program it says nothing.
TEMPLATE = ("{{ bos_token }}{% for message in messages %}<|im_start|>{{ message.role }}\n"
            "{% if message.role == 'assistant' %}{% generation %}{{ message.content }}<|im_end|>{% endgeneration %}"
            "{% else %}{{ message.content }}<|im_end|>{% endif %}{{ '\n' }}{% endfor %}"
            "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")


def demo_rows():
    """alpaca_en_demo of the source distribution, as messages; the archive is kept beside the oracle."""
    archive = pathlib.Path(sys.prefix) / "data" / "llamafactory-0.9.5.tar.gz"
    if not archive.exists():
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
                        "--no-binary", ":all:", "--dest", archive.parent, "llamafactory==0.9.5"], check=True)
    with tarfile.open(archive) as files:
        rows = json.load(files.extractfile("llamafactory-0.9.5/data/alpaca_en_demo.json"))
    return [[{"role": "user", "content": row["instruction"] + ("\n" + row["input"] if row["input"] else "")},
             {"role": "assistant", "content": row["output"]}] for row in rows]


def write_rows(path, rows):
    path.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A directory with a model and its tokenizer in hf/, train.jsonl and valid.jsonl."""
    directory = tmp_path_factory.mktemp("sft")
    rows = [row for row in demo_rows() if sum(len(message["content"]) for message in row) < 260]
    write_rows(directory / "train.jsonl", rows[:100])
    write_rows(directory / "valid.jsonl", rows[100:120])
    (directory / "prose.txt").write_text("\n".join(m["content"] for row in rows for m in row))
    done = runs.run("tokenizer", "train", "--input", directory / "prose.txt", "--vocab-size", 500,
                    "--output", directory / "tokenizer.json")
    assert done.returncode == 0, done.stderr
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.add_special_tokens(["<s>", "<|im_start|>", "<|im_end|>"])
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="<|im_end|>",
                                         chat_template=TEMPLATE).save_pretrained(directory / "hf")
    torch.manual_seed(4)
    config = transformers.DeepseekV3Config(
        vocab_size=512, hidden_size=40, intermediate_size=56, moe_intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=4, n_shared_experts=1, n_routed_experts=8, routed_scaling_factor=2.5,
        kv_lora_rank=16, q_lora_rank=24, qk_rope_head_dim=8, v_head_dim=12, qk_nope_head_dim=8, n_group=4, topk_group=2,
        num_experts_per_tok=3, first_k_dense_replace=1, max_position_embeddings=512, bos_token_id=None,
        eos_token_id=tokenizer.token_to_id("<|im_end|>"), attn_implementation="eager", experts_implementation="eager")
    transformers.DeepseekV3ForCausalLM(config).float().save_pretrained(directory / "hf")
    return directory, rows


def train(directory, start, ranks=1, **keys):
    values = {f"model__{key}": None for key in runs.TINY}
    values |= {"model__from": str(start / "hf"), "data__tokenizer": str(start / "hf" / "tokenizer.json"),
               "data__cache": str(directory / "cache"), "data__sequence_length": LENGTH, "data__shuffle": False,
               "data__train": [{"path": str(start / "train.jsonl")}], "data__valid": [{"path": str(start / "valid.jsonl")}],
               "train__steps": STEPS, "train__global_batch": BATCH, "train__learning_rate": RATE,
               "train__schedule": "constant", "train__mtp_loss": 0.0, "eval__every": STEPS, "checkpoint__every": 5}
    return runs.train(directory, ranks=ranks, **(values | keys))


@pytest.fixture(scope="module")
def trained(start, tmp_path_factory):
    directory = tmp_path_factory.mktemp("trained")
    return directory, train(directory, start[0]).stdout


def documents(tokenizer, rows):
    """(ids, labels) of each row as transformers has them, no label where nothing is supervised."""
    for row in rows:
        out = tokenizer.apply_chat_template(row, return_dict=True, return_assistant_tokens_mask=True)
        ids, marks = out["input_ids"], out["assistant_masks"]
        yield ids, [id if mark else -100 for id, mark in zip(ids, marks)]


def packs(pieces):
    """Documents cut at LENGTH and laid into sequences, as docs/formats.md says."""
    sequences, used = [], LENGTH + 1
    for ids, labels in pieces:
        for at in range(0, len(ids), LENGTH):
            piece = (ids[at:at + LENGTH], labels[at:at + LENGTH])
            if used + len(piece[0]) > LENGTH:
                sequences.append([])
                used = 0
            sequences[-1].append(piece)
            used += len(piece[0])
    return sequences


def sum_of_losses(model, ids, labels):
    logits = model(input_ids=torch.tensor([ids])).logits[0, :-1]
    return torch.nn.functional.cross_entropy(logits, torch.tensor(labels[1:]), ignore_index=-100, reduction="sum")


def count(pieces):
    return sum(label != -100 for _, labels in pieces for label in labels[1:])


def test_every_step_equals_torch(start, trained):
    directory, rows = start
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory / "hf")
    model = transformers.DeepseekV3ForCausalLM.from_pretrained(
        directory / "hf", dtype=torch.float32, attn_implementation="eager", experts_implementation="eager").train()
    optimizer = torch.optim.AdamW(
        [{"params": [p for p in model.parameters() if p.dim() >= 2], "weight_decay": 0.1},
         {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0}],
        lr=RATE, betas=(0.9, 0.95), eps=1e-8)
    sequences = packs(documents(tokenizer, rows[:100]))
    assert any(len(sequence) > 1 for sequence in sequences) and len(sequences) > BATCH
    lines = runs.metrics(trained[0])
    for step in range(STEPS):
        batch = [piece for i in range(BATCH) for piece in sequences[(step * BATCH + i) % len(sequences)]]
        optimizer.zero_grad()
        loss = sum(sum_of_losses(model, *piece) for piece in batch) / count(batch)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).item()
        optimizer.step()
        # fp32 on both sides; sums in another order, carried through the steps before.
        assert abs(lines[step]["loss"] - loss.item()) <= 1e-4 * loss.item(), (step, lines[step]["loss"], loss.item())
        assert abs(lines[step]["grad_norm"] - norm) <= 2e-3 * norm, (step, lines[step]["grad_norm"], norm)
    assert lines[-1]["loss"] < 0.9 * lines[0]["loss"], "nothing was learned, so nothing was compared"


def test_what_is_supervised_is_said(start, trained):
    directory, rows = start
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory / "hf")
    pieces = [piece for sequence in packs(documents(tokenizer, rows[:100])) for piece in sequence]
    share = 100 * count(pieces) / sum(len(ids) for ids, _ in pieces)
    assert f"{share:.1f} % of them supervised: {count(pieces)} tokens" in trained[1]
    question, answer = (message["content"] for message in rows[0])
    assert "example  what is supervised stands between [[ and ]]" in trained[1]
    assert f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n[[{answer}<|im_end|>]]\n" in trained[1]
    assert "rows of {\"messages\"}, by their keys; chat template: " in trained[1]
    long = sum(len(ids) > LENGTH for ids, _ in documents(tokenizer, rows[:100]))
    assert long > 0 and f"{long} conversations are longer than data.sequence_length and are cut into pieces" in trained[1]


def test_another_template_is_other_data(start, trained, tmp_path):
    """A run's own template makes its own texts, whatever the cache has, goes with its export and its chats, and is not
    changed on the way."""
    own = tmp_path / "own.jinja"
    own.write_text(TEMPLATE.replace("<|im_start|>", "## "))
    done = train(tmp_path, start[0], train__steps=1, data__chat_template=str(own),
                 data__cache=str(trained[0] / "cache"))
    question, answer = (message["content"] for message in start[1][0])
    assert f"<s>## user\n{question}<|im_end|>\n## assistant\n[[{answer}<|im_end|>]]\n" in done.stdout
    done = runs.run("export", tmp_path / "run", tmp_path / "out", "--dtype", "fp32")
    assert done.returncode == 0, done.stderr
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "out").chat_template == own.read_text()
    answers = {runs.run("generate", source, "--chat", "--prompt", "Hm", "--temperature", 1, "--max-tokens", 60,
                        "--precision", "fp32", *more).stdout
               for source, more in [(tmp_path / "run", []), (tmp_path / "out", []),
                                    (tmp_path / "out", ["--system", "A"])]}
    assert len(answers) == 2, "the system message changes the answer, the place of the template does not"
    done = runs.resume(tmp_path, "--set", f"data.chat_template={start[0] / 'hf' / 'chat_template.jinja'}", expect=3)
    assert "train.jsonl: its tokens hash to" in done.stderr, done.stderr


@pytest.mark.parametrize("ranks, keys", [
    (1, {"train__micro_batch": 1}), (2, {"train__micro_batch": 3}),
    pytest.param(2, {"train__micro_batch": 1, "parallel__expert": 2}, marks=pytest.mark.slow),
    pytest.param(2, {"train__micro_batch": 2, "parallel__tensor": 2}, marks=pytest.mark.slow)])
def test_layouts_train_the_same_bits(start, trained, tmp_path, ranks, keys):
    """The loss is divided by the supervised tokens of the whole batch, however it is cut."""
    train(tmp_path, start[0], ranks=ranks, **keys)
    assert runs.same_run(trained[0], tmp_path, STEPS) is None


def test_mtp_predicts_supervised_tokens_alone(start, tmp_path):
    """Both losses and the gradient of a step on completions, in fp64; MTP's own target must be supervised."""
    config = v3.BASE | dict(num_hidden_layers=2, vocab_size=512)
    weights = v3.random_weights(config, 11, with_mtp=True)
    v3.write_checkpoint(tmp_path / "hf", config, weights)
    rows = [{"prompt": "The smith ", "completion": "waits"}, {"prompt": "Iron is ", "completion": "hot. Strike it."}]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokenizer = transformers.AutoTokenizer.from_pretrained(start[0] / "hf")
    split = [[tokenizer(row[key], add_special_tokens=False)["input_ids"] for key in ("prompt", "completion")] for row in rows]
    ids = [prompt + completion + [tokenizer.eos_token_id] for prompt, completion in split]
    marks = [[0] * len(prompt) + [1] * (len(completion) + 1) for prompt, completion in split]
    train(tmp_path, start[0], model__from=str(tmp_path / "hf"), data__valid=None, train__steps=1, train__global_batch=2,
          train__mtp_loss=0.7, data__sequence_length=max(map(len, ids)), data__train=[{"path": str(tmp_path / "train.jsonl")}])
    w = {name: tensor.double().requires_grad_() for name, tensor in weights.items()}
    parts = [v3.losses(config, w, [one], True, [mark]) for one, mark in zip(ids, marks)]
    main = sum(part[0] for part in parts) / sum(sum(mark[1:]) for mark in marks)
    mtp = sum(part[1] for part in parts) / sum(sum(mark[2:]) for mark in marks)
    (main + 0.7 * mtp).backward()
    norm = sum(tensor.grad.square().sum().item() for tensor in w.values() if tensor.grad is not None) ** 0.5
    line, = runs.metrics(tmp_path)
    for key, value in [("loss", main.item()), ("mtp_loss", mtp.item()), ("grad_norm", norm)]:
        assert abs(line[key] / value - 1) < 1e-5, (key, line[key], value)


def test_from_transformers_over_layouts_and_back(start, trained, tmp_path):
    directory, rows = start
    train(tmp_path, directory, train__steps=5)
    runs.resume(tmp_path, "--set", f"train.steps={STEPS}", "--set", "parallel.expert=2", ranks=2)
    assert runs.metrics(tmp_path)[5:] == runs.metrics(trained[0])[5:]
    out = tmp_path / "out"
    done = runs.run("export", tmp_path / "run", out, "--dtype", "fp32")
    assert done.returncode == 0, done.stderr
    model = transformers.DeepseekV3ForCausalLM.from_pretrained(
        out, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    assert tokenizer.chat_template == TEMPLATE
    pieces = [piece for sequence in packs(documents(tokenizer, rows[100:120])) for piece in sequence]
    with torch.no_grad():
        loss = sum(sum_of_losses(model, *piece).item() for piece in pieces) / count(pieces)
    done = runs.run("eval", out, "--data", directory / "valid.jsonl", "--sequence-length", LENGTH, "--precision", "fp32",
                    env={"TMPDIR": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    shown = float(done.stdout.split("loss  ")[1].split()[0])
    assert abs(shown - loss) <= 1e-4 * loss, (shown, loss)
    assert abs(runs.metrics(tmp_path)[-1]["valid_loss"] - loss) <= 1e-4 * loss
    before = runs.run("eval", directory / "hf", "--data", directory / "valid.jsonl", "--sequence-length", LENGTH)
    assert loss < 0.9 * float(before.stdout.split("loss  ")[1].split()[0]), "the held-out loss did not fall"
    # An answer is what follows the ids of transformers' prompt, from the export and from the run.
    asked = [{"role": "user", "content": rows[0][0]["content"]}]
    ids = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=True)["input_ids"]
    (tmp_path / "prompt.json").write_text(json.dumps([ids]))
    how = ["--temperature", 1, "--max-tokens", 60, "--precision", "fp32", "--seed", 3]
    done = runs.run("generate", out, "--tokens", tmp_path / "prompt.json", *how)
    wanted = tokenizer.decode(json.loads(done.stdout)[len(ids):])
    for source in (out, tmp_path / "run"):
        done = runs.run("generate", source, "--chat", "--prompt", asked[0]["content"], *how)
        assert done.returncode == 0 and done.stdout == wanted + "\n", (done.stdout, wanted, done.stderr)
