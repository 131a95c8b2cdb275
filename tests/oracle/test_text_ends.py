"""Where texts begin and end: as transformers' tokenizers have it, by whatever file says so."""
import json
import os

import h5py
import pytest

import runs

os.environ["HF_HUB_OFFLINE"] = "1"

TEXT = "iron is worked while it is hot"
BEGIN = {"type": "TemplateProcessing",
         "single": [{"SpecialToken": {"id": "<bos>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
         "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
         "special_tokens": {"<bos>": {"id": "<bos>", "ids": [300], "tokens": ["<bos>"]}}}
AROUND = {**BEGIN, "single": BEGIN["single"] + [{"SpecialToken": {"id": "<|im_end|>", "type_id": 0}}],
          "special_tokens": {**BEGIN["special_tokens"],
                             "<|im_end|>": {"id": "<|im_end|>", "ids": [301], "tokens": ["<|im_end|>"]}}}
BYTES = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}
SPECIALS = {"<bos>": 300, "<|im_end|>": 301, "<|endoftext|>": 0}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A tokenizer.json of 300 tokens and two special ones, <bos> = 300 and <|im_end|> = 301."""
    directory = tmp_path_factory.mktemp("plain")
    (directory / "prose.txt").write_text((TEXT + ". The smith who waits works twice; so says the forge.\n") * 40)
    done = runs.run("tokenizer", "train", "--input", directory / "prose.txt", "--vocab-size", 300,
                    "--output", directory / "tokenizer.json")
    assert done.returncode == 0, done.stderr
    content = json.loads((directory / "tokenizer.json").read_text())
    ids = {**content["model"]["vocab"], **{token["content"]: token["id"] for token in content["added_tokens"]}}
    for name in ("<bos>", "<|im_end|>"):
        # Smaller vocabularies than asked for would shift these.
        content["added_tokens"].append({"id": len(ids), "content": name, "single_word": False, "lstrip": False,
                                        "rstrip": False, "normalized": False, "special": True})
        ids[name] = len(ids)
    SPECIALS.update({name: ids[name] for name in SPECIALS})
    for template in (BEGIN, AROUND):
        for name, token in template["special_tokens"].items():
            token["ids"] = [ids[name]]
    return content


def tokenizer(directory, plain, processor=None, config=None, special_map=None):
    (directory / "tokenizer.json").write_text(json.dumps({**plain, "post_processor": processor}))
    if config is not None:
        (directory / "tokenizer_config.json").write_text(json.dumps(config))
    if special_map is not None:
        (directory / "special_tokens_map.json").write_text(json.dumps(special_map))
    return directory / "tokenizer.json"


def prepared(directory, *arguments):
    """The ids of TEXT as a document, or the finished process if it failed."""
    (directory / "d.jsonl").write_text(json.dumps({"text": TEXT}) + "\n")
    (directory / "d.txt").write_text(TEXT)
    ids = []
    for name in ("d.jsonl", "d.txt"):
        done = runs.run("data", "prepare", "--tokenizer", directory / "tokenizer.json", "--input", directory / name,
                        "--output", directory / "out.h5", *arguments)
        if done.returncode != 0:
            return done
        with h5py.File(directory / "out.h5") as file:
            ids.append(file["tokens"][...].tolist())
    assert ids[0] == ids[1], "a text is a document like any other"
    return ids[0]


EOS = {"eos_token": "<|endoftext|>"}


@pytest.mark.parametrize("processor", [None, BYTES, BEGIN, AROUND, {"type": "Sequence", "processors": [BYTES, BEGIN]}])
@pytest.mark.parametrize("config", [None, EOS, {**EOS, "bos_token": "<bos>"},
                                    {**EOS, "bos_token": {"content": "<bos>", "__type": "AddedToken"}}])
def test_documents_are_what_transformers_makes_of_them(tmp_path, plain, processor, config):
    from transformers import AutoTokenizer

    tokenizer(tmp_path, plain, processor, {"tokenizer_class": "PreTrainedTokenizerFast", **(config or {})})
    (tmp_path / "config.json").write_text('{"model_type": "deepseek_v3"}')
    theirs = AutoTokenizer.from_pretrained(tmp_path)(TEXT)["input_ids"]
    assert prepared(tmp_path, "--no-eos") == [i for i in theirs if i != SPECIALS["<|im_end|>"]]
    end = SPECIALS["<|im_end|>"] if processor == AROUND else SPECIALS["<|endoftext|>"]
    if config is not None or processor == AROUND:
        assert prepared(tmp_path) == [i for i in theirs if i != end] + [end]


def test_a_flag_without_a_template_and_against_it(tmp_path, plain):
    names = {**EOS, "bos_token": "<bos>"}
    tokenizer(tmp_path, plain, None, {**names, "add_bos_token": True})
    assert prepared(tmp_path)[0] == SPECIALS["<bos>"]
    assert prepared(tmp_path, "--begin-token", "none")[0] != SPECIALS["<bos>"]
    tokenizer(tmp_path, plain, BEGIN, {**names, "add_bos_token": False})
    refused = prepared(tmp_path)
    assert refused.returncode == 2 and "add_bos_token is false" in refused.stderr and "--begin-token" in refused.stderr
    assert prepared(tmp_path, "--begin-token", "<bos>")[0] == SPECIALS["<bos>"]
    tokenizer(tmp_path, plain, None, {**EOS, "add_bos_token": True})
    assert "no bos_token is named" in prepared(tmp_path).stderr
    tokenizer(tmp_path, plain, None, {"eos_token": "<none such>"})
    refused = prepared(tmp_path)
    assert refused.returncode == 3 and "tokenizer_config.json" in refused.stderr and "<none such>" in refused.stderr
    tokenizer(tmp_path, plain, None, names)
    assert prepared(tmp_path, "--end-token", "<|im_end|>")[-1] == SPECIALS["<|im_end|>"]
    refused = prepared(tmp_path, "--end-token", "nothing")
    assert refused.returncode == 2 and "nothing" in refused.stderr


def train(directory, plain, **keys):
    """A run that has learned to end texts soon."""
    (directory / "d.jsonl").write_text((json.dumps({"text": "iron"}) + "\n") * 60)
    return runs.train(directory, model__vocab_size=320, data__tokenizer=str(directory / "tokenizer.json"),
                      data__train=[{"path": str(directory / "d.jsonl")}], data__valid=None,
                      data__sequence_length=8, train__steps=40, train__learning_rate=1e-2, checkpoint__every=0,
                      eval__every=0, **keys)


def generated(directory, *arguments):
    done = runs.run("generate", directory / "run", "--temperature", "0", "--max-tokens", 20, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("config, special_map, end", [
    ({"eos_token": "<|im_end|>"}, None, "<|im_end|>"),
    ({}, {"eos_token": {"content": "<|im_end|>"}}, "<|im_end|>"),
    ({"eos_token": "<|endoftext|>"}, {"eos_token": "<|im_end|>"}, "<|endoftext|>"),
])
def test_generation_stops_at_the_end_that_training_appends(tmp_path, plain, monkeypatch, config, special_map, end):
    """Also where the model's configuration names another, and without the tokenizer."""
    monkeypatch.chdir(tmp_path)
    tokenizer(tmp_path, plain, None, config, special_map)
    done = train(tmp_path, plain, model__eos_token_id=7)
    assert f"end with {end} = {SPECIALS[end]} (eos_token of " in done.stdout
    assert "name different ends of a text; generation stops at any of " in done.stdout
    (tmp_path / "p.json").write_text(json.dumps([prepared(tmp_path, "--no-eos")[:1]]))
    assert generated(tmp_path, "--prompt", "iron") == "iron"
    ids = json.loads(generated(tmp_path, "--tokens", tmp_path / "p.json"))
    assert SPECIALS[end] not in ids
    assert SPECIALS[end] in json.loads(generated(tmp_path, "--tokens", tmp_path / "p.json", "--ignore-eos"))


def test_a_text_from_nothing(tmp_path, plain, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tokenizer(tmp_path, plain, BEGIN, {**EOS, "bos_token": "<bos>"})
    done = train(tmp_path, plain)
    assert "texts    begin with <bos>" in done.stdout and "different ends" not in done.stdout
    assert generated(tmp_path, "--prompt", "") == "iron"
    done = runs.run("generate", tmp_path / "run", "--prompt", "", "--begin-token", "none")
    assert done.returncode == 2 and "the prompt is empty" in done.stderr.splitlines()[-1]


def test_every_end_that_a_released_model_names(tmp_path, plain):
    """config.json, generation_config.json and the tokenizer's each name one; an id beyond the vocabulary is refused."""
    import torch
    from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

    keys = {key: value for key, value in runs.TINY.items() if key != "vocab_size"}
    torch.manual_seed(0)
    DeepseekV3ForCausalLM(DeepseekV3Config(vocab_size=320, num_nextn_predict_layers=0, num_key_value_heads=4,
                                           **keys)).save_pretrained(tmp_path)
    tokenizer(tmp_path, plain, None, {**EOS, "chat_template": "{{ '<|im_end|>' }}"})
    config = json.loads((tmp_path / "config.json").read_text())
    prompt = tmp_path / "p.json"
    prompt.write_text("[[5, 6]]")

    def made(eos, generation):
        (tmp_path / "config.json").write_text(json.dumps({**config, "eos_token_id": eos}))
        (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": generation}))
        return runs.run("generate", tmp_path, "--tokens", prompt, "--temperature", "0", "--max-tokens", 6)

    free = json.loads(made(319, None).stdout)
    assert len(free) == 8
    third = free.index(free[4], 2)  # greedy text may repeat itself
    for eos, generation in ((free[4], 319), (319, free[4]), (319, [318, free[4]]), ([free[4], 319], None)):
        assert json.loads(made(eos, generation).stdout) == free[:third]
    for eos, generation in ((999, None), (319, [999])):
        done = made(eos, generation)
        assert done.returncode == 2 and "999" in done.stderr and "320" in done.stderr, done.stderr
