#include "trainer/report/tensorboard.h"

#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>

#include "configs/tensorboard.pb.h"
#include "kernels/error.h"

namespace fucina {
namespace {

using tensorboard::Event;

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

Event event_at(int64_t step) {
    Event event;
    const auto now = std::chrono::system_clock::now().time_since_epoch();
    event.set_wall_time(std::chrono::duration<double>(now).count());
    event.set_step(step);
    return event;
}

}  // namespace

uint32_t crc32c(std::string_view bytes) {
    constexpr uint32_t kPolynomial = 0x82F63B78;  // Castagnoli, bits reversed
    uint32_t crc = ~0u;
    for (const char byte : bytes) {  // of a few hundred
        crc ^= static_cast<unsigned char>(byte);
        for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? kPolynomial : 0);
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
    Event first = event_at(0);
    first.set_file_version("brain.Event:2");
    write_record(first.SerializeAsString());
    if (last_step <= 0) return;
    Event start = event_at(last_step + 1);  // readers drop older records from this step on
    start.mutable_session_log()->set_status(1);
    write_record(start.SerializeAsString());
}

TensorBoardWriter::~TensorBoardWriter() {
    if (file_ != nullptr) std::fclose(file_);
}

bool TensorBoardWriter::write(int64_t step,
                              const std::vector<std::pair<std::string, double>>& scalars) {
    Event event = event_at(step);
    for (const auto& [name, value] : scalars) {
        tensorboard::Summary::Value& scalar = *event.mutable_summary()->add_value();
        scalar.set_tag(name);
        scalar.set_simple_value(static_cast<float>(value));
    }
    return write_record(event.SerializeAsString());
}

bool TensorBoardWriter::write_record(const std::string& event) {
    const std::string length = little_endian(static_cast<uint64_t>(event.size()));
    const std::string record =
        length + little_endian(masked_crc(length)) + event + little_endian(masked_crc(event));
    const bool written = std::fwrite(record.data(), 1, record.size(), file_) == record.size();
    return std::fflush(file_) == 0 && written;  // a live TensorBoard shows each step at once
}

}  // namespace fucina
