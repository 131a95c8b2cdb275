// utf8proc normalizes. The tokenizers library's own tables end at Unicode 9, so the marks that came
// later are kept apart here: it takes them for characters that neither combine nor move.
#include "data/tokenizer/normalizer.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstdlib>
#include <memory>

#include "data/tokenizer/unicode.h"
#include "kernels/error.h"

namespace fucina {
namespace {

CodeSet late_marks() {
    constexpr uint32_t ranges[][2] = {
        {0x7FD, 0x7FD},     {0x898, 0x89F},     {0x8CA, 0x8D3},     {0x9FE, 0x9FE},
        {0xC3C, 0xC3C},     {0xD3B, 0xD3C},     {0xEBA, 0xEBA},     {0x1715, 0x1715},
        {0x1ABF, 0x1ACE},   {0x1DF6, 0x1DFA},   {0xA82C, 0xA82C},   {0x10D24, 0x10D27},
        {0x10EAB, 0x10EAC}, {0x10EFD, 0x10EFF}, {0x10F46, 0x10F50}, {0x10F82, 0x10F85},
        {0x11070, 0x11070}, {0x1133B, 0x1133B}, {0x1145E, 0x1145E}, {0x11839, 0x1183A},
        {0x11930, 0x11930}, {0x11938, 0x11938}, {0x1193D, 0x1193E}, {0x11943, 0x11943},
        {0x119E0, 0x119E0}, {0x11A34, 0x11A34}, {0x11A47, 0x11A47}, {0x11A99, 0x11A99},
        {0x11D42, 0x11D42}, {0x11D44, 0x11D45}, {0x11D97, 0x11D97}, {0x11F41, 0x11F42},
        {0x16FF0, 0x16FF1}, {0x1E08F, 0x1E08F}, {0x1E130, 0x1E136}, {0x1E2AE, 0x1E2AE},
        {0x1E2EC, 0x1E2EF}, {0x1E4EC, 0x1E4EF},
    };
    CodeSet set;
    for (const auto& [first, last] : ranges) set.add(first, last);
    return set;
}

void append_normalized(std::string& out, std::string_view text, Normalizer::Form form) {
    if (text.empty()) return;
    const int compose = form == Normalizer::Form::nfc ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE;
    utf8proc_uint8_t* result = nullptr;
    const utf8proc_ssize_t length =
        utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                     static_cast<utf8proc_ssize_t>(text.size()), &result,
                     static_cast<utf8proc_option_t>(UTF8PROC_STABLE | compose));
    const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owner(result, &std::free);
    FUCINA_CHECK(length >= 0, "utf8proc: ", utf8proc_errmsg(length));
    out.append(reinterpret_cast<const char*>(result), static_cast<size_t>(length));
}

// Below U+0300 (first byte CC) everything is in form C; ASCII is in every form.
bool is_normal(std::string_view text, Normalizer::Form form) {
    const uint8_t limit = form == Normalizer::Form::nfc ? 0xCC : 0x80;
    return std::all_of(text.begin(), text.end(),
                       [&](char c) { return static_cast<uint8_t>(c) < limit; });
}

std::string normalize(std::string_view text, Normalizer::Form form) {
    if (is_normal(text, form)) return std::string(text);
    static const CodeSet late = late_marks();
    std::string out;
    out.reserve(text.size());
    size_t done = 0, length = 0;
    for (size_t at = 0; at < text.size(); at += length) {
        if (!late.contains(decode_utf8(text, at, length))) continue;
        append_normalized(out, text.substr(done, at - done), form);
        out.append(text.substr(at, length));
        done = at + length;
    }
    append_normalized(out, text.substr(done), form);
    return out;
}

}  // namespace

std::string Normalizer::apply(std::string_view text) const {
    std::string current(text);
    for (const Form form : forms_) current = normalize(current, form);
    return current;
}

}  // namespace fucina
