#include "kernels/error.h"

#include <algorithm>
#include <filesystem>
#include <new>

namespace fucina {
namespace {

constexpr std::string_view kGap = " [...] ";

bool is_continuation(char c) {  // of a character in UTF-8
    return (static_cast<unsigned char>(c) & 0xc0) == 0x80;
}

}  // namespace

std::string without_middle(std::string text, size_t longest, size_t kept) {
    if (text.size() <= longest) return text;
    size_t head = kept, tail = text.size() - kept;
    while (head > 0 && is_continuation(text[head])) --head;
    while (tail < text.size() && is_continuation(text[tail])) ++tail;
    return concat(text.substr(0, head), kGap, text.substr(tail));
}

std::string one_line(std::string text, size_t most) {
    std::replace_if(
        text.begin(), text.end(), [](unsigned char c) { return c < 0x20 || c == 0x7f; }, ' ');
    text.erase(text.find_last_not_of(' ') + 1);
    return without_middle(std::move(text), most, (most - kGap.size()) / 2);
}

Error current_error() {
    try {
        throw;
    } catch (const Error& error) {
        return error;
    } catch (const std::filesystem::filesystem_error& error) {
        const std::string path = error.path1().string();
        return {ExitCode::storage,
                path.empty() ? error.what() : concat(path, ": ", error.code().message())};
    } catch (const std::bad_alloc&) {
        return {ExitCode::internal, "out of memory"};
    } catch (const std::exception& error) {
        return {ExitCode::internal, error.what()};
    } catch (...) {
        return {ExitCode::internal, "something that is no exception was thrown"};
    }
}

}  // namespace fucina
