"""Rows of conversations: what of them is supervised, and what is wrong with them. The oracle of masks is transformers,
with the templates in trl that mark with {% generation %} what the assistant writes."""
import importlib.util
import json
import os
import pathlib

import h5py
import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

import runs

os.environ["HF_HUB_OFFLINE"] = "1"
TRL = pathlib.Path(importlib.util.find_spec("trl").submodule_search_locations[0]) / "chat_templates"
SPECIAL = ["<s>", "<|im_start|>", "<|im_end|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>", "<end_of_turn>",
           "<start_of_turn>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>", "<｜User｜>", "<｜Assistant｜>",
           "<｜end▁of▁sentence｜>", "<|END_OF_TURN_TOKEN|>", "<|START_OF_TURN_TOKEN|>", "<|CHATBOT_TOKEN|>"]
PROSE = "The smith who waits works twice; so says the forge. Iron is worked while it is hot.\n"


def ask(text):
    return {"role": "user", "content": text}


def tell(text):
    return {"role": "assistant", "content": text}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The content of a small tokenizer.json whose special tokens are those of many families."""
    directory = tmp_path_factory.mktemp("plain")
    (directory / "prose.txt").write_text(PROSE * 40)
    done = runs.run("tokenizer", "train", "--input", directory / "prose.txt", "--vocab-size", 320,
                    "--output", directory / "tokenizer.json")
    assert done.returncode == 0, done.stderr
    content = json.loads((directory / "tokenizer.json").read_text())
    ids = {**content["model"]["vocab"], **{token["content"]: token["id"] for token in content["added_tokens"]}}
    for name in SPECIAL:
        content["added_tokens"].append({"id": len(ids), "content": name, "single_word": False, "lstrip": False,
                                        "rstrip": False, "normalized": False, "special": True})
        ids[name] = len(ids)
    return content


def tokenizer(directory, plain, template, eos="<|im_end|>"):
    (directory / "tokenizer.json").write_text(json.dumps(plain))
    (directory / "tokenizer_config.json").write_text(json.dumps(
        {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": eos, "chat_template": template}))
    return directory / "tokenizer.json"


def preview(path, rows, *arguments):
    file = path.with_name("rows.jsonl")
    file.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    done = runs.run("data", "preview", file, "--tokenizer", path, "--rows", len(rows), "--json", *arguments)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


ROWS = [[ask("What is a forge?"), tell("A hearth.")],
        [{"role": "system", "content": "You are a smith."}, ask("Who?"), tell("I, Wayland."), ask("Why 鍛冶?"),
         tell("It is hot.\n\nStrike!"), ask("And?"), tell("Done")],
        [ask("Hm"), tell("")]]


def narrowed(oracle, messages, want, stops):
    """The marks without what is part of the prompt of an answer, and without what follows the end of a turn: some
    templates mark these too."""
    ids, marks = want["input_ids"], list(want["assistant_masks"])
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prompt = oracle.apply_chat_template(messages[:i], add_generation_prompt=True, return_dict=True)["input_ids"]
        begin = len(os.path.commonprefix([prompt, ids]))
        while begin and marks[begin - 1]:
            begin -= 1
            marks[begin] = 0
    for at, token in enumerate(ids):
        if token in stops and marks[at]:
            while at + 1 < len(ids) and marks[at + 1]:
                at += 1
                marks[at] = 0
    return marks


@pytest.mark.parametrize("path", sorted(TRL.glob("*_training.jinja")), ids=lambda path: path.stem)
def test_masks_are_those_of_generation_blocks(path, plain, tmp_path):
    source = path.read_text()
    eos = next((name for name in ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>", "<|END_OF_TURN_TOKEN|>")
                if name in source), "<｜end▁of▁sentence｜>")
    file = tokenizer(tmp_path, plain, source, eos)
    oracle = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    for messages, got in zip(ROWS, preview(file, [{"messages": messages} for messages in ROWS]), strict=True):
        try:
            want = oracle.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
        except Exception:
            assert "error" in got
            continue
        if path.stem == "gptoss_training" and len(messages) > 3:  # history's turns end otherwise than the last one
            assert "messages[2]: the chat template renders the turn otherwise" in got["error"]
            continue
        assert got.get("ids") == want["input_ids"], got
        marks = narrowed(oracle, messages, want, oracle.convert_tokens_to_ids([eos, "<|end|>", "<｜end▁of▁sentence｜>"]))
        assert got["supervised"] == marks, (got["text"], oracle.decode(
            [i for i, m in zip(want["input_ids"], marks) if m]))


CHATML = ("{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
          "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
GOOD = {"messages": [ask("What?"), tell("A forge.")]}
WRONG = [
    ({"messages": [ask("a"), {"role": "bot", "content": "b"}]},
     'messages[1].role = "bot"; wanted system, developer, user, assistant or tool'),
    ({"messages": "a"}, 'messages = "a"; wanted a list of messages'),
    ({"messages": []}, "messages is empty"),
    ({"messages": [ask("a"), "b"]}, 'messages[1] = "b"; wanted {"role": ..., "content": ...}'),
    ({"messages": [{"content": "b"}]}, 'messages[0] has no "role"'),
    ({"messages": [{"role": "user"}]}, 'messages[0] has no "content"'),
    ({"messages": [ask({"text": "a"})]}, 'messages[0].content = {"text":"a"}; wanted a string'),
    ({"messages": [ask([{"type": "image"}])]}, 'messages[0].content[0] = {"type":"image"}; wanted {"type": "text"'),
    ({"prompt": "a", "completion": [tell("b")]}, 'prompt = "a"; wanted two strings'),
    ({"prompt": 1, "completion": "b"}, "prompt = 1; wanted two strings, or two lists of messages"),
    ({"prompt": "a", "completion": "b", "messages": []}, 'has both "messages" and "completion"'),
    ({"text": "a", "messages": []}, 'has both "messages" and "text"'),
    ({"messages": [ask("a")]}, "nothing in it is supervised"),
    ({"prompt": "a", "completion": ""}, "nothing in it is supervised"),
    ({"prompt": [ask("a")], "completion": [ask("b")]}, "nothing in it is supervised"),
    ({"question": "a", "answer": "b"}, 'no "text", but "question", "answer"'),
    ('{"messages": [}', "column 15: not valid JSON: a value is expected"),
]


def test_what_is_wrong_is_said_with_its_path(plain, tmp_path):
    file = tokenizer(tmp_path, plain, CHATML)
    for (row, message), got in zip(WRONG, preview(file, [row for row, _ in WRONG]), strict=True):
        assert message in got.get("error", ""), (row, got)


def test_completions(plain, tmp_path):
    """Prompt and completion are encoded apart, the completion and the end are supervised; lists are conversations."""
    file = tokenizer(tmp_path, plain, CHATML)
    oracle = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    rows = [{"prompt": "The smith ", "completion": "waits. Größe"}, {"prompt": [ask("a"), tell("b"), ask("c")],
                                                                    "completion": [tell("d")]}]
    plain_row, listed = preview(file, rows)
    prompt, completion = (oracle(rows[0][key], add_special_tokens=False)["input_ids"] for key in ("prompt", "completion"))
    end = oracle.convert_tokens_to_ids("<|im_end|>")
    assert plain_row["ids"] == prompt + completion + [end]
    assert plain_row["supervised"] == [0] * len(prompt) + [1] * (len(completion) + 1)
    assert listed["text"] == ("<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n"
                              "<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n[[d<|im_end|>]]\n")


def prepared(file, rows, *arguments):
    data = file.with_name("d.jsonl")
    data.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return runs.run("data", "prepare", "--tokenizer", file, "--input", data, "--output", file.with_name("d.h5"), *arguments)


def test_stores_keep_the_marks(plain, tmp_path):
    file = tokenizer(tmp_path, plain, CHATML)
    rows = [{"messages": messages} for messages in ROWS] + [{"messages": [ask("Nothing.")]}]
    done = prepared(file, rows)
    assert done.returncode == 0, done.stderr
    assert f"1 of 4 rows left out, as nothing in them is supervised; the first is {tmp_path}/d.jsonl:4" in done.stdout
    want = preview(file, rows[:3])
    with h5py.File(tmp_path / "d.h5") as store:
        assert store.attrs["format_version"] == 2
        count = store["tokens"].shape[0]
        marks = np.unpackbits(store["supervised"][...], bitorder="little")
        assert not marks[count:].any()
        assert store["tokens"][...].tolist() == sum((row["ids"] for row in want), [])
        assert marks[:count].tolist() == sum((row["supervised"] for row in want), [])
    assert runs.run("data", "check", tmp_path / "d.h5").returncode == 0
    with h5py.File(tmp_path / "d.h5", "r+") as store:
        store["supervised"][1] ^= 4
    done = runs.run("data", "check", tmp_path / "d.h5")
    assert done.returncode == 3 and "supervised: checksum" in done.stderr


@pytest.mark.parametrize("rows, message", [
    ([GOOD] * 3 + [{"text": "a"}], 'd.jsonl:4: a row of {"text"}, in a file that has rows of {"messages"} since line 1'),
    ([{"text": "a"}, "", {"prompt": "a", "completion": "b"}],
     'd.jsonl:3: a row of {"prompt", "completion"}, in a file that has rows of {"text"} since line 1'),
    ([{"messages": [ask("a")]}] * 2, "d.jsonl:1: nothing is supervised in this {\"messages\"} row, nor in any other of"),
    ([GOOD] * 9 + [{"messages": [ask(1)]}], "1 of 10 lines are broken (1 broken conversation; first: "),
    ([GOOD] * 9 + [{"messages": [ask(1)]}], "d.jsonl:10: messages[0].content = 1; wanted a string"),
])
def test_files_that_are_refused(rows, message, plain, tmp_path):
    done = prepared(tokenizer(tmp_path, plain, CHATML), rows)
    assert done.returncode == 3 and message in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert not (tmp_path / "d.h5").exists()


def test_templates_come_from_where_they_should(plain, tmp_path):
    """--chat-template, chat_template.jinja, tokenizer_config.json, in this order; none, and a broken one, are said."""
    file = tokenizer(tmp_path, plain, CHATML)
    (tmp_path / "other.jinja").write_text(CHATML.replace("im_end", "eot_id"))
    (tmp_path / "broken.jinja").write_text("{% for %}")
    chosen, = preview(file, [GOOD], "--chat-template", tmp_path / "other.jinja")
    assert chosen["text"].endswith("<|im_start|>assistant\n[[A forge.<|eot_id|>]]\n")
    (tmp_path / "chat_template.jinja").write_text("{% generation %}" + CHATML + "{% endgeneration %}x")
    assert preview(file, [GOOD])[0]["text"].endswith("[[A forge.<|im_end|>]]\nx")
    done = runs.run("data", "preview", tmp_path / "rows.jsonl", "--tokenizer", file, "--chat-template",
                    tmp_path / "broken.jinja")
    assert done.returncode == 3 and f"{tmp_path}/broken.jinja:1:8: wanted a name, found `%}}`" in done.stderr
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "tokenizer.json").write_text(json.dumps(plain))
    done = prepared(bare / "tokenizer.json", [GOOD])
    assert done.returncode == 2 and "messages need a chat template, and the tokenizer has none" in done.stderr


def only_in_prompts(oracle):
    """What transformers' prompt for an answer ends with and its history does not have."""
    question, answer = ask("?"), tell("§")
    prompt = oracle.apply_chat_template([question], add_generation_prompt=True, tokenize=False)
    return prompt[len(os.path.commonprefix([prompt, oracle.apply_chat_template([question, answer], tokenize=False)])):]


THINKS = CHATML.replace("<|im_start|>assistant\n{%", "<|im_start|>assistant\n<think>\n{%")


@pytest.mark.parametrize("source", [CHATML, THINKS, THINKS.replace("<think>\n", "\u200b\"" + "a" * 200),
                                    *sorted(TRL.glob("*.jinja"))],
                         ids=lambda source: getattr(source, "stem", None))
def test_what_only_prompts_end_with_is_said(source, plain, tmp_path):
    """Once, quoted; not of files without conversations, nor where the template cannot render."""
    file = tokenizer(tmp_path, plain, source if isinstance(source, str) else source.read_text())
    oracle = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    rows = tmp_path / "rows.jsonl"
    rows.write_text(3 * (json.dumps(GOOD) + "\n"))
    shown = runs.run("data", "preview", rows, "--tokenizer", file)
    assert shown.returncode == 0, shown.stderr
    notes = [line for line in shown.stdout.splitlines() if line.startswith("WARNING")]
    try:
        text = only_in_prompts(oracle)
    except Exception:
        assert notes == []
        return
    assert len(notes) == (1 if text else 0), notes
    if text:
        quoted = json.dumps(text)
        quoted = quoted if len(quoted) <= 80 else quoted[:80] + "..."
        assert f"prompts end with {quoted}, and" in notes[0], (text, notes)
        assert "trained on answers without that text" in notes[0] and "data.chat_template" in notes[0]


def test_prepare_and_train_say_it_too(plain, tmp_path):
    file = tokenizer(tmp_path, plain, THINKS)
    row = {"messages": [ask("What?"), tell("A forge, and a smith who works at it.")]}
    said = 'WARNING: the chat template\'s prompts end with "<think>\\n"'
    assert prepared(file, [row] * 9).stdout.count(said) == 1
    assert "WARNING" not in prepared(file, [{"text": "A forge."}]).stdout
    for data in ("d.jsonl", "d.jsonl", "d.h5"):  # encoded, found encoded, and encoded by hand
        prepared(file, [row] * 9)
        done = runs.train(tmp_path, **{
            "model.vocab_size": 400, "data.tokenizer": str(file), "data.cache": str(tmp_path / "cache"), "train.steps": 1,
            "data.train": [{"path": str(tmp_path / data)}], "data.valid": None, "eval.every": None,
            "run.dir": str(tmp_path / f"run-{len(list(tmp_path.glob('run-*')))}")})
        assert done.stdout.count(said) == 1, done.stdout


BROKEN = "{% for message in messages %}\n{{ message.content +* 2 }}\n{% endfor %}"


def test_a_template_that_does_not_parse_is_said_at_once(plain, tmp_path):
    """Before any row is read where it was asked for by name; else of the first conversation."""
    file = tokenizer(tmp_path, plain, CHATML)
    broken = tmp_path / "broken.jinja"
    broken.write_text(BROKEN)
    rows = tmp_path / "d.jsonl"
    rows.write_text("no JSON\n" + json.dumps({"text": "A forge."}) + "\n")  # that need no template
    where = f"{broken}:2:21: "
    train = runs.recipe(tmp_path, **{"model.vocab_size": 400, "data.tokenizer": str(file), "data.valid": None,
                                     "data.chat_template": str(broken), "data.train": [{"path": str(rows)}]})
    for done in (runs.run("data", "preview", rows, "--tokenizer", file, "--chat-template", broken),
                 runs.run("data", "preview", rows, "--tokenizer", file, "--chat-template", broken, "--json"),
                 runs.run("data", "preview", rows, "--render", "--chat-template", broken),
                 runs.run("data", "prepare", "--tokenizer", file, "--input", rows, "--output", tmp_path / "d.h5",
                          "--chat-template", broken),
                 runs.run("train", runs.write_recipe(tmp_path / "recipe.toml", train))):
        assert done.returncode == 3 and where in done.stderr and done.stderr.count("\n") == 1, (done.args, done.stderr)
        assert "d.jsonl" not in done.stderr
    own = tokenizer(tmp_path, plain, BROKEN)
    assert prepared(own, [{"text": "A forge."}]).returncode == 0
    for row in (GOOD, {"prompt": GOOD["messages"][:1], "completion": GOOD["messages"][1:]}):
        done = prepared(own, [row] * 3)
        assert done.returncode == 3 and "tokenizer_config.json:2:21: " in done.stderr and "broken" not in done.stderr
        assert runs.run("data", "preview", tmp_path / "d.jsonl", "--tokenizer", own).returncode == 3
