#include "parallel/agreement.h"

#include <string>

#include "kernels/error.h"

namespace fucina {

void agree(Communicator& communicator, const std::function<void()>& body) {
    int64_t code = 0;
    std::string message;
    try {
        body();
    } catch (const Error& error) {
        code = static_cast<int64_t>(error.code());
        message = error.what();
    }
    if (communicator.size() == 1) {
        if (code != 0) throw Error(static_cast<ExitCode>(code), message);
        return;
    }
    const int none = communicator.size();
    std::vector<int64_t> first{code == 0 ? -none : -communicator.rank()};
    communicator.all_reduce_max(first);
    const int speaker = static_cast<int>(-first[0]);
    if (speaker == none) return;
    int64_t header[2] = {code, static_cast<int64_t>(message.size())};
    communicator.broadcast(std::as_writable_bytes(std::span(header)), speaker);
    message.resize(static_cast<size_t>(header[1]));
    communicator.broadcast(std::as_writable_bytes(std::span(message)), speaker);
    throw Error(static_cast<ExitCode>(header[0]), message);
}

}  // namespace fucina
