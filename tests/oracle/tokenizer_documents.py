"""Documents to compare tokenizers on: real prose and code, many languages, and every code point there is. A document is
bytes without \\n (the program reads one a line)."""
import pathlib
import pydoc_data.topics
import random
import sysconfig

SENTENCES = """
The quick brown fox jumps over the lazy dog; it's what they'd've done, isn't it?
Der Fluß läuft über die Grüße, 3.141,59 Äpfel für 20 €.
L'été, on boit du café à Noël — « vraiment » ?
El niño soñó: ¡qué día! ¿Mañana?
Zażółć gęślą jaźń, proszę bardzo.
Příliš žluťoučký kůň úpěl ďábelské ódy.
Съешь же ещё этих мягких французских булок, да выпей чаю.
Ξεσκεπάζω την ψυχοφθόρα βδελυγμία.
עטלף אבק נס דרך מזגן שהתפוצץ כי חם
صِف خَلقَ خَودِ كَمِثلِ الشَمسِ إِذ بَزَغَت ١٢٣٤
ऋषियों को सताने वाले दुष्ट राक्षसों के राजा रावण १२३
เป็นมนุษย์สุดประเสริฐเลิศคุณค่า ๔๕๖
我能吞下玻璃而不伤身体。一二三四五六七八九十
私はガラスを食べられます。それは私を傷つけません。アイウエオ
키스의 고유조건은 입술끼리 만나야 하고 특별한 기술은 필요치 않다.
Pijamalı hasta yağız şoföre çabucak güvendi. İstanbul'da I ve ı
Tiếng Việt có dấu: những người bạn tốt nhất của tôi
ខ្ញុំអាចញុំកញ្ចក់បាន មិនមានបញ្ហាទេ
მინას ვჭამ და არა მტკივა. Ապակի կրնամ ուտել
ඔබට සුබ දවසක් தமிழ் மொழி తెలుగు భాష ಕನ್ನಡ മലയാളം
👩‍👩‍👧‍👦 👍🏽 🇮🇹🇩🇪 😀😃😄 ☕️ ♥️ 1️⃣ 🫠 🏴󠁧󠁢󠁥󠁮󠁧󠁿
∀x∈ℝ: ⌈x⌉ = −⌊−x⌋, α ∧ ¬β → ∑∏∫ ½ ² ³ Ⅷ ⅷ ① ⓐ 𝔸𝟙
for (int i = 0; i < n; ++i) { a[i] += b[i] * 0x1F; } // note: x->y
def f(x): return {"k": [1, 2.5e-3, None]}  # λ
\tif (a && b || !c) {\r\treturn;\r\t}
SELECT * FROM t WHERE a<>'b''c' AND d IS NOT NULL;
<div class="x">&nbsp;&amp;</div><!-- c --> https://example.org/a?b=c&d=%20#e
ＦＵＬＬ　ｗｉｄｔｈ １２３ ﬁ ﬂ ß ẞ ſ K Å Å é é ạ̈ ạ̈ 각 각
""".strip("\n").split("\n")
SPACES = [" ", "  ", "   ", " " * 9, "\t", "\t\t", "\r", "\r\r", " \r", "\r ", "\u00a0", "\u3000", "\u2003 ", "\u200b",
          "\u0085", "\u2028", "\u180e", "\ufeff", "\v", "\f"]
PIECES = ["'s", "'S", "'ſ", "'ll", "'LL", "'re", "'", "''", "…", "—", "...", "!!!", "?!", "1", "12", "123", "1234",
          "12345678", "٣", "½", "²", "_", "__init__", "a", "A", "I", "é", "\u0301", "\u0301\u0323", "\u200d", "\ufe0f",
          "中", "あ", "ア", "ー", "한", "\u1100\u1161", "😀", "\U00011de3", "\U0001cc00", "\u0378", "\0", "\x7f", "\x1b"]


def real_lines():
    stdlib = pathlib.Path(sysconfig.get_paths()["stdlib"])
    texts = list(pydoc_data.topics.topics.values())
    texts += [path.read_text(encoding="utf-8", errors="replace") for path in sorted(stdlib.glob("[a-h]*.py"))]
    for text in texts:
        yield from text.split("\n")


def code_points(group, all_planes):
    """Characters in groups; without all planes, the ones that hold next to nothing are left out."""
    skipped = range(0, 0) if all_planes else range(0x32000, 0xE0000)
    limit = 0x110000 if all_planes else 0xE0200
    every = [chr(c) for c in range(limit) if c != 10 and not 0xD800 <= c < 0xE000 and c not in skipped]
    for begin in range(0, len(every), group):
        yield every[begin:begin + group]


def mixed(generator, extra):
    """One random document of sentences, words, pieces, spaces and the strings of `extra`."""
    parts = []
    for _ in range(generator.randrange(1, 14)):
        kind = generator.randrange(6)
        sentence = generator.choice(SENTENCES)
        if kind == 0:
            parts.append(sentence)
        elif kind == 1:
            begin = generator.randrange(len(sentence))
            parts.append(sentence[begin:begin + generator.randrange(1, 12)])
        elif kind == 2:
            parts.append(generator.choice(SPACES))
        elif kind == 3 and extra:
            parts.append(generator.choice(extra))
        elif kind == 4:
            code = generator.choice([generator.randrange(0x300), generator.randrange(0x3000), generator.randrange(0x20000)])
            parts.append("" if code == 10 or 0xD800 <= code < 0xE000 else chr(code))
        else:
            parts.append(generator.choice(PIECES))
    return "".join(parts)


def documents(extra=(), random_count=6000, group=128, all_planes=False):
    """All kinds; `extra` are strings to sprinkle in, such as added tokens."""
    generator = random.Random(20240607)
    texts = SENTENCES + [space.join(["a", "1", ".", ""]) for space in SPACES] + [""]
    lines = sorted({line for line in real_lines() if line})
    texts += generator.sample(lines, min(len(lines), 2500))
    texts += [mixed(generator, extra) for _ in range(random_count)]
    for characters in code_points(group, all_planes):
        texts.append("".join(characters))
    for characters in code_points(8 * group, all_planes):  # each alone between letters, digits, punctuation or spaces
        texts.append("".join(c + generator.choice(["a", " ", "1", ".", "中", " b"]) for c in characters))
    texts += ["a" * 3000, " " * 3000, " " * 3000 + "x", "\r" * 999, "ab" * 2000 + "1" * 500, "中" * 700, "é" * 2000]
    valid = [text.encode() for text in texts]
    damaged = []
    for _ in range(1000):
        data = bytearray(mixed(generator, extra).encode())
        for _ in range(generator.randrange(1, 5)):
            at = generator.randrange(len(data) + 1)
            data[at:at + generator.randrange(3)] = bytes(generator.choices(range(256), k=generator.randrange(3)))
        damaged.append(bytes(data))
    damaged += [bytes(generator.choices(range(0x80, 0x100), k=20)) for _ in range(500)]
    damaged += [b"\xed\xa0\x80\xed\xbf\xbf", b"\xf4\x90\x80\x80", b"\xe2\x82", b"\xf0\x9f\x98", b"\xc0\xaf", b"\xff\xfe"]
    return valid + [data.replace(b"\n", b"") for data in damaged]
