// What model_cuda.cpp and model_nccl.cpp share. Everything is under one mutex.
#pragma once
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "tests/nccl/model.h"

// Work on a stream: at its head it is tried until it is done.
struct ModelWork {
    bool done = false;
    std::function<bool()> run;
};

struct CUstream_st {
    int device = 0;
    bool held = false;  // by write_when_released()
    std::deque<std::shared_ptr<ModelWork>> work;
};

struct CUevent_st {
    std::shared_ptr<ModelWork> recorded;
};

namespace fucina::nccl_model {

struct State {
    std::mutex mutex;
    int devices = 0;
    std::map<const std::byte*, size_t> memory;  // of devices: begin, bytes
    std::vector<std::unique_ptr<CUstream_st>> default_streams;
    std::set<CUstream_st*> streams;
    std::map<int, std::vector<std::string>> calls;
    std::vector<std::string> faults;
    std::map<std::pair<int, std::string>, ncclResult_t> failures;
};
State& state();

// With the mutex held.
bool is_device_memory(const void* at, size_t bytes);
std::shared_ptr<ModelWork> enqueue(CUstream_st* stream, std::function<bool()> run);
void run_streams();

// Of this thread.
int current_device();
CUstream_st* stream_of(cudaStream_t stream);

}  // namespace fucina::nccl_model
