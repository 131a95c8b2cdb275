// The sources of data.train and data.valid, opened: text is turned into token stores first.
#pragma once
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "configs/manifest.pb.h"
#include "configs/recipe.pb.h"
#include "data/batch_loader.h"
#include "data/chat_format.h"
#include "data/tokenizer/tokenizer.h"
#include "model/model_spec.h"
#include "parallel/communicator.h"
#include "trainer/console.h"

namespace fucina {

struct RunData {
    std::unique_ptr<BatchLoader> train;
    std::unique_ptr<BatchLoader> valid;  // null without data.valid
    std::optional<Tokenizer> tokenizer;  // absent without data.tokenizer
    std::optional<TextEnds> ends;        // of its texts
    std::optional<ChatFormat> chat;      // of its conversations
    // Of each source of data.train, in order: what the position in the data rests on.
    std::vector<std::string> train_hashes() const;
    SampleOrder train_order() const;  // and the rest of it
    std::string tokenizer_hash() const { return tokenizer ? tokenizer->hash() : ""; }
};

// Collective. `vocab_size`: of the model; every id is below it. Fails on all ranks alike: exit 2 or
// 3, naming the file.
RunData open_run_data(Communicator& communicator, const Recipe& recipe, int64_t vocab_size,
                      Console& console);

// Fails (exit 3) where a source of the loader has no two tokens in a row, so that nothing can be
// predicted.
void check_predicts(const BatchLoader& loader);

// What the texts of the run end with ends generated texts of its model too; without a tokenizer, or
// where only a default names the ends of the model, its own alone. Says what both name.
void adopt_ends(ModelSpec& spec, const std::optional<TextEnds>& ends, Console& console);

// The data card: what each source holds and how often the run will go over it.
std::vector<std::string> data_card(const Recipe& recipe, const RunData& data);

// The first conversation that the run trains on, with what is supervised of it, and what prompts
// have beyond that; nothing where it trains on none.
void show_example(const RunData& data, Console& console);

}  // namespace fucina
