#!/usr/bin/env python3
"""Writes unicode_tables.inc: the general category of every code point, and a few scripts, exactly as the Hugging Face
`tokenizers` library sees them (it is asked code point by code point, through the regex engine its pre-tokenizers use).

    python data/tokenizer/make_unicode_tables.py > data/tokenizer/unicode_tables.inc

Format of a table: runs that cover 0 .. 0x10FFFF, each a letter (the index in A-Za-z) and the run's length in code
points; length 1 is left out. In the script table, A means "another script".
"""
import string

import tokenizers
from tokenizers import Regex, pre_tokenizers

CATEGORIES = ("Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Co Cn "
              "Cs").split()
LETTERS = string.ascii_uppercase + string.ascii_lowercase
SCRIPTS = ["Han", "Hiragana", "Katakana", "Hangul"]
SURROGATES = range(0xD800, 0xE000)  # not characters: no text can hold them
ALL = [c for c in range(0x110000) if c not in SURROGATES]
TEXT = "".join(map(chr, ALL))


def members(pattern):
    split = pre_tokenizers.Split(Regex(f"(?:{pattern})+"), "removed", invert=True)
    for _, (begin, end) in split.pre_tokenize_str(TEXT):
        yield from ALL[begin:end]


def runs(names, default):
    index = [default] * 0x110000
    for number, name in names:
        for code in members(rf"\p{{{name}}}"):
            index[code] = number
    for code in SURROGATES:
        index[code] = CATEGORIES.index("Cs") if default is None else default
    out, begin = [], 0
    for code in range(1, 0x110001):
        if code == 0x110000 or index[code] != index[begin]:
            length = code - begin
            out.append(LETTERS[index[begin]] + (str(length) if length > 1 else ""))
            begin = code
    return "".join(out)


def literal(name, text):
    print(f"constexpr char {name}[] =")
    for i in range(0, len(text), 94):
        print(f'    "{text[i:i + 94]}"' + (";" if i + 94 >= len(text) else ""))


if __name__ == "__main__":
    print(f"// Written by make_unicode_tables.py from tokenizers {tokenizers.__version__} (Unicode 16.0); see there.")
    literal("kCategoryRuns", runs(list(enumerate(CATEGORIES)), None))
    literal("kScriptRuns", runs(list(enumerate(SCRIPTS, 1)), 0))
