// A model of NCCL and of the part of CUDA's runtime that NcclCommunicator calls: ranks are threads,
// devices and their memory are this process's, streams are queues whose work runs when somebody
// looks at an event. It keeps the rules that a GPU would not forgive silently, and records what was
// called.
//
// What it shows: the order of calls, what waits for what, groups, sizes, offsets, and errors. What
// it does not: speed, and whether the real libraries do as their manuals say.
#pragma once
#include <cuda_runtime_api.h>
#include <nccl.h>

#include <cstddef>
#include <string>
#include <vector>

namespace fucina::nccl_model {

// As many devices, no memory, no faults and no calls; only while no rank runs.
void reset(int devices);

// NCCL calls of a device's rank since reset(), e.g. "ncclGroupStart", "ncclSend 12 to 3".
std::vector<std::string> calls(int device);
// Broken rules: memory of the host, freed or too short, given to NCCL; ranks that make different
// collectives or messages of different sizes. Each rank involved gets an asynchronous error too.
std::vector<std::string> faults();

// The next call of that name on the device returns this instead.
void fail_next(int device, const std::string& call, ncclResult_t status);
// The rank of the device is gone: the others of its groups get ncclRemoteError while they wait.
void lose(int device);

// Puts on the stream: the byte becomes `value`, not before release() lets the stream go on.
void write_when_released(cudaStream_t stream, std::byte* at, std::byte value);
void release(cudaStream_t stream);

}  // namespace fucina::nccl_model
