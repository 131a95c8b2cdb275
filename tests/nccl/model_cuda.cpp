// CUDA's runtime as far as NcclCommunicator calls it. Copies between host and device happen in
// their stream's order, not before somebody looks.
#include <algorithm>
#include <cstring>
#include <thread>

#include "tests/nccl/model_state.h"

namespace fucina::nccl_model {
namespace {

thread_local int device = 0;

}  // namespace

State& state() {
    static State state;
    return state;
}

int current_device() {
    return device;
}

CUstream_st* stream_of(cudaStream_t stream) {
    return stream != nullptr ? stream : state().default_streams[static_cast<size_t>(device)].get();
}

bool is_device_memory(const void* at, size_t bytes) {
    const auto* const begin = static_cast<const std::byte*>(at);
    auto block = state().memory.upper_bound(begin);
    if (block == state().memory.begin()) return false;
    --block;
    return begin + bytes <= block->first + block->second;
}

std::shared_ptr<ModelWork> enqueue(CUstream_st* stream, std::function<bool()> run) {
    auto work = std::make_shared<ModelWork>();
    work->run = std::move(run);
    stream->work.push_back(work);
    return work;
}

void run_streams() {
    for (bool moved = true; moved;) {
        moved = false;
        for (CUstream_st* stream : state().streams) {
            while (!stream->held && !stream->work.empty()) {
                ModelWork& head = *stream->work.front();
                if (!head.done && !head.run()) break;
                head.done = true;
                stream->work.pop_front();
                moved = true;
            }
        }
    }
}

void reset(int devices) {
    State& all = state();
    const std::lock_guard lock(all.mutex);
    for (const auto& [at, bytes] : all.memory) delete[] at;
    all.memory.clear();
    all.devices = devices;
    all.default_streams.clear();
    all.streams.clear();
    for (int i = 0; i < devices; ++i) {
        all.default_streams.push_back(std::make_unique<CUstream_st>());
        all.default_streams.back()->device = i;
        all.streams.insert(all.default_streams.back().get());
    }
    all.calls.clear();
    all.faults.clear();
    all.failures.clear();
}

std::vector<std::string> faults() {
    const std::lock_guard lock(state().mutex);
    return state().faults;
}

void write_when_released(cudaStream_t stream, std::byte* at, std::byte value) {
    const std::lock_guard lock(state().mutex);
    stream_of(stream)->held = true;
    enqueue(stream_of(stream), [=] {
        *at = value;
        return true;
    });
}

void release(cudaStream_t stream) {
    const std::lock_guard lock(state().mutex);
    stream_of(stream)->held = false;
}

}  // namespace fucina::nccl_model

using namespace fucina::nccl_model;

extern "C" {

cudaError_t cudaGetDeviceCount(int* count) {
    *count = state().devices;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
    if (device < 0 || device >= state().devices) return cudaErrorInvalidDevice;
    fucina::nccl_model::device = device;
    return cudaSuccess;
}

cudaError_t cudaGetDevice(int* device) {
    *device = current_device();
    return cudaSuccess;
}

cudaError_t cudaDeviceGetPCIBusId(char* id, int length, int device) {
    std::snprintf(id, static_cast<size_t>(length), "0000:%02x:00.0", static_cast<unsigned>(device));
    return cudaSuccess;
}

const char* cudaGetErrorName(cudaError_t status) {
    return status == cudaErrorInvalidDevice ? "cudaErrorInvalidDevice" : "cudaError";
}

const char* cudaGetErrorString(cudaError_t status) {
    return status == cudaErrorInvalidDevice ? "invalid device ordinal" : "an error";
}

cudaError_t cudaMalloc(void** at, size_t bytes) {
    const std::lock_guard lock(state().mutex);
    auto* const memory = new std::byte[bytes];
    std::fill(memory, memory + bytes, std::byte{0xee});
    state().memory[memory] = bytes;
    *at = memory;
    return cudaSuccess;
}

cudaError_t cudaFree(void* at) {
    const std::lock_guard lock(state().mutex);
    if (state().memory.erase(static_cast<std::byte*>(at)) > 0) delete[] static_cast<std::byte*>(at);
    return cudaSuccess;
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* at) {
    const std::lock_guard lock(state().mutex);
    *attributes = {};
    attributes->type = is_device_memory(at, 1) ? cudaMemoryTypeDevice : cudaMemoryTypeUnregistered;
    return cudaSuccess;
}

cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) {
    if (bytes > 0) std::memcpy(to, from, bytes);
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind,
                            cudaStream_t stream) {
    const std::lock_guard lock(state().mutex);
    enqueue(stream_of(stream), [=] {
        if (bytes > 0) std::memmove(to, from, bytes);
        return true;
    });
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
    const std::lock_guard lock(state().mutex);
    *stream = new CUstream_st{.device = current_device()};
    state().streams.insert(*stream);
    return cudaSuccess;
}

// What the stream still has is dropped, which CUDA would run.
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    const std::lock_guard lock(state().mutex);
    for (const auto& work : stream->work) work->done = true;
    state().streams.erase(stream);
    delete stream;
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    for (;; std::this_thread::yield()) {
        const std::lock_guard lock(state().mutex);
        run_streams();
        if (stream_of(stream)->work.empty()) return cudaSuccess;
    }
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
    const std::lock_guard lock(state().mutex);
    enqueue(stream_of(stream),
            [recorded = event->recorded] { return recorded == nullptr || recorded->done; });
    return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
    *event = new CUevent_st;
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
    delete event;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    const std::lock_guard lock(state().mutex);
    event->recorded = enqueue(stream_of(stream), [] { return true; });
    return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
    const std::lock_guard lock(state().mutex);
    run_streams();
    return event->recorded == nullptr || event->recorded->done ? cudaSuccess : cudaErrorNotReady;
}

}  // extern "C"
