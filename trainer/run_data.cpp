#include "trainer/run_data.h"

#include <fmt/format.h>

#include <functional>
#include <optional>

#include "data/conversation.h"
#include "data/source.h"
#include "data/supervision.h"
#include "kernels/error.h"
#include "kernels/runtime.h"
#include "parallel/agreement.h"

namespace fucina {
namespace {

using Sources = google::protobuf::RepeatedPtrField<Source>;

constexpr const char* kDefaultCache = ".fucina-cache";

class Opener {
  public:
    Opener(const Recipe& recipe, int64_t vocab_size, Console& console)
        : recipe_(recipe), vocab_size_(vocab_size), console_(console) {
        const std::string& path = recipe.data().tokenizer();
        if (path.empty()) return;
        tokenizer_.emplace(Tokenizer::load(path));
        if (tokenizer_->vocab_size() > vocab_size) {
            fail(ExitCode::usage, path, ": the tokenizer has ", tokenizer_->vocab_size(),
                 " ids, model.vocab_size is ", vocab_size);
        }
        chat_ = ChatFormat::find(path, recipe.data().chat_template());
        if (!chat_ && !recipe.model().from().empty())
            chat_ = ChatFormat::find(
                std::filesystem::path(recipe.model().from()) / "tokenizer.json", "");
        ends_ = tokenizer_->ends({.begin = recipe.data().begin_token(),
                                  .end = recipe.data().end_token(),
                                  .chat_template = chat_ ? chat_->source() : ""});
        console_.line(ends_->note);
    }

    const std::optional<Tokenizer>& tokenizer() const { return tokenizer_; }
    const std::optional<TextEnds>& ends() const { return ends_; }
    const std::optional<ChatFormat>& chat() const { return chat_; }

    // Encodes all text into the cache, where the other ranks then find it.
    void prepare_text() {
        for (const Sources* sources : {&recipe_.data().train(), &recipe_.data().valid()}) {
            for (const Source& source : *sources) {
                const SourceFormat format = source_format(source.format(), source.path());
                if (format == SourceFormat::text || format == SourceFormat::jsonl) open(source);
            }
        }
    }

    std::unique_ptr<BatchLoader> open(const Sources& sources) {
        if (sources.empty()) return nullptr;
        std::vector<BlendSource> blend;
        for (const Source& source : sources) blend.push_back({open(source), source.weight()});
        LoaderOptions options;
        options.sequence_length = recipe_.data().sequence_length();
        options.shuffle = recipe_.data().shuffle();
        options.seed = static_cast<uint64_t>(recipe_.train().seed());
        return std::make_unique<BatchLoader>(std::move(blend), options);
    }

  private:
    std::shared_ptr<const TokenStore> open(const Source& source) {
        std::optional<TextTokenizer> text;
        if (tokenizer_) text = text_tokenizer(*tokenizer_, *ends_, chat_);
        SourceOptions options;
        options.prepare.input = source.path();
        options.prepare.format = source_format(source.format(), source.path());
        options.prepare.append_eos = recipe_.data().append_eos();
        options.prepare.broken_limit = recipe_.data().broken_limit();
        options.prepare.threads = runtime().threads;
        options.prepare.progress = [&](const PrepareProgress& now) {
            console_.progress(fmt::format("preparing {}: {} of {} bytes, {} tokens", source.path(),
                                          now.bytes, now.total_bytes, now.tokens));
        };
        options.vocab_size = vocab_size_;
        options.tokenizer = text ? &*text : nullptr;
        options.cache_directory = cache();
        const OpenedSource opened = open_source(options);
        if (opened.report) report(source, *opened.report);
        return opened.store;
    }

    // data.cache; where that is the default and cannot be written, a place beside the run's
    // directory, or without one that of temporary files.
    std::filesystem::path cache() {
        if (!cache_.empty()) return cache_;
        const std::string& wanted = recipe_.data().cache();
        cache_ = wanted.empty() ? kDefaultCache : wanted;
        if (cache_ != kDefaultCache || can_hold_files(cache_)) return cache_;
        const std::string& run = recipe_.run().dir();
        std::filesystem::path other = run.empty()
                                          ? std::filesystem::temp_directory_path() / "fucina-cache"
                                          : std::filesystem::path(run + ".cache");
        console_.line(concat("note     ", cache_.string(),
                             " cannot be written here; encoded text is kept in ", other.string(),
                             " (data.cache names another place)"));
        return cache_ = std::move(other);
    }

    void report(const Source& source, const PrepareReport& report) {
        console_.line(fmt::format("prepared {}: {} documents, {} tokens", source.path(),
                                  report.documents, report.tokens));
        if (report.kind && report.kind->first != RowKind::text)
            console_.line(concat("  rows of ", name_of(report.kind->first), ", by their keys",
                                 chat_ ? "; chat template: " + chat_->from() : ""));
        for (const std::string& note : report.notes()) console_.line("  " + note);
    }

    const Recipe& recipe_;
    const int64_t vocab_size_;
    Console& console_;
    std::optional<Tokenizer> tokenizer_;
    std::optional<TextEnds> ends_;
    std::optional<ChatFormat> chat_;
    std::filesystem::path cache_;
};

void describe(const Sources& sources, const BatchLoader& loader, std::vector<std::string>& lines) {
    for (int i = 0; i < sources.size(); ++i) {
        const PackedStore& packed = loader.source(i);
        lines.push_back(
            fmt::format("  {:<32} {:>10} documents {:>12} tokens {:>9} sequences  weight {:g}",
                        sources[i].path(), packed.store().documents(), packed.store().tokens(),
                        packed.sequences(), sources[i].weight()));
        if (!packed.store().is_masked()) continue;
        lines.push_back(fmt::format("  {:<32} {:>10.1f} % of them supervised: {} tokens", "",
                                    100 * static_cast<double>(packed.labels()) /
                                        static_cast<double>(packed.store().tokens()),
                                    packed.labels()));
        if (packed.cut_documents() > 0)
            lines.push_back(
                fmt::format("  {:<32} {:>10} conversations are longer than "
                            "data.sequence_length and are cut into pieces",
                            "", packed.cut_documents()));
    }
}

// By path, the hash of each file's content.
Facts data_facts(const Data& recipe, const RunData& data) {
    Facts facts{{recipe.tokenizer(), data.tokenizer_hash()}};
    const auto add = [&](const Sources& sources, const BatchLoader* loader) {
        for (int i = 0; i < sources.size(); ++i) {
            facts.emplace_back(sources[i].path(), loader->source(i).store().content_hash());
        }
    };
    add(recipe.train(), data.train.get());
    add(recipe.valid(), data.valid.get());
    for (auto& [path, hash] : facts) hash = concat("content of hash ", hash);
    return facts;
}

}  // namespace

std::vector<std::string> RunData::train_hashes() const {
    std::vector<std::string> hashes;
    for (int64_t i = 0; i < train->sources(); ++i) {
        hashes.push_back(train->source(i).store().content_hash());
    }
    return hashes;
}

SampleOrder RunData::train_order() const {
    const LoaderOptions& options = train->options();
    SampleOrder order;
    order.set_rules(1);
    order.set_shuffle(options.shuffle);
    order.set_seed(options.shuffle ? static_cast<int64_t>(options.seed) : 0);
    order.set_sequence_length(options.sequence_length);
    for (const uint64_t share : train->shares()) order.add_shares(share);
    return order;
}

RunData open_run_data(Communicator& communicator, const Recipe& recipe, int64_t vocab_size,
                      Console& console) {
    RunData data;
    std::unique_ptr<Opener> opener;
    agree(communicator, [&] { opener = std::make_unique<Opener>(recipe, vocab_size, console); });
    agree(communicator, [&] {
        if (communicator.rank() == 0) opener->prepare_text();
    });
    agree(communicator, [&] {
        data.train = opener->open(recipe.data().train());
        data.valid = opener->open(recipe.data().valid());
        check_predicts(*data.train);
        if (data.valid) check_predicts(*data.valid);
        data.tokenizer = opener->tokenizer();
        data.ends = opener->ends();
        data.chat = opener->chat();
    });
    require_same(communicator, data_facts(recipe.data(), data), ExitCode::data,
                 "every rank must read the same files");
    return data;
}

void check_predicts(const BatchLoader& loader) {
    for (int64_t i = 0; i < loader.sources(); ++i) {
        const PackedStore& source = loader.source(i);
        if (source.labels() > 0) continue;
        if (source.store().is_masked())
            fail(ExitCode::data, source.store().name(), ": none of its ", source.store().tokens(),
                 " tokens is both supervised and behind another one");
        fail(ExitCode::data, source.store().name(), ": there is nothing to predict: none of its ",
             source.store().documents(), " documents (", source.store().tokens(),
             " tokens) has two tokens in a row at a sequence length of ",
             loader.options().sequence_length);
    }
}

void adopt_ends(ModelSpec& spec, const std::optional<TextEnds>& ends, Console& console) {
    if (!ends || ends->stops.empty()) return;
    const std::vector<int32_t> before = spec.eos_by_default ? std::vector<int32_t>() : spec.eos_ids;
    spec.eos_ids = with_stops(before, ends->stops);
    spec.eos_by_default = false;
    std::string ids;
    for (const int32_t id : spec.eos_ids) ids += concat(ids.empty() ? "" : ", ", id);
    if (!before.empty() && with_stops(before, {}) != ends->stops)
        console.line(
            concat("WARNING: the model's files and the tokenizer's name different ends of a text; "
                   "generation stops at any of ",
                   ids));
}

std::vector<std::string> data_card(const Recipe& recipe, const RunData& data) {
    std::vector<std::string> lines{"data.train"};
    describe(recipe.data().train(), *data.train, lines);
    int64_t sequences = 0;
    for (int64_t s = 0; s < data.train->sources(); ++s) {
        sequences += data.train->source(s).sequences();
    }
    const int64_t samples = recipe.train().steps() * recipe.train().global_batch();
    lines.push_back(fmt::format("  {} steps of {} sequences: {} samples, {:.2f} times the data",
                                recipe.train().steps(), recipe.train().global_batch(), samples,
                                static_cast<double>(samples) / static_cast<double>(sequences)));
    if (data.valid) {
        lines.push_back("data.valid");
        describe(recipe.data().valid(), *data.valid, lines);
    }
    return lines;
}

void show_example(const RunData& data, Console& console) {
    for (int64_t s = 0; data.tokenizer && s < data.train->sources(); ++s) {
        const TokenStore& store = data.train->source(s).store();
        if (!store.is_masked()) continue;
        console.line("example  what is supervised stands between [[ and ]]",
                     "example  what is supervised is green");
        console.line(marked_example(*data.tokenizer, store, false),
                     marked_example(*data.tokenizer, store, true));
        const auto note = data.chat ? prompt_note(*data.chat) : std::nullopt;
        if (note) console.line(*note);
        return;
    }
}

}  // namespace fucina
