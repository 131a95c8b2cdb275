#include "data/ids_file.h"

#include <algorithm>

#include "data/file.h"
#include "data/json_cursor.h"

namespace fucina {
namespace {

constexpr int64_t kLargestIdsFile = int64_t{4} << 30;  // larger corpora belong in a token store

class IdsReader {
  public:
    IdsReader(std::string_view text, const std::string& file, int64_t vocab_size)
        : from_(text, file, ExitCode::data), file_(file), vocab_size_(vocab_size) {}

    std::vector<std::vector<int32_t>> read(bool one_list) {
        const char* wanted = one_list ? "list of token ids was expected, [1, 2]"
                                      : "list of lists of ids was expected, [[1, 2], [3]]";
        const auto read_list = [&] {
            want_list(wanted);
            lists_.emplace_back();
            from_.list([&] { lists_.back().push_back(id()); });
        };
        if (one_list) {
            read_list();
        } else {
            want_list(wanted);
            from_.list(read_list);
        }
        from_.end();
        return std::move(lists_);
    }

  private:
    void want_list(const char* wanted) {
        const JsonKind kind = from_.kind();
        if (kind == JsonKind::list) return;
        fail(ExitCode::data, file_, ": ",
             kind == JsonKind::number ? concat("the number ", from_.number()) : from_.describe(),
             " where a ", wanted);
    }

    int32_t id() {
        if (from_.kind() != JsonKind::number) refuse(from_.describe(), " is not a token id");
        const std::string_view literal = from_.number();
        const auto id = number_in<uint64_t>(literal);
        if (!id && number_in<int64_t>(literal)) refuse("id ", literal, " is negative");
        if (!id) refuse("the number ", printable(literal), " is not a token id");
        if (*id >= static_cast<uint64_t>(vocab_size_))
            refuse("id ", *id, " is beyond the vocabulary of ", vocab_size_);
        return static_cast<int32_t>(*id);
    }

    template <class... Parts>
    [[noreturn]] void refuse(const Parts&... what) const {
        fail(ExitCode::data, file_, ": list ", lists_.size() - 1, ", position ",
             lists_.back().size(), ": ", what...);
    }

    JsonCursor from_;
    const std::string& file_;
    const int64_t vocab_size_;
    std::vector<std::vector<int32_t>> lists_;
};

}  // namespace

std::vector<std::vector<int32_t>> read_ids(const std::filesystem::path& path, int64_t vocab_size) {
    const std::string text = read_text_file(path, kLargestIdsFile), file = path.string();
    auto lists = IdsReader(text, file, vocab_size).read(false);
    if (std::ranges::all_of(lists, [](const auto& list) { return list.empty(); }))
        fail(ExitCode::data, file, ": holds no token ids");
    return lists;
}

std::vector<int32_t> parse_ids(std::string_view list, const std::string& name) {
    return IdsReader(list, name, int64_t{INT32_MAX} + 1).read(true).front();
}

}  // namespace fucina
