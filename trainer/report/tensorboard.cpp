#include "trainer/report/tensorboard.h"

#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>

#include "kernels/error.h"

namespace fucina {
namespace {

std::array<uint32_t, 256> make_crc_table() {
    constexpr uint32_t kPolynomial = 0x82F63B78;  // Castagnoli, bits reversed
    std::array<uint32_t, 256> table{};
    for (uint32_t byte = 0; byte < 256; ++byte) {
        uint32_t crc = byte;
        for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? kPolynomial : 0);
        table[byte] = crc;
    }
    return table;
}

// The record format stores checksums so that a checksum of data with checksums in it stays one.
uint32_t masked_crc(std::string_view bytes) {
    const uint32_t crc = crc32c(bytes);
    return ((crc >> 15) | (crc << 17)) + 0xA282EAD8u;
}

template <class T>
std::string little_endian(T value) {
    std::string bytes(sizeof(T), '\0');
    std::memcpy(bytes.data(), &value, sizeof(T));  // x86 is little-endian
    return bytes;
}

std::string varint(uint64_t value) {
    std::string bytes;
    for (; value >= 0x80; value >>= 7) bytes += static_cast<char>((value & 0x7F) | 0x80);
    return bytes + static_cast<char>(value);
}

// Protobuf fields by wire type: 0 varint, 1 eight bytes, 2 length and bytes, 5 four bytes.
std::string tag(int field, int wire_type) {
    return varint(static_cast<uint64_t>(field) << 3 | static_cast<uint64_t>(wire_type));
}
std::string integer_field(int field, int64_t value) {
    return tag(field, 0) + varint(static_cast<uint64_t>(value));
}
std::string double_field(int field, double value) {
    return tag(field, 1) + little_endian(value);
}
std::string float_field(int field, float value) {
    return tag(field, 5) + little_endian(value);
}
std::string bytes_field(int field, const std::string& value) {
    return tag(field, 2) + varint(value.size()) + value;
}

// Event {wall_time = 1, step = 2, one of: file_version = 3, summary = 5, session_log = 7}.
std::string event(int64_t step, const std::string& what) {
    const auto now = std::chrono::system_clock::now().time_since_epoch();
    return double_field(1, std::chrono::duration<double>(now).count()) + integer_field(2, step) +
           what;
}

}  // namespace

uint32_t crc32c(std::string_view bytes) {
    static const std::array<uint32_t, 256> table = make_crc_table();
    uint32_t crc = ~0u;
    for (const char byte : bytes) {
        crc = table[(crc ^ static_cast<unsigned char>(byte)) & 0xFF] ^ (crc >> 8);
    }
    return ~crc;
}

TensorBoardWriter::TensorBoardWriter(const std::string& directory, int64_t last_step) {
    std::error_code error;
    std::filesystem::create_directories(directory, error);
    char host[256] = "host";
    ::gethostname(host, sizeof(host) - 1);
    const auto now = std::chrono::system_clock::now().time_since_epoch();
    const auto micros = std::chrono::duration_cast<std::chrono::microseconds>(now).count();
    // Readers take the files of a directory in the order of their names.
    const std::string path =
        concat(directory, "/events.out.tfevents.", micros / 1000000, ".",
               std::to_string(1000000 + micros % 1000000).substr(1), ".", host, ".", ::getpid());
    file_ = std::fopen(path.c_str(), "wb");
    if (file_ == nullptr) {
        fail(ExitCode::storage, path, ": cannot open for writing: ", std::strerror(errno));
    }
    write_record(event(0, bytes_field(3, "brain.Event:2")));
    if (last_step > 0) {
        // SessionLog {status = 1: START = 1} makes readers drop older records from this step on.
        write_record(event(last_step + 1, bytes_field(7, integer_field(1, 1))));
    }
}

TensorBoardWriter::~TensorBoardWriter() {
    if (file_ != nullptr) std::fclose(file_);
}

bool TensorBoardWriter::write(int64_t step,
                              const std::vector<std::pair<std::string, double>>& scalars) {
    std::string summary;  // Summary {repeated Value value = 1 {tag = 1, simple_value = 2}}
    for (const auto& [name, value] : scalars) {
        summary += bytes_field(1, bytes_field(1, name) + float_field(2, static_cast<float>(value)));
    }
    return write_record(event(step, bytes_field(5, summary)));
}

bool TensorBoardWriter::write_record(const std::string& event) {
    const std::string length = little_endian(static_cast<uint64_t>(event.size()));
    const std::string record =
        length + little_endian(masked_crc(length)) + event + little_endian(masked_crc(event));
    const bool written = std::fwrite(record.data(), 1, record.size(), file_) == record.size();
    return std::fflush(file_) == 0 && written;  // a live TensorBoard shows each step at once
}

}  // namespace fucina
