// NcclStaging: device memory that stands in for what a call has on the host.
#pragma once
#include <cuda_runtime_api.h>

#include <cstddef>
#include <map>
#include <span>
#include <vector>

namespace fucina {

class NcclStaging {
  public:
    // What one call has borrowed; give_back() ends it.
    struct Loan {
        struct Block {
            void* at;
            size_t bytes;
        };
        struct Back {
            std::byte* host;
            const void* device;
            size_t bytes;
        };
        std::vector<Block> blocks;
        std::vector<Back> back;  // what the host gets
    };

    explicit NcclStaging(int rank);
    ~NcclStaging();
    NcclStaging(const NcclStaging&) = delete;
    NcclStaging& operator=(const NcclStaging&) = delete;

    // Where the device finds what the call is given, leaves what it gives, or both: the data
    // themselves where they lie on a device.
    const void* input(Loan& loan, std::span<const std::byte> data);
    void* output(Loan& loan, std::span<std::byte> data);
    void* in_and_out(Loan& loan, std::span<std::byte> data);
    // After the call's work is done; returns when the host has what it gets.
    void give_back(Loan& loan);

  private:
    bool on_device(const void* data) const;
    void* borrow(Loan& loan, size_t bytes);
    void copy(void* to, const void* from, size_t bytes) const;

    const int rank_;
    cudaStream_t copies_ = nullptr;
    std::vector<void*> blocks_;           // all
    std::multimap<size_t, void*> spare_;  // those that no call has, by size
};

}  // namespace fucina
