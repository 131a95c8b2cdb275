// Sets of code points out of the run-length tables, and UTF-8 by hand.
#include "data/tokenizer/unicode.h"

#include <simdjson.h>

#include <algorithm>

namespace fucina {
namespace {

#include "data/tokenizer/unicode_tables.inc"

constexpr std::string_view kCategories =
    "LuLlLtLmLoMnMcMeNdNlNoPcPdPsPePiPfPoSmScSkSoZsZlZpCcCfCoCnCs";
constexpr std::string_view kScripts[] = {"Han", "Hiragana", "Katakana", "Hangul"};

// Adds the runs whose index `wanted` accepts (format: make_unicode_tables.py).
template <class Wanted>
void add_runs(CodeSet& set, const char* runs, Wanted wanted) {
    uint32_t begin = 0;
    while (*runs) {
        const char letter = *runs++;
        const int index = letter <= 'Z' ? letter - 'A' : letter - 'a' + 26;
        uint32_t length = 0;
        while (*runs >= '0' && *runs <= '9')
            length = length * 10 + static_cast<uint32_t>(*runs++ - '0');
        length = std::max<uint32_t>(length, 1);
        if (wanted(index)) set.add(begin, begin + length - 1);
        begin += length;
    }
}

// How many bytes at `at` form a well-formed sequence; if none do, `valid` is false and the result
// is the length of the maximal ill-formed part.
size_t sequence_length(std::string_view text, size_t at, bool& valid) {
    const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[at + i]); };
    const uint8_t lead = byte(0);
    valid = lead < 0x80;
    if (lead < 0xC2 || lead > 0xF4) return 1;
    const size_t length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    // The second byte's range excludes overlong forms, surrogates and what lies above U+10FFFF.
    const uint8_t low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
    const uint8_t high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
    for (size_t i = 1; i < length; ++i) {
        if (at + i >= text.size()) return i;
        if (byte(i) < (i == 1 ? low : 0x80) || byte(i) > (i == 1 ? high : 0xBF)) return i;
    }
    valid = true;
    return length;
}

// Letters by shape or use that no category of letters or digits holds: the circled ones.
void add_other_alphabetic(CodeSet& set) {
    set.add(0x24B6, 0x24E9);
    set.add(0x1F130, 0x1F149);
    set.add(0x1F150, 0x1F169);
    set.add(0x1F170, 0x1F189);
}

CodeSet common_word_set() {
    CodeSet set;
    for (const char* name : {"L", "M", "Nd", "Nl", "Pc"}) set.unite(*property_set(name));
    add_other_alphabetic(set);
    return set;
}

}  // namespace

bool CodeSet::empty() const {
    return std::all_of(words_.begin(), words_.end(), [](uint64_t word) { return word == 0; });
}

void CodeSet::add(uint32_t first, uint32_t last) {
    for (uint32_t code = first; code <= last && code < kCodePoints;) {
        if (code % 64 == 0 && last - code >= 63) {
            words_[code / 64] = ~uint64_t{0};
            code += 64;
        } else {
            words_[code / 64] |= uint64_t{1} << (code % 64);
            ++code;
        }
    }
}

void CodeSet::unite(const CodeSet& other) {
    for (size_t i = 0; i < words_.size(); ++i) words_[i] |= other.words_[i];
}

void CodeSet::intersect(const CodeSet& other) {
    for (size_t i = 0; i < words_.size(); ++i) words_[i] &= other.words_[i];
}

void CodeSet::complement() {
    for (uint64_t& word : words_) word = ~word;
}

std::optional<CodeSet> property_set(std::string_view name) {
    CodeSet set;
    for (int i = 0; i < 4; ++i) {
        if (name != kScripts[i]) continue;
        add_runs(set, kScriptRuns, [&](int index) { return index == i + 1; });
        return set;
    }
    if (name.empty() || name.size() > 2) return std::nullopt;
    add_runs(set, kCategoryRuns, [&](int index) {
        return kCategories.substr(static_cast<size_t>(index) * 2, name.size()) == name;
    });
    if (set.empty()) return std::nullopt;
    return set;
}

CodeSet space_set() {
    CodeSet set = *property_set("Z");
    set.add(0x09, 0x0D);
    set.add(0x85);
    return set;
}

CodeSet word_set(bool in_brackets) {
    CodeSet set = common_word_set();
    if (in_brackets) return set;
    for (const uint32_t code : {0xB2, 0xB3, 0xB9, 0xBC, 0xBD, 0xBE}) set.add(code);
    return set;
}

CodeSet word_edge_set() {
    CodeSet set = common_word_set();
    set.add(0x200C, 0x200D);  // Join_Control
    return set;
}

CodeSet numeric_set() {
    CodeSet set = *property_set("N");
    set.add(0x11DE0, 0x11DE9);
    set.add(0x16FF4, 0x16FF6);
    return set;
}

void append_utf8(std::string& out, uint32_t code) {
    const auto put = [&](uint32_t byte) { out.push_back(static_cast<char>(byte)); };
    if (code < 0x80) return put(code);
    if (code < 0x800) {
        put(0xC0 | code >> 6);
    } else {
        if (code < 0x10000) {
            put(0xE0 | code >> 12);
        } else {
            put(0xF0 | code >> 18);
            put(0x80 | (code >> 12 & 63));
        }
        put(0x80 | (code >> 6 & 63));
    }
    put(0x80 | (code & 63));
}

bool is_valid_utf8(std::string_view text) {
    return simdjson::validate_utf8(text.data(), text.size());
}

std::string repair_utf8(std::string_view text) {
    std::string out;
    out.reserve(text.size() + 8);
    for (size_t at = 0; at < text.size();) {
        bool valid = false;
        const size_t length = sequence_length(text, at, valid);
        if (valid) {
            out.append(text.substr(at, length));
        } else {
            out.append("\xEF\xBF\xBD");
        }
        at += length;
    }
    return out;
}

}  // namespace fucina
