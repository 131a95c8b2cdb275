#include "data/ids_file.h"

#include "data/file.h"
#include "data/json_events.h"

namespace fucina {
namespace {

constexpr int64_t kLargestIdsFile = int64_t{4} << 30;  // larger corpora belong in a token store

class IdsEvents final : public JsonEvents {
  public:
    IdsEvents(std::string_view text, std::string file, int64_t vocab_size)
        : JsonEvents(text, std::move(file)), vocab_size_(static_cast<uint64_t>(vocab_size)) {}
    std::vector<std::vector<int32_t>> lists;
    int64_t total = 0;

    bool start_array(size_t) override {
        if (depth_ == 2) unexpected("a list");
        if (depth_ == 1) lists.emplace_back();
        ++depth_;
        return true;
    }
    bool end_array() override {
        --depth_;
        return true;
    }
    bool number_unsigned(uint64_t id) override {
        if (depth_ != 2) unexpected("the number " + std::to_string(id));
        if (id >= vocab_size_) {
            fail(ExitCode::data, file_, ": ", place(), "id ", id, " is beyond the vocabulary of ",
                 vocab_size_);
        }
        lists.back().push_back(static_cast<int32_t>(id));
        ++total;
        return true;
    }
    bool number_integer(int64_t id) override {
        if (depth_ != 2) unexpected("the number " + std::to_string(id));
        fail(ExitCode::data, file_, ": ", place(), "id ", id, " is negative");
    }

  protected:
    std::string describe(const std::string& what) const override {
        if (depth_ == 2) return place() + what + " is not a token id";
        return what + " where a list of lists of ids was expected, [[1, 2], [3]]";
    }

  private:
    std::string place() const {
        return concat("list ", lists.size() - 1, ", position ", lists.back().size(), ": ");
    }

    uint64_t vocab_size_;
    int depth_ = 0;
};

}  // namespace

std::vector<std::vector<int32_t>> read_ids(const std::filesystem::path& path, int64_t vocab_size) {
    const std::string text = read_text_file(path, kLargestIdsFile);
    IdsEvents events(text, path.string(), vocab_size);
    parse_json(text, events);
    if (events.total == 0) fail(ExitCode::data, path.string(), ": holds no token ids");
    return std::move(events.lists);
}

}  // namespace fucina
