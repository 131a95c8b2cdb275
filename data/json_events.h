// Strict JSON as events, for input that must not be trusted: a handler refuses what it does not
// expect, before anything is built in memory. Private to data/*.cpp.
#pragma once
#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "data/file.h"
#include "kernels/error.h"

namespace fucina {

// Refuses every event; a parser overrides those that its format has, and says in describe() where
// it stands.
class JsonEvents : public nlohmann::json_sax<nlohmann::json> {
  public:
    JsonEvents(std::string_view text, std::string file) : text_(text), file_(std::move(file)) {}

    bool null() override { return unexpected("null"); }
    bool boolean(bool) override { return unexpected("a boolean"); }
    bool number_integer(int64_t) override { return unexpected("a negative number"); }
    bool number_unsigned(uint64_t) override { return unexpected("a number"); }
    bool number_float(double, const std::string& text) override {
        return unexpected("the number " + printable(text));
    }
    bool string(std::string& text) override {
        return unexpected("the string \"" + printable(text) + "\"");
    }
    bool binary(nlohmann::json::binary_t&) override { return unexpected("binary"); }
    bool start_object(size_t) override { return unexpected("an object"); }
    bool key(std::string& name) override {
        return unexpected("the key \"" + printable(name) + "\"");
    }
    bool end_object() override { return unexpected("the end of an object"); }
    bool start_array(size_t) override { return unexpected("a list"); }
    bool end_array() override { return unexpected("the end of a list"); }

    bool parse_error(size_t position, const std::string&,
                     const nlohmann::json::exception& error) override {
        std::string_view reason = error.what();
        if (const size_t at = reason.find(" - "); at != reason.npos) reason.remove_prefix(at + 3);
        // `position` counts the offending byte, of which there is none at the end of the text.
        const bool at_end = reason.starts_with("unexpected end") || position > text_.size();
        refuse_at(at_end ? text_.size() : position == 0 ? 0 : position - 1, printable(reason));
    }

    // text_[at] breaks the grammar.
    [[noreturn]] void refuse_at(size_t at, const std::string& reason) const {
        const std::string_view before = text_.substr(0, at);
        const auto line = 1 + std::count(before.begin(), before.end(), '\n');
        const size_t line_start = before.rfind('\n') + 1;  // npos + 1 = 0
        fail(ExitCode::data, file_, ":", line, ":", before.size() - line_start + 1,
             ": not valid JSON: ", reason);
    }

  protected:
    // The message that follows "file: " when `what` came where the format has something else.
    virtual std::string describe(const std::string& what) const = 0;

    [[noreturn]] bool unexpected(const std::string& what) const {
        fail(ExitCode::data, file_, ": ", describe(what));
    }

    std::string_view text_;
    std::string file_;
};

inline void parse_json(std::string_view text, JsonEvents& events) {
    // The parser below would take a zero byte for the end, and pass over whatever follows.
    if (const size_t zero = text.find('\0'); zero != text.npos)
        events.refuse_at(zero, "a zero byte; only white space may stand outside of values");
    nlohmann::json::sax_parse(text.begin(), text.end(), &events);
}

}  // namespace fucina
