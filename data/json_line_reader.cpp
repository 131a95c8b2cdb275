#include "data/json_line_reader.h"

#include <algorithm>

#include "data/file.h"
#include "data/json.h"

namespace fucina {
namespace {

constexpr size_t kNamedKeys = 4;

LineFault without_text(const std::vector<std::string>& keys) {
    LineFault fault{.reason = BadLine::no_text};
    for (size_t i = 0; i < keys.size() && i < kNamedKeys; ++i)
        fault.detail += concat(i == 0 ? "no \"text\", but \"" : ", \"", printable(keys[i]), "\"");
    if (keys.size() > kNamedKeys) fault.detail += ", ...";
    return fault;
}

}  // namespace

const char* name_of(BadLine reason) {
    constexpr const char* kNames[kBadLineKinds] = {"bad JSON",
                                                   "bad UTF-8",
                                                   "no object",
                                                   "no \"text\"",
                                                   "\"text\" is not a string",
                                                   "empty text",
                                                   "line too long",
                                                   "two kinds of row in one",
                                                   "broken conversation"};
    return kNames[static_cast<int>(reason)];
}

const char* name_of(RowKind kind) {
    constexpr const char* kNames[] = {"{\"text\"}", "{\"prompt\", \"completion\"}",
                                      "{\"messages\"}"};
    return kNames[static_cast<int>(kind)];
}

std::optional<Row> LineReaderJson::conversation(std::string_view line,
                                                const std::vector<std::string>& keys,
                                                LineFault& fault) {
    const auto has = [&](const char* key) { return std::ranges::find(keys, key) != keys.end(); };
    const bool messages = has("messages"), completion = has("prompt") && has("completion");
    if (!messages && !completion) return std::nullopt;
    if (messages + completion + has("text") > 1) {
        fault = {BadLine::two_kinds,
                 concat("has both ", messages ? "\"messages\"" : "\"completion\"", " and ",
                        has("text") ? "\"text\"" : "\"completion\"",
                        "; leave the keys of one kind of row")};
        return std::nullopt;
    }
    row_ = parse_ordered_json(line, "", ExitCode::data);
    return Row{
        .kind = messages ? RowKind::messages : RowKind::completion, .text = {}, .json = &row_};
}

std::optional<Row> LineReaderJson::read(std::string_view line, LineFault& fault) {
    fault = {};
    const auto refuse = [&](LineFault found) -> std::optional<Row> {
        fault = std::move(found);
        return std::nullopt;
    };
    simdjson::dom::element root;
    const auto error = parser_.parse(line.data(), line.size(), false).get(root);
    if (error == simdjson::UTF8_ERROR) return refuse({BadLine::utf8, ""});
    std::vector<std::string> keys;
    std::string_view text;
    bool found = false, is_text = false, is_object = false;
    if (error == simdjson::SUCCESS) {
        simdjson::dom::object object;
        is_object = root.get(object) == simdjson::SUCCESS;
        if (is_object) {
            for (const auto field : object) {
                keys.emplace_back(field.key);
                if (field.key != "text") continue;
                found = true;
                is_text = field.value.get(text) == simdjson::SUCCESS;
            }
        }
    } else {  // broken, or a number that simdjson does not take
        try {
            const nlohmann::json json = parse_json(line, "", ExitCode::data);
            is_object = json.is_object();
            if (is_object)
                for (const auto& [key, value] : json.items()) keys.push_back(key);
            found = is_object && json.contains("text");
            is_text = found && json["text"].is_string();
            if (is_text) text = kept_ = json["text"].get<std::string>();
        } catch (const Error& broken) {
            constexpr size_t kLine = 3;  // ":1:", the line among one
            return refuse({BadLine::json, std::string(broken.what()).substr(kLine)});
        }
    }
    if (!is_object) return refuse({BadLine::not_object, "no object, {\"text\": ...}"});
    fault.reason = BadLine::no_text;
    if (const auto row = conversation(line, keys, fault)) return row;
    if (fault.reason == BadLine::two_kinds) return std::nullopt;
    if (!found) return refuse(without_text(keys));
    if (!is_text) return refuse({BadLine::not_text, ""});
    if (text.empty()) return refuse({BadLine::empty, ""});
    return Row{.kind = RowKind::text, .text = text};
}

}  // namespace fucina
