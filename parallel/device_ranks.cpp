#include "parallel/device_ranks.h"

#include <algorithm>
#include <set>

#include "kernels/cuda/runtime.h"
#include "kernels/error.h"
#include "parallel/agreement.h"
#include "parallel/host_name.h"
#include "parallel/nccl_communicator.h"
#include "parallel/staged_communicator.h"

namespace fucina {
namespace {

// The first machine with more ranks than GPUs, in words.
std::string shared_device(const std::vector<std::string>& hosts,
                          const std::vector<std::string>& devices) {
    for (const std::string& host : hosts) {
        std::set<std::string> own;
        for (size_t r = 0; r < hosts.size(); ++r)
            if (hosts[r] == host) own.insert(devices[r]);
        const auto ranks = static_cast<size_t>(std::ranges::count(hosts, host));
        if (ranks > own.size())
            return concat("NOTE: the ", ranks, " ranks of ", host, " share ", own.size(),
                          own.size() == 1 ? " GPU" : " GPUs",
                          ", and NCCL takes one rank a GPU: their messages go through the host's "
                          "memory, which is slow; start ",
                          own.size(), " there");
    }
    return "";
}

std::unique_ptr<Communicator> make_collectives(Communicator& ranks, const Exec& exec, int device) {
    if constexpr (kWithNccl) return make_nccl_communicator(ranks, device, exec.stream);
    return nullptr;
}

}  // namespace

DeviceRanks make_device_ranks(Communicator& ranks) {
    DeviceRanks made;
    if constexpr (kWithCuda) {
        const std::vector<std::string> hosts = gather_texts(ranks, host_name());
        const auto own = hosts.begin() + ranks.rank();
        Exec exec;
        cuda::DeviceIdentity device;
        agree(ranks, [&] {
            exec = cuda::open_device(static_cast<int>(std::count(hosts.begin(), own, *own)));
            device = cuda::current_device();
        });
        if (kWithNccl && ranks.size() > 1)
            made.note = shared_device(hosts, gather_texts(ranks, device.bus_id));
        const bool nccl = kWithNccl && ranks.size() > 1 && made.note.empty();
        made.ranks = ranks.wrapped([&](Communicator& inner) {
            return make_staged_communicator(
                inner, exec, nccl ? make_collectives(inner, exec, device.number) : nullptr);
        });
    }
    return made;
}

}  // namespace fucina
