#include "data/safetensors_header.h"

#include <algorithm>
#include <optional>
#include <set>

#include "data/json.h"
#include "data/json_events.h"

namespace fucina {
namespace {

std::optional<DType> dtype_from(std::string_view name) {
    for (int i = 0; i <= static_cast<int>(DType::boolean); ++i) {
        if (name_of(static_cast<DType>(i)) == name) return static_cast<DType>(i);
    }
    return std::nullopt;
}

// Of other programs' tensors: their place in the file is checked, and they cannot be read.
struct ForeignDtype {
    std::string_view name;
    int bits;
};
constexpr ForeignDtype kForeign[] = {{"F4", 4},          {"F6_E2M3", 6},     {"F6_E3M2", 6},
                                     {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}, {"U16", 16},
                                     {"U32", 32},        {"U64", 64},        {"C64", 64}};

const ForeignDtype* foreign_from(std::string_view name) {
    const auto found = std::ranges::find(kForeign, name, &ForeignDtype::name);
    return found == std::end(kForeign) ? nullptr : found;
}

bool has_control_characters(std::string_view name) {
    return std::any_of(name.begin(), name.end(),
                       [](unsigned char c) { return c < 0x20 || c == 0x7f; });
}

// {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, ..., "__metadata__": {"key":
// "text"}}. Other keys of an entry are passed over, as the safetensors library does.
class HeaderEvents final : public JsonEvents {
  public:
    using JsonEvents::JsonEvents;
    std::vector<TensorInfo> tensors;

    bool null() override { return plain_value("null"); }
    bool boolean(bool) override { return plain_value("a boolean"); }
    bool number_integer(int64_t) override { return plain_value("a negative number"); }
    bool number_float(double, const std::string& text) override {
        return plain_value("the number " + printable(text));
    }

    bool start_object(size_t) override {
        if (skips()) return open_skipped("an object");
        if (depth_ == 2 || in_list_) unexpected("an object");
        ++depth_;
        return true;
    }

    bool key(std::string& name) override {
        if (skipped_ > 0) return true;
        if (depth_ == 1) {
            begin_entry(name);
        } else if (!metadata_) {
            field_ = std::find(std::begin(kFields), std::end(kFields), name) - std::begin(kFields);
            if (field_ < kOther && seen_[field_]) unexpected("a second \"" + name + "\"");
            if (field_ < kOther) seen_[field_] = true;
        }
        return true;
    }

    bool string(std::string& text) override {
        if (skips() || (metadata_ && depth_ == 2)) return true;
        if (depth_ != 2 || in_list_) unexpected("the string \"" + printable(text) + "\"");
        if (field_ != 0) unexpected("the string \"" + printable(text) + "\"");
        const auto dtype = dtype_from(text);
        if (dtype)
            tensors.back().dtype = *dtype;
        else if (foreign_from(text))
            tensors.back().foreign = text;
        else
            unexpected("the unsupported dtype \"" + printable(text) + "\"");
        return true;
    }

    bool start_array(size_t) override {
        if (skips()) return open_skipped("a list");
        if (depth_ != 2 || metadata_ || field_ == 0 || in_list_) unexpected("a list");
        in_list_ = true;
        return true;
    }

    bool number_unsigned(uint64_t value) override {
        if (skips()) return true;
        if (!in_list_) unexpected("a number");
        if (value > uint64_t{INT64_MAX}) unexpected("the number " + std::to_string(value));
        auto& list = field_ == 1 ? tensors.back().shape : offsets_;
        if (list.size() == 8) unexpected("a list of more than 8 numbers");
        list.push_back(static_cast<int64_t>(value));
        return true;
    }

    bool end_array() override {
        if (skipped_ > 0)
            --skipped_;
        else
            in_list_ = false;
        return true;
    }

    bool end_object() override {
        if (skipped_ > 0)
            --skipped_;
        else if (depth_-- == 2 && !metadata_)
            end_entry();
        return true;
    }

  protected:
    std::string describe(const std::string& what) const override {
        if (name_.empty()) return "header: unexpected " + what;
        return "tensor " + printable(name_) + ": unexpected " + what;
    }

  private:
    static constexpr std::string_view kFields[] = {"dtype", "shape", "data_offsets"};

    static constexpr long kOther = 3;  // field_ of a key that the format does not have

    // Whether what comes is part of such a key's value.
    bool skips() const { return skipped_ > 0 || (depth_ == 2 && !metadata_ && field_ == kOther); }
    bool open_skipped(const char* what) {
        if (++skipped_ > 64) unexpected(what);
        return true;
    }
    bool plain_value(const std::string& what) {
        const bool no_metadata = what == "null" && depth_ == 1 && metadata_;
        return skips() || no_metadata || unexpected(what);
    }

    void begin_entry(const std::string& name) {
        name_ = name;
        if (!names_.insert(name).second) unexpected("second entry of this name");
        metadata_ = name == "__metadata__";
        if (metadata_) return;
        if (name.empty()) fail(ExitCode::data, file_, ": header: a tensor without a name");
        if (has_control_characters(name)) unexpected("control character in the name");
        seen_[0] = seen_[1] = seen_[2] = false;
        field_ = 0;
        offsets_.clear();
        tensors.push_back({.name = name, .dtype = DType::f32, .foreign = {}, .shape = {}});
    }

    void end_entry() {
        for (int i = 0; i < 3; ++i) {
            if (!seen_[i])
                unexpected("end of the entry, \"" + std::string(kFields[i]) + "\" is missing");
        }
        if (offsets_.size() != 2 || offsets_[0] > offsets_[1]) unexpected("data_offsets");
        tensors.back().offset = offsets_[0];
        tensors.back().nbytes = offsets_[1] - offsets_[0];
    }

    int depth_ = 0, skipped_ = 0;  // levels open, and those of them in a value that is passed over
    bool in_list_ = false, metadata_ = false;
    long field_ = 0;
    bool seen_[3] = {};
    std::string name_;
    std::set<std::string> names_;
    std::vector<int64_t> offsets_;
};

// A shard lies beside its index: anything that could lead elsewhere is refused.
bool is_shard_name(const std::string& name) {
    constexpr std::string_view suffix = ".safetensors";
    return name.size() > suffix.size() && name.ends_with(suffix) && name.front() != '.' &&
           name.find('/') == name.npos && name.find('\\') == name.npos &&
           !has_control_characters(name);
}

void check_size(const TensorInfo& tensor, const std::string& file) {
    const ForeignDtype* foreign = foreign_from(tensor.foreign);
    int64_t wanted = foreign ? foreign->bits : 8 * size_of(tensor.dtype);  // bits
    for (const int64_t dim : tensor.shape) {
        if (__builtin_mul_overflow(wanted, dim, &wanted)) {
            fail(ExitCode::data, file, ": tensor ", tensor.name,
                 ": its shape is too large to be true");
        }
    }
    if (wanted % 8 != 0)
        fail(ExitCode::data, file, ": tensor ", tensor.name, ": its shape ends within a byte");
    wanted /= 8;
    if (wanted != tensor.nbytes) {
        fail(ExitCode::data, file, ": tensor ", tensor.name, ": its shape needs ", wanted,
             " bytes, data_offsets give ", tensor.nbytes);
    }
}

}  // namespace

std::vector<TensorInfo> parse_safetensors_header(std::string_view json, int64_t data_bytes,
                                                 const std::string& file) {
    HeaderEvents events(json, file);
    if (json.empty() || json.front() != '{')
        fail(ExitCode::data, file, ": not a safetensors file: no JSON header");
    parse_json(json, events);
    auto& tensors = events.tensors;
    std::sort(tensors.begin(), tensors.end(), [](const TensorInfo& a, const TensorInfo& b) {
        return std::pair(a.offset, a.offset + a.nbytes) < std::pair(b.offset, b.offset + b.nbytes);
    });
    int64_t end = 0;
    for (const TensorInfo& tensor : tensors) {
        check_size(tensor, file);
        if (tensor.offset != end) {
            fail(ExitCode::data, file, ": tensor ", tensor.name, ": begins at data byte ",
                 tensor.offset, ", the one before ends at ", end, ": ",
                 tensor.offset < end ? "overlap" : "gap");
        }
        end = tensor.offset + tensor.nbytes;
        if (end > data_bytes) {
            fail(ExitCode::data, file, ": tensor ", tensor.name,
                 ": cut short: it ends at data byte ", end, ", the file has ", data_bytes);
        }
    }
    if (end != data_bytes) {
        fail(ExitCode::data, file, ": ", data_bytes, " bytes of data, the tensors cover ", end);
    }
    return std::move(tensors);
}

std::map<std::string, std::string> parse_safetensors_index(std::string_view json,
                                                           const std::string& file) {
    const nlohmann::json index = parse_json(json, file, ExitCode::data);
    const auto found = index.find("weight_map");
    if (found == index.end() || !found->is_object() || found->empty())
        fail(ExitCode::data, file, ": has no \"weight_map\" that names tensors");
    std::map<std::string, std::string> shards;
    for (const auto& [tensor, shard] : found->items()) {
        if (!shard.is_string() || !is_shard_name(shard.get_ref<const std::string&>()))
            fail(ExitCode::data, file, ": weight_map: the shard name of ", printable(tensor),
                 " is ", printable(shard.dump()),
                 ", expected a plain file name ending in .safetensors");
        shards.emplace(tensor, shard.get<std::string>());
    }
    return shards;
}

}  // namespace fucina
