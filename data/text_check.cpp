#include "data/text_check.h"

#include <simdjson.h>

#include <algorithm>

#include "data/file.h"
#include "kernels/error.h"

namespace fucina {
namespace {

using namespace std::string_view_literals;

struct Signature {
    std::string_view bytes, what, remedy;
};

// UTF-32's little-endian mark begins with that of UTF-16.
constexpr Signature kSignatures[] = {
    {"\x1f\x8b"sv, "gzip", "gunzip it first"},
    {"\x28\xb5\x2f\xfd"sv, "zstd", "unzstd it first"},
    {"\xfd\x37zXZ\0"sv, "xz", "unxz it first"},
    {"BZh"sv, "bzip2", "bunzip2 it first"},
    {"\x04\x22\x4d\x18"sv, "lz4", "unlz4 it first"},
    {"PK\x03\x04"sv, "a ZIP archive", "unzip it first"},
    {"7z\xbc\xaf\x27\x1c"sv, "a 7z archive", "unpack it first"},
    {"%PDF-"sv, "PDF", "pdftotext makes text of it"},
    {"\x7f"
     "ELF"sv,
     "a program (ELF)", "give a text file"},
    {"\x89HDF\r\n\x1a\n"sv, "HDF5", "a token store has the format \"store\""},
    {"PAR1"sv, "Parquet", "write its texts as JSON lines, {\"text\": ...}, first"},
    {"ARROW1"sv, "Arrow", "write its texts as JSON lines, {\"text\": ...}, first"},
    {"\x89PNG\r\n"sv, "an image (PNG)", "give a text file"},
    {"\xff\xd8\xff"sv, "an image (JPEG)", "give a text file"},
    {"\xff\xfe\0\0"sv, "UTF-32", "iconv -f UTF-32 -t UTF-8 makes text of it"},
    {"\0\0\xfe\xff"sv, "UTF-32", "iconv -f UTF-32 -t UTF-8 makes text of it"},
    {"\xff\xfe"sv, "UTF-16", "iconv -f UTF-16 -t UTF-8 makes text of it"},
    {"\xfe\xff"sv, "UTF-16", "iconv -f UTF-16 -t UTF-8 makes text of it"},
};

// More zero bytes than this are no accident.
constexpr double kZeros = 0.001;

void check_zeros(const std::string& name, std::string_view head) {
    int64_t zeros[2] = {0, 0};  // at even and at odd places
    for (size_t i = 0; i < head.size(); ++i) zeros[i % 2] += head[i] == '\0' ? 1 : 0;
    const auto size = static_cast<double>(head.size());
    if (zeros[0] + zeros[1] < 2 || static_cast<double>(zeros[0] + zeros[1]) < kZeros * size) return;
    for (const int odd : {0, 1}) {
        if (static_cast<double>(zeros[odd]) < 0.3 * size || zeros[1 - odd] * 10 > zeros[odd])
            continue;
        const char* order = odd == 1 ? "UTF-16LE" : "UTF-16BE";
        fail(ExitCode::data, name, ": looks like ", order, ", not UTF-8 text; iconv -f ", order,
             " -t UTF-8 makes text of it");
    }
    fail(ExitCode::data, name, ": is binary, not text: ", zeros[0] + zeros[1], " of the first ",
         head.size(), " bytes are zero");
}

std::string_view without_mark(std::string_view text) {
    if (text.starts_with("\xef\xbb\xbf")) text.remove_prefix(3);
    return text;
}

std::string_view trimmed(std::string_view text) {
    const size_t begin = std::min(text.find_first_not_of(" \t\r\n"), text.size());
    const size_t end = text.find_last_not_of(" \t\r\n");
    return end == std::string_view::npos ? "" : text.substr(begin, end + 1 - begin);
}

// Bytes of the character at the start of `text`, 0 if there is none.
size_t character_size(std::string_view text) {
    const auto lead = static_cast<unsigned char>(text[0]);
    const size_t size = lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
    return size <= text.size() && simdjson::validate_utf8(text.data(), size) ? size : 0;
}

}  // namespace

void check_is_text(const std::string& name, std::string_view head) {
    for (const Signature& signature : kSignatures) {
        if (head.starts_with(signature.bytes))
            fail(ExitCode::data, name, ": is ", signature.what, ", not UTF-8 text; ",
                 signature.remedy);
    }
    check_zeros(name, head);
}

void check_file_is_text(const std::filesystem::path& path) {
    std::error_code error;
    if (!std::filesystem::is_regular_file(path, error)) return;
    const InputFile file(path);
    std::string head(static_cast<size_t>(std::min(file.size(), kTextHead)), '\0');
    file.read(0, std::as_writable_bytes(std::span(head)));
    check_is_text(path.string(), head);
}

void check_is_lines(const std::string& name, std::string_view head) {
    head = without_mark(head);
    head.remove_prefix(std::min(head.find_first_not_of(" \t\r\n"), head.size()));
    const size_t end = head.find('\n');
    const std::string_view line = trimmed(head.substr(0, end));
    if (line.empty()) return;
    const bool goes_on =
        end != std::string_view::npos && "[{,"sv.find(line.back()) != std::string_view::npos;
    if (line[0] == '[' && (goes_on || trimmed(line.substr(1)).starts_with("{")))
        fail(ExitCode::data, name,
             ": is a JSON array; JSON lines have one object a line, {\"text\": ...} (jq -c '.[]' "
             "makes them)");
    if (line[0] == '{' && goes_on)
        fail(ExitCode::data, name,
             ": its first object goes over several lines; JSON lines have one object a line, "
             "{\"text\": ...} (jq -c . makes them)");
}

int64_t count_broken_utf8(std::string_view text) {
    if (simdjson::validate_utf8(text.data(), text.size())) return 0;
    int64_t broken = 0;
    while (!text.empty()) {
        const size_t size = character_size(text);
        broken += size == 0 ? 1 : 0;
        text.remove_prefix(std::max<size_t>(size, 1));
    }
    return broken;
}

std::string broken_bytes_in_words(int64_t broken, int64_t bytes) {
    return concat(broken, " of ", bytes,
                  " bytes are not UTF-8 (if the text is in another encoding, iconv -f latin1 -t "
                  "UTF-8 makes UTF-8 of Latin-1)");
}

}  // namespace fucina
