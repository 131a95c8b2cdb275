// The tokenizer on a small golden that the Hugging Face library made
// (tests/golden/tokenizer/make_golden.py), and on broken and hostile files. The live comparison
// with the library is tests/oracle/test_tokenizer.py.
#include "data/tokenizer/tokenizer.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "data/tokenizer/trainer.h"
#include "data/tokenizer/unicode.h"
#include "kernels/error.h"
#include "tests/support/expect_text.h"
#include "tests/support/temporary_directory.h"

namespace fucina {
namespace {

using nlohmann::json;
using Ids = std::vector<int32_t>;

const std::string kGolden = std::string(FUCINA_SOURCE_DIR) + "/tests/golden/tokenizer/";

std::string read(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

class TokenizerTest : public testing::Test {
  protected:
    std::string write(const std::string& text, const std::string& name = "tokenizer.json") {
        const std::string path = (directory_.path() / name).string();
        std::ofstream(path, std::ios::binary) << text;
        return path;
    }
    // The message of loading `text`, without the path that it begins with.
    std::string refusal(const std::string& text) {
        const std::string path = write(text);
        try {
            Tokenizer::load(path);
        } catch (const Error& error) {
            EXPECT_EQ(error.code(), ExitCode::data);
            const std::string message = error.what();
            EXPECT_TRUE(message.starts_with(path + ":")) << message;
            EXPECT_EQ(message.find('\n'), std::string::npos);
            return message.substr(path.size() + 1);
        }
        return "accepted";
    }
    std::string refusal_of_change(const std::string& pointer, const json& value) {
        json file = json::parse(read(kGolden + "tokenizer.json"));
        file[json::json_pointer(pointer)] = value;
        return refusal(file.dump());
    }
    std::string train(TokenizerTraining training) {
        return write(train_tokenizer(training).json, "trained.json");
    }

    TemporaryDirectory directory_;
};

TEST_F(TokenizerTest, AgreesWithTheGolden) {
    const Tokenizer tokenizer = Tokenizer::load(kGolden + "tokenizer.json");
    const json cases = json::parse(read(kGolden + "expected.json"));
    EXPECT_GT(cases.size(), 20u);
    for (const json& item : cases) {
        const auto text = item["text"].get<std::string>();
        const auto ids = item["ids"].get<Ids>();
        EXPECT_EQ(tokenizer.encode(text), ids) << text;
        EXPECT_EQ(tokenizer.decode(ids), item["decoded"].get<std::string>()) << text;
    }
}

TEST_F(TokenizerTest, KnowsItsTokens) {
    const Tokenizer tokenizer = Tokenizer::load(kGolden + "tokenizer.json");
    EXPECT_EQ(tokenizer.vocab_size(), 303);
    EXPECT_EQ(tokenizer.id_of("<eos>"), 0);
    EXPECT_EQ(tokenizer.id_of("no such token"), std::nullopt);
    EXPECT_EQ(tokenizer.ends().end, 0);  // the only special token
    EXPECT_EQ(tokenizer.hash().size(), 16u);
    EXPECT_EQ(tokenizer.decode(Ids{-1, 0, 303, 1 << 30}), "<eos>");
}

TEST_F(TokenizerTest, TokensStandForTheBytesOfTheirText) {
    const Tokenizer tokenizer = Tokenizer::load(kGolden + "tokenizer.json");
    const std::vector<int32_t> bytes = tokenizer.token_bytes();
    ASSERT_EQ(bytes.size(), 303u);
    EXPECT_EQ(bytes[0], 0) << "<eos> is special";
    const std::string text = "the theme of that hat, 中文 😀\n";  // a character over several tokens
    int64_t sum = 0;
    for (const int32_t id : tokenizer.encode(text + "<eos>")) sum += bytes[static_cast<size_t>(id)];
    EXPECT_EQ(sum, static_cast<int64_t>(text.size()));
}

TEST_F(TokenizerTest, TakesTheEosTokenFromTheConfiguration) {
    const std::string path = write(read(kGolden + "tokenizer.json"));
    write(R"({"eos_token": {"content": "<word>"}})", "tokenizer_config.json");
    const Tokenizer tokenizer = Tokenizer::load(path);
    EXPECT_EQ(tokenizer.ends().end, tokenizer.id_of("<word>"));
    write(R"({"eos_token": "<left>"})", "tokenizer_config.json");
    EXPECT_EQ(Tokenizer::load(path).ends().end, tokenizer.id_of("<left>"));
    write(R"({"eos_token": null})", "tokenizer_config.json");
    EXPECT_EQ(Tokenizer::load(path).ends().end, 0);  // says nothing
    write(R"({"eos_token": 7})", "tokenizer_config.json");
    EXPECT_THROW(Tokenizer::load(path), Error);
}

TEST_F(TokenizerTest, RepairsInvalidUtf8AsPythonDoes) {
    EXPECT_EQ(repair_utf8("a\xED\xA0\x80z"), "a���z");       // a surrogate: three parts
    EXPECT_EQ(repair_utf8("\xE2\x82z\xF0\x9F\x98"), "�z�");  // cut short: one part each
    EXPECT_EQ(repair_utf8("\xF4\x90\x80\x80\xC0\xAF"), "������");
    EXPECT_EQ(repair_utf8("é中😀"), "é中😀");
    const Tokenizer tokenizer = Tokenizer::load(kGolden + "tokenizer.json");
    EXPECT_EQ(tokenizer.encode("the \xFF"), tokenizer.encode("the �"));
}

TEST_F(TokenizerTest, ManyThreadsShareOne) {
    const Tokenizer tokenizer = Tokenizer::load(kGolden + "tokenizer.json");
    const std::string text = "the theme of that <left> hat, 中文 e\u0301 " + std::string(500, 'h');
    const Ids wanted = tokenizer.encode(text);
    std::vector<std::thread> threads;
    std::array<bool, 4> same{};
    for (bool& ok : same) {
        threads.emplace_back([&] {
            ok = true;
            for (int i = 0; i < 50; ++i) ok = ok && tokenizer.encode(text) == wanted;
        });
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(same, (std::array{true, true, true, true}));
}

TEST_F(TokenizerTest, RefusesOtherKindsOfFile) {
    EXPECT_THROW(Tokenizer::load((directory_.path() / "missing.json").string()), Error);
    EXPECT_THROW(Tokenizer::load(directory_.path().string()), Error);
    EXPECT_CONTAINS(refusal(""), "1:1: not valid JSON: it ends too early");
    EXPECT_CONTAINS(refusal("{}"), "missing \"model\", at the top");
    EXPECT_CONTAINS(refusal("[1]"), "expected an object, at the top");
    EXPECT_CONTAINS(refusal("{\n \"model\": tru }"), "2:11: not valid JSON: a value is expected");
    EXPECT_CONTAINS(refusal("\x89PNG\r\n"), "1:1: not valid JSON");
    EXPECT_CONTAINS(refusal(std::string(1000, '[') + std::string(1000, ']')),
                    "not valid JSON: nested deeper than 64 levels");
    EXPECT_CONTAINS(refusal_of_change("/model/type", "Unigram"),
                    "model type \"Unigram\" is not supported");
    EXPECT_CONTAINS(refusal_of_change("/model/dropout", 0.1), "at model.dropout");
    EXPECT_CONTAINS(refusal_of_change("/model/end_of_word_suffix", "</w>"),
                    "at model.end_of_word_suffix");
    EXPECT_CONTAINS(refusal_of_change("/normalizer/type", "NFKC"), "\"NFKC\" is not supported");
    EXPECT_CONTAINS(refusal_of_change("/decoder/type", "WordPiece"), "at decoder");
    EXPECT_CONTAINS(refusal_of_change("/pre_tokenizer", nullptr), "not a byte-level tokenizer");
    EXPECT_CONTAINS(refusal_of_change("/pre_tokenizer/pretokenizers/0/pattern/Regex", "(a"),
                    "a group without its ) at byte 2 of the pattern, at "
                    "pre_tokenizer.pretokenizers[0].pattern");
    EXPECT_CONTAINS(refusal_of_change("/pre_tokenizer/pretokenizers/1/behavior", "Joined"),
                    "\"Joined\"");
}

TEST_F(TokenizerTest, RefusesBrokenVocabularies) {
    EXPECT_CONTAINS(refusal_of_change("/model/merges/3", json::array({"zz", "t"})),
                    "\"zz\" is not in the vocabulary, at model.merges[3]");
    EXPECT_CONTAINS(refusal_of_change("/model/merges/0", "a b c"), "one space between");
    EXPECT_CONTAINS(refusal_of_change("/model/merges/0", json::array({"a"})),
                    "expected a pair of tokens, found 1");
    EXPECT_CONTAINS(refusal_of_change("/model/vocab/a", -1), "the id of \"a\"");
    EXPECT_CONTAINS(refusal_of_change("/model/vocab/a", 1e9), "the id of \"a\"");
    EXPECT_CONTAINS(refusal_of_change("/model/vocab/a", 5), "id 5 belongs to two tokens");
    EXPECT_CONTAINS(refusal_of_change("/model/vocab", 5), "expected an object, at model.vocab");
    EXPECT_CONTAINS(refusal_of_change("/added_tokens/1/lstrip", "yes"),
                    "at added_tokens[1].lstrip");
    EXPECT_CONTAINS(refusal_of_change("/added_tokens/1/content", std::string(5000, 'a')),
                    "a token of 5000 bytes");
}

TEST_F(TokenizerTest, AnyTruncationAndAnyFlippedByteIsAnErrorOrATokenizer) {
    const std::string whole = read(kGolden + "tokenizer.json");
    ASSERT_GT(whole.size(), 1000u);
    for (size_t size = 0; size + 1 < whole.size(); size += 97)
        EXPECT_NE(refusal(whole.substr(0, size)), "accepted");
    uint32_t state = 1;
    for (int i = 0; i < 400; ++i) {
        std::string text = whole;
        for (int flips = 0; flips < 3; ++flips) {
            state = state * 1664525 + 1013904223;
            text[(state >> 8) % text.size()] = static_cast<char>(state >> 24);
        }
        const std::string path = write(text);
        try {
            Tokenizer::load(path).encode("the cat <left> 123 中文\xFF");
        } catch (const Error& error) {
            EXPECT_EQ(error.code(), ExitCode::data) << error.what();
        }
    }
}

// The definition of BPE training, recounted from nothing at every step.
std::vector<std::pair<std::string, std::string>> naive_merges(
    std::vector<std::vector<int32_t>> words, std::vector<std::string> tokens, size_t vocab_size) {
    std::vector<std::pair<std::string, std::string>> merges;
    while (tokens.size() < vocab_size) {
        std::map<std::pair<int32_t, int32_t>, int64_t> counts;
        for (const auto& word : words) {
            for (size_t i = 0; i + 1 < word.size(); ++i) ++counts[{word[i], word[i + 1]}];
        }
        auto best = counts.begin();
        for (auto it = counts.begin(); it != counts.end(); ++it) {
            if (it->second > best->second) best = it;
        }
        if (best == counts.end() || best->second < 2) break;
        const auto [left, right] = best->first;
        const std::string text =
            tokens[static_cast<size_t>(left)] + tokens[static_cast<size_t>(right)];
        auto id =
            static_cast<int32_t>(std::find(tokens.begin(), tokens.end(), text) - tokens.begin());
        if (static_cast<size_t>(id) == tokens.size()) tokens.push_back(text);
        merges.emplace_back(tokens[static_cast<size_t>(left)], tokens[static_cast<size_t>(right)]);
        for (auto& word : words) {
            for (size_t i = 0; i + 1 < word.size(); ++i) {
                if (word[i] != left || word[i + 1] != right) continue;
                word[i] = id;
                word.erase(word.begin() + static_cast<std::ptrdiff_t>(i) + 1);
            }
        }
    }
    return merges;
}

TEST_F(TokenizerTest, TrainingFollowsTheDefinition) {
    // One letter-only word a line of text, so that words are known without a pre-tokenizer: "x" and
    // "\n" alternate.
    uint32_t state = 9;
    std::string text;
    std::vector<std::vector<int32_t>> words;
    for (int i = 0; i < 400; ++i) {
        words.emplace_back();
        for (int length = 1 + i % 9; length > 0; --length) {
            state = state * 1664525 + 1013904223;
            const char letter = "aabc"[state >> 30];
            text += letter;
            words.back().push_back(1 + letter);
        }
        text += '\n';
    }
    std::vector<std::string> tokens{"<|endoftext|>"};
    const json vocab = json::parse(
        train_tokenizer({.inputs = {write("a")}, .vocab_size = 257}).json)["model"]["vocab"];
    tokens.resize(257);
    for (const auto& [token, id] : vocab.items()) tokens[id.get<size_t>()] = token;
    const auto wanted = naive_merges(words, tokens, 330);
    EXPECT_GT(wanted.size(), 60u);
    const TokenizerTraining training{.inputs = {write(text, "text.txt")}, .vocab_size = 330};
    const TrainedTokenizer trained = train_tokenizer(training);
    EXPECT_EQ(json::parse(trained.json)["model"]["merges"], json(wanted));
    EXPECT_EQ(trained.vocab_size, 330);
    EXPECT_EQ(train_tokenizer(training).json, trained.json);
}

TEST_F(TokenizerTest, TrainedTokenizerRoundTrips) {
    const std::string text =
        "It's the theme<|endoftext|>of the <|endoftext|> other théâtre.\n\n  12345 \xFF";
    const std::string path =
        train({.inputs = {write(text, "text.txt")}, .vocab_size = 280, .broken_limit = 0.1});
    const Tokenizer tokenizer = Tokenizer::load(path);
    EXPECT_EQ(tokenizer.ends().end, 0);
    const Ids ids = tokenizer.encode(text);
    EXPECT_EQ(std::count(ids.begin(), ids.end(), 0), 2);
    EXPECT_EQ(tokenizer.decode(ids), repair_utf8(text));
    const std::string custom = train(
        {.inputs = {write(text, "text.txt")}, .vocab_size = 280, .eos = "th", .broken_limit = 0.1});
    EXPECT_EQ(Tokenizer::load(custom).ends().end, 0);
    EXPECT_EQ(Tokenizer::load(custom).encode("th"), Ids{0});
}

TEST_F(TokenizerTest, TrainingRefusesImpossibleSettings) {
    const std::string input = write("some text");
    EXPECT_THROW(train_tokenizer({.inputs = {input}, .vocab_size = 256}), Error);
    EXPECT_THROW(train_tokenizer({.inputs = {input}, .vocab_size = 300, .eos = "x"}), Error);
    EXPECT_THROW(train_tokenizer({.inputs = {}, .vocab_size = 300}), Error);
    EXPECT_THROW(train_tokenizer({.inputs = {write("")}, .vocab_size = 300}), Error);
    EXPECT_THROW(train_tokenizer({.inputs = {directory_.path() / "missing"}, .vocab_size = 300}),
                 Error);
    EXPECT_EQ(train_tokenizer({.inputs = {write("ab")}, .vocab_size = 300}).vocab_size, 257);
}

}  // namespace
}  // namespace fucina
