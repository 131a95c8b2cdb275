// From text to stores: hostile JSONL, text cut into segments, any number of threads, the cache.
#include "data/prepare.h"

#include <gtest/gtest.h>

#include <fstream>
#include <mutex>

#include "data/source.h"
#include "data/token_store.h"
#include "kernels/error.h"
#include "tests/support/expect_text.h"
#include "tests/support/temporary_directory.h"

namespace fucina {
namespace {

constexpr int32_t kEos = 300;

// Bytes are ids, but a line feed and a following "T" are one token, so some cuts would be wrong.
TextTokenizer byte_tokenizer() {
    return {.encode =
                [](std::string_view text, std::vector<int32_t>& ids) {
                    for (size_t i = 0; i < text.size(); ++i) {
                        const bool merge = text.substr(i, 2) == "\nT";
                        ids.push_back(merge ? 256 : static_cast<unsigned char>(text[i]));
                        if (merge) ++i;
                    }
                },
            .vocab_size = 301,
            .hash = "bytes",
            .end = kEos};
}

std::vector<std::vector<int32_t>> documents_of(const TokenStore& store) {
    std::vector<int64_t> offsets(static_cast<size_t>(store.documents()) + 1);
    store.read_offsets(0, offsets);
    std::vector<std::vector<int32_t>> out;
    for (size_t d = 0; d + 1 < offsets.size(); ++d) {
        out.emplace_back(static_cast<size_t>(offsets[d + 1] - offsets[d]));
        store.read_tokens(offsets[d], out.back());
    }
    return out;
}

// A document back as text; the two special tokens show as "<eos>" and "<LF T>".
std::string text_of(const std::vector<int32_t>& ids) {
    std::string text;
    for (const int32_t id : ids) {
        if (id == kEos)
            text += "<eos>";
        else if (id == 256)
            text += "<LF T>";
        else
            text += static_cast<char>(id);
    }
    return text;
}

class Prepare : public testing::Test {
  protected:
    std::vector<std::string> run(const std::string& name, const std::string& bytes,
                                 PrepareOptions options = {}) {
        std::ofstream(directory_.path() / name, std::ios::binary) << bytes;
        options.input = directory_.path() / name;
        options.output = directory_.path() / "out.h5";
        options.format = source_format("", options.input);
        report_ = prepare(options, byte_tokenizer());
        const TokenStore store = TokenStore::open(options.output);
        store.verify();
        EXPECT_EQ(store.tokens(), report_.tokens);
        EXPECT_EQ(store.tokenizer_hash(), "bytes");
        std::vector<std::string> texts;
        for (const auto& ids : documents_of(store)) texts.push_back(text_of(ids));
        return texts;
    }

    std::string refusal(const std::string& name, const std::string& bytes,
                        PrepareOptions options = {}) {
        std::filesystem::remove(directory_.path() / "out.h5");
        try {
            run(name, bytes, options);
            return "";
        } catch (const Error& error) {
            EXPECT_FALSE(std::filesystem::exists(directory_.path() / "out.h5"));
            const std::string message = error.what();
            return message.substr(message.find(name));
        }
    }

    TemporaryDirectory directory_;
    PrepareReport report_;
};

TEST_F(Prepare, TextIsOneDocument) {
    EXPECT_EQ(run("a.txt", "\xef\xbb\xbfone\ntwo\r\n\n"),
              (std::vector<std::string>{"one\ntwo\r\n\n<eos>"}));
    EXPECT_EQ(report_.broken_bytes, 0);
    EXPECT_EQ(run("a.txt", std::string("a\0b\xff", 4), {.append_eos = false, .broken_limit = 0.25}),
              (std::vector<std::string>{std::string("a\0b\xff", 4)}));
    EXPECT_EQ(report_.broken_bytes, 1);
    EXPECT_EQ(refusal("b.txt", ""), "b.txt: is empty");
}

TEST_F(Prepare, JsonLinesAreDocuments) {
    EXPECT_EQ(run("a.jsonl",
                  "\xef\xbb\xbf{\"text\": \"one\", \"meta\": {\"x\": [1]}}\r\n\n \n"
                  "{\"meta\": 1, \"text\": \"t\\u00e8\\nwo\\ud83d\\ude00\\u0000\"}"),
              (std::vector<std::string>{"one<eos>", std::string("tè\nwo😀\0", 11) + "<eos>"}));
    EXPECT_EQ(report_.records, 2);
    EXPECT_EQ(report_.bad_lines(), 0);
}

TEST_F(Prepare, BrokenLinesAreSkippedCountedAndListed) {
    const std::vector<std::string> lines = {
        "\xef\xbb\xbf{\"text\": \"first\"}",
        "{\"text\": \"cut",  // 2 bad JSON
        "{\"text\": \"good one\"}",
        "not json",                                        // 4 bad JSON
        "{\"text\": \"\xff\xfe\"}",                        // 5 bad UTF-8
        "{\"text\": \"\\ud800\"}",                         // 6 bad JSON: half a surrogate pair
        "{\"text\": \"\\udc00 x\"}",                       // 7 bad JSON: the other half
        "{\"body\": \"x\"}",                               // 8 no text
        "[\"text\"]",                                      // 9 no text
        "{\"text\": 5}",                                   // 10 not a string
        "{\"text\": null}",                                // 11 not a string
        "{\"text\": \"\"}",                                // 12 empty
        "{\"text\": \"x\"} trailing",                      // 13 bad JSON
        std::string("{\"text\": \"a\0b\"}", 15),           // 14 bad JSON: raw NUL
        "",                                                // 15 blank, no record
        "{\"text\": \"" + std::string(5000, 'x') + "\"}",  // 16 too long
        "{\"text\": \"good two\"}",
        std::string(2000, '['),  // 18 bad JSON
        "{\"text\": \"good three\\u0000\"}",
        "{\"text\": \"truncated last li",  // 20 bad JSON
    };
    std::string hostile;
    for (const auto& line : lines) hostile += line + (&line == &lines.back() ? "" : "\n");
    const std::vector<std::string> clean =
        run("clean.jsonl", lines[0] + "\n" + lines[2] + "\n" + lines[16] + "\n" + lines[18]);
    for (const int64_t block_bytes : {16, 64, 1000, 1 << 20}) {
        const auto kept = run(
            "hostile.jsonl", hostile,
            {.broken_limit = 0.9, .blocks = {.block_bytes = block_bytes, .longest_line = 4000}});
        EXPECT_EQ(kept, clean) << block_bytes;
        EXPECT_EQ(report_.records, 19);
        EXPECT_EQ(
            report_.bad_summary(),
            "8 bad JSON, 1 bad UTF-8, 1 no object, 1 no \"text\", 2 \"text\" is not a string, "
            "1 empty text, 1 line too long");
        EXPECT_CONTAINS(report_.first_bad[0],
                        "hostile.jsonl:2:14: not valid JSON: it ends too early");
        EXPECT_CONTAINS(report_.first_bad.back(),
                        "hostile.jsonl:20:28: not valid JSON: it ends too early");
        EXPECT_CONTAINS(report_.first_bad[5], "hostile.jsonl:8: no \"text\", but \"body\"");
        EXPECT_CONTAINS(report_.first_bad[12], "hostile.jsonl:16: line too long");
    }
    EXPECT_CONTAINS(refusal("hostile.jsonl", hostile), "lines are broken (");
}

TEST_F(Prepare, OneBrokenLineInAThousandIsAllowedAndNoMore) {
    std::string text;
    for (int i = 0; i < 999; ++i) text += "{\"text\": \"ab\"}\n";
    EXPECT_EQ(run("a.jsonl", text + "broken\n").size(), 999u);
    EXPECT_EQ(
        refusal("b.jsonl", text.substr(15) + "broken\n"),
        "b.jsonl: 1 of 999 lines are broken (1 bad JSON; first: " +
            (directory_.path() / "b.jsonl").string() +
            ":999:1: not valid JSON: a value is expected; `fucina data check` lists all), more "
            "than 0.1 %; mend them, or go on without them by data.broken_limit = 0.002 "
            "(--broken-limit 0.002)");
    EXPECT_EQ(run("d.jsonl", text.substr(15) + "broken\n", {.broken_limit = 0.002}).size(), 998u);
    EXPECT_EQ(refusal("c.jsonl", "\n \n"), "c.jsonl: holds no text");
}

TEST_F(Prepare, JsonLinesAreReadAsPythonReadsThem) {
    EXPECT_EQ(run("a.jsonl",
                  "{\"text\": \"first\", \"id\": 123456789012345678901234567890, \"x\": 1e999, "
                  "\"text\": \"second\"}\n"
                  "{\"loss\": NaN, \"to\": [-Infinity, Infinity], \"text\": \"third\"}\n"
                  "{\"text\": \"not this\", \"te\\u0078t\": \"fourth\"}\n"
                  "{\"text\": \"not this\", \"n\": NaN, \"te\\u0078t\": \"fifth\"}\n"),
              (std::vector<std::string>{"second<eos>", "third<eos>", "fourth<eos>", "fifth<eos>"}));
    EXPECT_EQ(report_.bad_lines(), 0);
    EXPECT_CONTAINS(refusal("b.jsonl", "{\"text\": 'x'}\n"),
                    "b.jsonl:1:10: not valid JSON: strings");
    EXPECT_CONTAINS(refusal("b.jsonl", "{\"x\": NaN, \"text\": 5}\n"), "\"text\" is not a string");
    EXPECT_CONTAINS(refusal("b.jsonl", "{\"content\": \"a\", \"id\": 3}\n"),
                    "b.jsonl:1: no \"text\", but \"content\", \"id\"");
}

TEST_F(Prepare, WhatIsNoTextOrNoLinesIsNamed) {
    const std::string prose = "Iron is worked while it is hot. ";
    std::string wide, wide_big;
    for (const char c : prose) wide += {c, '\0'}, wide_big += {'\0', c};
    const std::vector<std::pair<std::string, std::string>> cases = {
        {"\x1f\x8b\x08 and more", "is gzip, not UTF-8 text; gunzip"},
        {"\x28\xb5\x2f\xfd and more", "is zstd"},
        {std::string("\xfd\x37zXZ\0 and more", 15), "is xz"},
        {"BZh91AY", "is bzip2"},
        {"PK\x03\x04 and more", "is a ZIP archive"},
        {"%PDF-1.7", "is PDF"},
        {"\xff\xfe" + wide, "is UTF-16, not UTF-8 text; iconv -f UTF-16"},
        {"\xfe\xff" + wide_big, "is UTF-16"},
        {std::string("\xff\xfe\0\0", 4) + wide, "is UTF-32"},
        {wide, "looks like UTF-16LE"},
        {wide_big, "looks like UTF-16BE"},
        {prose + std::string(40, '\0'), "is binary, not text: 40 of the first 72 bytes are zero"},
    };
    for (const auto& [bytes, words] : cases) {
        for (const char* name : {"a.txt", "a.jsonl"})
            EXPECT_CONTAINS(refusal(name, bytes), name + (": " + words));
    }
    std::string latin;
    for (int i = 0; i < 20; ++i) latin += prose + "caf\xe9 ";
    EXPECT_CONTAINS(refusal("a.txt", latin), "a.txt: 20 of 740 bytes are not UTF-8");
    EXPECT_CONTAINS(refusal("a.jsonl", "[{\"text\": \"x\"}, {\"text\": \"y\"}]"),
                    "is a JSON array");
    EXPECT_CONTAINS(refusal("a.jsonl", "[\n  {\"text\": \"x\"},\n{\"text\": \"y\"}\n]"),
                    "is a JSON array");
    EXPECT_CONTAINS(refusal("a.jsonl", "{\n  \"text\": \"x\"\n}"), "goes over several lines");
    EXPECT_CONTAINS(refusal("a.jsonl", "{\"id\": 3,\n  \"text\": \"x\"}"),
                    "goes over several lines");
}

TEST_F(Prepare, ALineOf100MegabytesIsSkippedInBoundedMemory) {
    std::string text = "{\"text\": \"a\"}\n{\"text\": \"";
    text += std::string(100'000'000, 'x') + "\"}\n{\"text\": \"b\"}\n";
    EXPECT_EQ(run("a.jsonl", text, {.broken_limit = 1}),
              (std::vector<std::string>{"a<eos>", "b<eos>"}));
    EXPECT_EQ(report_.bad_summary(), "1 line too long");
    EXPECT_CONTAINS(report_.first_bad[0], "a.jsonl:2: line too long");
}

TEST_F(Prepare, SegmentsAndThreadsDoNotChangeTheIds) {
    std::string text, lines;
    for (int i = 0; i < 3000; ++i) {
        // Every second line begins with a letter at which the tokenizer has no boundary.
        const std::string line = (i % 2 ? "The è number " : "a number ") + std::to_string(i * i);
        text += line + "\n";
        lines += "{\"text\": \"" + line + "\\n" + line + "\"}\n";
    }
    for (const auto& [name, bytes] : {std::pair("a.txt", text), std::pair("a.jsonl", lines)}) {
        const auto whole = run(name, bytes, {.threads = 1, .blocks = {.block_bytes = 1 << 30}});
        EXPECT_EQ(whole.size(), bytes == text ? 1u : 3000u);
        if (bytes == text) {
            EXPECT_CONTAINS(whole[0], "a number 4<LF T>he è number 9\na number 16<LF T>he");
        }
        for (const int64_t threads : {1, 2, 5}) {
            int64_t calls = 0;
            PrepareOptions options{.threads = threads, .blocks = {.block_bytes = 1000}};
            options.progress = [&](const PrepareProgress& progress) {
                ++calls;
                EXPECT_LE(progress.bytes, progress.total_bytes);
            };
            EXPECT_EQ(run(name, bytes, options), whole);
            EXPECT_GT(calls, 1);
        }
    }
}

TEST_F(Prepare, SegmentsStaySmallInAnyScriptAndWithoutLines) {
    for (const std::string unit :
         {"东京都是日本的首都。\n", "word and more words, ", "123 \n45 \n"}) {
        std::string text, joined;
        while (text.size() < 100'000) text += unit;
        std::ofstream(directory_.path() / "a.txt", std::ios::binary) << text;
        const auto reader = read_segments(directory_.path() / "a.txt", {.block_bytes = 4000},
                                          byte_tokenizer().encode);
        for (TextBlock block; reader->next(block);) {
            EXPECT_LE(block.bytes.size(), 5000u) << unit;
            joined += block.bytes;
        }
        EXPECT_EQ(joined, text);
    }
}

TEST_F(Prepare, TextWithoutAnyBoundaryIsEncodedWhole) {
    std::string text, expected;
    for (int i = 0; i < 1000; ++i) {
        text += "T\nT";
        expected += "T<LF T>";
    }
    EXPECT_EQ(run("a.txt", text, {.blocks = {.block_bytes = 500}}),
              (std::vector<std::string>{expected + "<eos>"}));
}

TEST_F(Prepare, AFailingTokenizerFailsThePreparation) {
    TextTokenizer tokenizer = byte_tokenizer();
    tokenizer.encode = [](std::string_view, std::vector<int32_t>&) {
        fail(ExitCode::internal, "tokenizer broke");
    };
    std::ofstream(directory_.path() / "a.jsonl") << "{\"text\": \"a\"}\n";
    EXPECT_THROW(prepare({.input = directory_.path() / "a.jsonl",
                          .output = directory_.path() / "out.h5",
                          .format = SourceFormat::jsonl},
                         tokenizer),
                 Error);
    tokenizer = byte_tokenizer();
    tokenizer.end.reset();
    try {
        prepare({.input = directory_.path() / "a.jsonl",
                 .output = directory_.path() / "out.h5",
                 .format = SourceFormat::jsonl},
                tokenizer);
        FAIL() << "no error";
    } catch (const Error& error) {
        EXPECT_EQ(error.code(), ExitCode::usage);
        EXPECT_CONTAINS(error.what(), "names no end-of-text token");
    }
}

TEST_F(Prepare, TokensAreTakenAsTheyAre) {
    EXPECT_EQ(run("a.json", "[[97, 98], [], [99, 300]]"),
              (std::vector<std::string>{"ab", "", "c<eos>"}));
    EXPECT_EQ(refusal("b.json", "[[97], [301]]"),
              "b.json: list 1, position 0: id 301 is beyond the vocabulary of 301");
}

TEST_F(Prepare, TheCacheIsUsedOnlyForTheSameContentTokenizerAndOptions) {
    const auto path = directory_.path() / "a.txt", cache = directory_.path() / "cache" / "deep";
    std::ofstream(path) << "some text";
    PrepareOptions options{.input = path, .format = SourceFormat::text};
    TextTokenizer tokenizer = byte_tokenizer();
    const PreparedText first = prepare_text(options, tokenizer, cache);
    EXPECT_TRUE(first.report.has_value());
    const PreparedText second = prepare_text(options, tokenizer, cache);
    EXPECT_FALSE(second.report.has_value());
    EXPECT_EQ(second.store, first.store);

    // A damaged store is made again.
    {
        std::fstream damage(first.store, std::ios::in | std::ios::out | std::ios::binary);
        damage.seekp(-1, std::ios::end);
        damage.put('\x7f');
    }
    EXPECT_TRUE(prepare_text(options, tokenizer, cache).report.has_value());
    EXPECT_FALSE(prepare_text(options, tokenizer, cache).report.has_value());

    tokenizer.hash = "other";
    EXPECT_NE(prepare_text(options, tokenizer, cache).store, first.store);
    tokenizer = byte_tokenizer();
    options.append_eos = false;
    EXPECT_NE(prepare_text(options, tokenizer, cache).store, first.store);
    options.append_eos = true;
    std::ofstream(path) << "some texT";
    EXPECT_NE(prepare_text(options, tokenizer, cache).store, first.store);
}

std::string open_refusal(const SourceOptions& options, ExitCode code) {
    try {
        open_source(options);
        return "";
    } catch (const Error& error) {
        EXPECT_EQ(error.code(), code);
        return error.what();
    }
}

TEST_F(Prepare, SourcesOpenInEveryFormat) {
    const TextTokenizer tokenizer = byte_tokenizer();
    SourceOptions options{
        .vocab_size = 400, .tokenizer = &tokenizer, .cache_directory = directory_.path() / "cache"};
    run("a.txt", "abc");
    options.prepare = {.input = directory_.path() / "a.txt", .format = SourceFormat::text};
    const OpenedSource text = open_source(options);
    EXPECT_TRUE(text.report.has_value());
    options.prepare = {.input = directory_.path() / "out.h5", .format = SourceFormat::store};
    EXPECT_EQ(documents_of(*open_source(options).store), documents_of(*text.store));
    std::ofstream(directory_.path() / "a.json") << "[[97, 98, 99, 300]]";
    options.prepare = {.input = directory_.path() / "a.json", .format = SourceFormat::tokens};
    EXPECT_EQ(documents_of(*open_source(options).store), documents_of(*text.store));
    options.vocab_size = 300;
    EXPECT_CONTAINS(open_refusal(options, ExitCode::data), "position 3: id 300 is beyond");
    options.prepare = {.input = directory_.path() / "out.h5", .format = SourceFormat::store};
    EXPECT_CONTAINS(open_refusal(options, ExitCode::data),
                    "made for a vocabulary of 301, the model has 300");
    options.vocab_size = 400;
    TextTokenizer other = tokenizer;
    other.hash = "other";
    options.tokenizer = &other;
    EXPECT_CONTAINS(open_refusal(options, ExitCode::data), "made with tokenizer bytes, the run");
    options.tokenizer = nullptr;
    EXPECT_EQ(open_refusal(options, ExitCode::data), "");
    options.prepare = {.input = directory_.path() / "a.txt", .format = SourceFormat::text};
    EXPECT_CONTAINS(open_refusal(options, ExitCode::usage), "text needs a tokenizer");
}

TEST(SourceFormat, ByNameOrByEnding) {
    EXPECT_EQ(source_format("jsonl", "x.txt"), SourceFormat::jsonl);
    EXPECT_EQ(source_format("", "x.h5"), SourceFormat::store);
    EXPECT_THROW(source_format("csv", "x.txt"), Error);
    EXPECT_THROW(source_format("", "x.csv"), Error);
}

}  // namespace
}  // namespace fucina
