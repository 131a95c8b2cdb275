#include "kernels/cuda/runtime.h"

#include <cuda_runtime_api.h>

#include <sstream>

#include "kernels/arena.h"
#include "kernels/error.h"

namespace fucina::cuda {
namespace {

// Of the GPUs that the kernels were compiled for, the first number of their compute capability.
#if !defined(FUCINA_CUDA_CAPABILITIES)
#define FUCINA_CUDA_CAPABILITIES "9"
#endif
bool compiled_for(int major) {
    std::istringstream majors(FUCINA_CUDA_CAPABILITIES);
    for (int one = 0; majors >> one;)
        if (one == major) return true;
    return false;
}

void check(cudaError_t status, const char* what) {
    if (status != cudaSuccess)
        fail(ExitCode::internal, what, ": ", cudaGetErrorName(status), ", ",
             cudaGetErrorString(status));
}

std::string version(int number) {
    return concat(number / 1000, ".", number % 1000 / 10);
}

// Why no device can be used, or empty.
std::string obstacle(int& devices) {
    devices = 0;
    int driver = 0;
    cudaDriverGetVersion(&driver);
    const cudaError_t status = cudaGetDeviceCount(&devices);
    if (driver != 0 && driver < CUDART_VERSION)
        return concat("the driver is for CUDA ", version(driver),
                      ", and this program was built with CUDA ", version(CUDART_VERSION),
                      ": install a newer driver");
    if (status != cudaSuccess || devices == 0)
        return concat(
            "no GPU is visible (",
            driver == 0 ? "there is no NVIDIA driver" : cudaGetErrorString(status),
            "): look at nvidia-smi and CUDA_VISIBLE_DEVICES, or set run.device = \"cpu\"");
    return {};
}

}  // namespace

Exec open_device(int local_rank) {
    int devices = 0;
    const std::string why = obstacle(devices);
    if (!why.empty()) fail(ExitCode::usage, "run.device = \"cuda\": ", why);
    const int device = local_rank % devices;
    cudaDeviceProp properties{};
    check(cudaGetDeviceProperties(&properties, device), "properties of the device");
    if (properties.major < 9)
        fail(ExitCode::usage, "run.device = \"cuda\": ", properties.name,
             " has compute capability ", properties.major, ".", properties.minor,
             ", and the kernels need 9.0 (H100) or newer");
    if (!compiled_for(properties.major))
        fail(ExitCode::usage, "run.device = \"cuda\": this program has no kernels for ",
             properties.name, ", compute capability ", properties.major, ".", properties.minor,
             "; build it with -DFUCINA_CUDA_ARCH=", properties.major, properties.minor);
    check(cudaSetDevice(device), "choice of the device");
    cudaStream_t stream = nullptr;
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "a stream");
    return {.device = Device::cuda, .stream = stream, .arena = &Arena::device_memory()};
}

DeviceIdentity current_device() {
    DeviceIdentity device;
    char bus_id[32] = "";
    check(cudaGetDevice(&device.number), "the current device");
    check(cudaGetDeviceCount(&device.visible), "number of devices");
    check(cudaDeviceGetPCIBusId(bus_id, sizeof bus_id, device.number), "a device's bus");
    device.bus_id = bus_id;
    return device;
}

void copy_rows(const RowCopy& io, Stream stream) {
    check(cudaMemcpy2DAsync(io.to, static_cast<size_t>(io.to_stride), io.from,
                            static_cast<size_t>(io.from_stride), static_cast<size_t>(io.row_bytes),
                            static_cast<size_t>(io.rows), cudaMemcpyDefault, stream),
          "a copy");
}

void zero_rows(std::byte* to, int64_t stride, int64_t row_bytes, int64_t rows, Stream stream) {
    check(cudaMemset2DAsync(to, static_cast<size_t>(stride), 0, static_cast<size_t>(row_bytes),
                            static_cast<size_t>(rows), stream),
          "zeros");
}

void wait(Stream stream) {
    check(cudaStreamSynchronize(stream), "work on the device");
}

std::byte* allocate(int64_t bytes) {
    void* memory = nullptr;
    const cudaError_t status = cudaMalloc(&memory, static_cast<size_t>(bytes));
    if (status == cudaErrorMemoryAllocation) {
        cudaGetLastError();  // or the next call would report it
        return nullptr;
    }
    check(status, "memory of the device");
    return static_cast<std::byte*>(memory);
}

void release(std::byte* memory) {
    cudaFree(memory);
}

DeviceMemory device_memory() {
    size_t free = 0, total = 0;
    check(cudaMemGetInfo(&free, &total), "memory of the device");
    return {static_cast<int64_t>(free), static_cast<int64_t>(total)};
}

std::string describe_device() {
    int devices = 0, driver = 0;
    std::string why = obstacle(devices);
    if (!why.empty()) return why;
    cudaDeviceProp properties{};
    check(cudaGetDeviceProperties(&properties, 0), "properties of the device");
    cudaDriverGetVersion(&driver);
    return concat(devices, " of ", properties.name, ", compute capability ", properties.major, ".",
                  properties.minor, ", ", properties.totalGlobalMem >> 30, " GiB, driver for CUDA ",
                  version(driver));
}

}  // namespace fucina::cuda
