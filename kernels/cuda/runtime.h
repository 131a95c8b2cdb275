// CUDA's runtime as the host's code uses it: memory, copies and streams of the current device, and
// what doctor tells of devices. Without CUDA in the program none of these may be called.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

#include "kernels/exec.h"

namespace fucina::cuda {

// Of the GPUs that the process sees the rank's, by its number among the ranks of its machine: makes
// it current in this thread and gives its stream and arena. Throws Error(usage) in one line where
// there is no device, it is older than compute capability 9.0, or its driver is older than the
// toolkit that the program was built with.
Exec open_device(int local_rank);

// The current device.
struct DeviceIdentity {
    int number = 0;      // among those that the process sees
    int visible = 0;     // so many
    std::string bus_id;  // "0000:1B:00.0", of the machine
};
DeviceIdentity current_device();

// Rows of row_bytes at two strides, between the device and itself or the host.
struct RowCopy {
    const std::byte* from = nullptr;
    int64_t from_stride = 0;  // bytes
    std::byte* to = nullptr;
    int64_t to_stride = 0;
    int64_t row_bytes = 0, rows = 0;
};
void copy_rows(const RowCopy& io, Stream stream);
void zero_rows(std::byte* to, int64_t stride, int64_t row_bytes, int64_t rows, Stream stream);
void wait(Stream stream);

// Null where the device has no such memory left.
std::byte* allocate(int64_t bytes);
void release(std::byte* memory);
struct DeviceMemory {
    int64_t free = 0, total = 0;  // bytes
};
DeviceMemory device_memory();

// "NVIDIA H100 80GB HBM3, compute capability 9.0, 79.1 GiB, driver 13.0", or why there is none.
std::string describe_device();

}  // namespace fucina::cuda
