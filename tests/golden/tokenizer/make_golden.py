#!/usr/bin/env python3
"""Writes the small tokenizer of the unit tests and what the Hugging Face library makes of some texts with it.

    python tests/golden/tokenizer/make_golden.py

tokenizer.json: DeepSeek's three splits, NFC, a few merges, added tokens of every kind. expected.json: a list of
{"text", "ids", "decoded"}.
"""
import json
import pathlib

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

HERE = pathlib.Path(__file__).parent
PATTERNS = [
    r"\p{N}{1,3}",
    "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+|"
    " ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
]
CORPUS = ["the cat sat on the mat with the other cat", "that hat, these hats: the theme", "ha ha haha 111 中文中文", "aaa aa aaaaa"] * 5
TEXTS = [
    "", "the cat", " the  cat\n\n sat", "The théâtre, 12345!", "the\u0301 e\u0301\u0323", "中文 the 文",
    "<eos>", "a<eos>b <eos> c", "x <left> y", "x <right> y", "<word> a<word> <word>b <word>", "x  <left><right>  <left>",
    "\u00e9 caf\u00e9 cafe\u0301", "\u212b \uac00 \u1100\u1161", "norm\u00e9 norme\u0301", "\U0001f600\u200d\u0301",
    "tab\t\tend\r\n", "   ", "\u3000\u00a0", "hahahahaha" * 12, "aaaaaaa aaaa aaaaaaaaa", "a" * 101, "\ufffd", "'s don't (the) #the",
]


def build():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in PATTERNS]
        + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(CORPUS, trainers.BpeTrainer(
        vocab_size=297, initial_alphabet=alphabet, special_tokens=["<eos>"], show_progress=False))
    tokenizer.add_tokens([
        AddedToken("<left>", lstrip=True, normalized=False), AddedToken("<right>", rstrip=True, normalized=False),
        AddedToken("<word>", single_word=True, normalized=False), AddedToken("norm\u00e9", normalized=True),
        AddedToken("<e", normalized=False), AddedToken("hahahahaha", normalized=True)])
    return tokenizer


if __name__ == "__main__":
    library = build()
    library.save(str(HERE / "tokenizer.json"), pretty=False)
    cases = []
    for text in TEXTS:
        ids = library.encode(text, add_special_tokens=False).ids
        cases.append({"text": text, "ids": ids, "decoded": library.decode(ids, skip_special_tokens=False)})
    (HERE / "expected.json").write_text(
        "[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n")
