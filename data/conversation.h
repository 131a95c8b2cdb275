// Rows of conversations as ids, with what is supervised of them: what training learns to write.
// {"prompt": ..., "completion": ...} are two strings, or two lists of messages; {"messages": [...]}
// is one list. Supervised are the completion and the token that ends the text; of messages, the
// assistant's turns (with a completion, its alone) up to and with the token that ends a turn.
#pragma once
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "data/chat_format.h"
#include "data/json_line.h"

namespace fucina {

// Appends the ids of a text. Threads call it at the same time.
using EncodeText = std::function<void(std::string_view text, std::vector<int32_t>& ids)>;

// Fails, Error(data) with the path of what is wrong and without the file, where the row is not as
// above: `messages[3].role = "bot"; ...`.
void check_conversation(const Row& row);

// What the prompt for an answer ends with where an answer in a conversation does not begin so, as
// with "<think>\n" in some templates; empty in most. `row`: the template's variables. Error(data)
// where it fails.
std::string only_in_prompts(const ChatFormat& chat, nlohmann::ordered_json row);

// Says so in a line to who trains on conversations; nothing where there is no such text.
std::optional<std::string> prompt_note(const ChatFormat& chat);

struct ConversationEncoder {
    EncodeText encode;
    std::vector<int32_t> begin;      // before a prompt that is a string
    std::optional<int32_t> end;      // after a completion that is a string
    std::vector<std::string> stops;  // tokens of which any ends a turn
    std::optional<ChatFormat> chat;  // of messages

    struct Encoded {
        int64_t supervised = 0;  // tokens
        bool is_ended = true;    // the last turn has one of `stops`
    };
    // Appends the row, and 0 or 1 for each of its ids. A turn of the assistant is what it adds to
    // the prompt that is rendered from the messages before it; what is supervised is encoded apart
    // from what is not, as it is when the model answers. Error(data) as above, and where the
    // template fails, or writes a turn otherwise once others follow it; Error(usage) where there
    // is no template.
    Encoded append(const Row& row, std::vector<int32_t>& ids,
                   std::vector<uint8_t>& supervised) const;
};

}  // namespace fucina
