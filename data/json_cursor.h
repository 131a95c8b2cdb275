// JSON read from left to right: the reader of a format asks for what comes next, and refuses what
// the format does not have before anything of it is built in memory. Private to data/*.cpp.
#pragma once
#include <charconv>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "kernels/error.h"

namespace fucina {

enum class JsonKind : uint8_t { null, boolean, number, string, list, object };

// The language is that of data/json.h. Where the text breaks it, all fail with `code` in one line
// "name:line:column: not valid JSON: reason".
class JsonCursor {
  public:
    JsonCursor(std::string_view text, std::string name, ExitCode code);

    JsonKind kind();         // of the value that comes next
    std::string describe();  // the same in words; passes over what is no list or object
    void end();              // fails where something follows

    // These take a value of a kind that kind() has told.
    void null() { at_ += 4; }
    bool boolean();
    std::string_view number();  // as it is written: digits, NaN, Infinity
    std::string string();       // UTF-8
    template <class Item>
    void list(const Item& item) {  // item() takes each
        for (bool more = open(']'); more; more = another(']')) item();
    }
    template <class Member>
    void object(const Member& member) {  // member(key) takes each value
        for (bool more = open('}'); more; more = another('}')) member(key());
    }
    void skip();  // any value

  private:
    [[noreturn]] void refuse(std::string_view reason) const;
    char next() const { return at_ < text_.size() ? text_[at_] : '\0'; }
    bool ahead(std::string_view word) const { return text_.substr(at_).starts_with(word); }
    bool take(std::string_view word);
    void skip_space();
    bool open(char close);     // whether there is an element
    bool another(char close);  // after an element: whether another one follows
    std::string key();
    void digits();
    void character(std::string& out);  // of a string, or several
    void escape(std::string& out);
    uint32_t code_point();
    uint32_t hex();

    const std::string_view text_;
    const std::string name_;
    const ExitCode code_;
    size_t at_ = 0;  // the byte that comes next
    int depth_ = 0;  // of lists and objects
};

// Of a literal that is such a number; nothing where it is another, or too large.
template <class Number>
std::optional<Number> number_in(std::string_view literal) {
    Number number = 0;
    const char* end = literal.data() + literal.size();
    const auto found = std::from_chars(literal.data(), end, number);
    return found.ec == std::errc() && found.ptr == end ? std::optional(number) : std::nullopt;
}

}  // namespace fucina
