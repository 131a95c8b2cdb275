#include "data/safetensors_header.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "data/file.h"
#include "data/json.h"
#include "data/json_cursor.h"

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
class HeaderReader {
  public:
    HeaderReader(std::string_view json, const std::string& file)
        : from_(json, file, ExitCode::data), file_(file) {}

    std::vector<TensorInfo> read() {
        want(JsonKind::object);
        from_.object([&](const std::string& name) {
            name_ = name;
            if (!names_.insert(name).second) unexpected("second entry of this name");
            name == "__metadata__" ? read_metadata() : read_entry();
        });
        from_.end();
        return std::move(tensors_);
    }

  private:
    [[noreturn]] void unexpected(const std::string& what) const {
        fail(ExitCode::data, file_, ": ",
             name_.empty() ? "header" : concat("tensor ", printable(name_)), ": unexpected ", what);
    }
    void want(JsonKind kind) {
        if (from_.kind() != kind) unexpected(from_.describe());
    }

    void read_metadata() {
        if (from_.kind() == JsonKind::null) return from_.null();
        want(JsonKind::object);
        from_.object([&](const std::string&) {
            want(JsonKind::string);
            from_.string();
        });
    }

    void read_entry() {
        if (name_.empty()) fail(ExitCode::data, file_, ": header: a tensor without a name");
        if (has_control_characters(name_)) unexpected("control character in the name");
        TensorInfo tensor{.name = name_, .dtype = DType::f32, .foreign = {}, .shape = {}};
        std::vector<int64_t> offsets;
        std::set<std::string> missing = {"dtype", "shape", "data_offsets"};
        const std::set<std::string> fields = missing;
        want(JsonKind::object);
        from_.object([&](const std::string& field) {
            if (!fields.contains(field)) return from_.skip();
            if (missing.erase(field) == 0) unexpected("a second \"" + field + "\"");
            if (field == "dtype")
                read_dtype(tensor);
            else
                (field == "shape" ? tensor.shape : offsets) = numbers();
        });
        if (!missing.empty())
            unexpected("end of the entry, \"" + *missing.begin() + "\" is missing");
        if (offsets.size() != 2 || offsets[0] > offsets[1]) unexpected("data_offsets");
        tensor.offset = offsets[0];
        tensor.nbytes = offsets[1] - offsets[0];
        tensors_.push_back(std::move(tensor));
    }

    void read_dtype(TensorInfo& tensor) {
        want(JsonKind::string);
        const std::string name = from_.string();
        const auto dtype = dtype_from(name);
        if (dtype)
            tensor.dtype = *dtype;
        else if (foreign_from(name))
            tensor.foreign = name;
        else
            unexpected("the unsupported dtype \"" + printable(name) + "\"");
    }

    std::vector<int64_t> numbers() {
        std::vector<int64_t> out;
        want(JsonKind::list);
        from_.list([&] {
            want(JsonKind::number);
            const std::string_view literal = from_.number();
            const auto number = number_in<int64_t>(literal);
            if (!number) unexpected("the number " + printable(literal));
            if (*number < 0) unexpected("a negative number");
            if (out.size() == 8) unexpected("a list of more than 8 numbers");
            out.push_back(*number);
        });
        return out;
    }

    JsonCursor from_;
    const std::string& file_;
    std::string name_;  // of the entry
    std::set<std::string> names_;
    std::vector<TensorInfo> tensors_;
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
    if (json.empty() || json.front() != '{')
        fail(ExitCode::data, file, ": not a safetensors file: no JSON header");
    std::vector<TensorInfo> tensors = HeaderReader(json, file).read();
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
    return tensors;
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
