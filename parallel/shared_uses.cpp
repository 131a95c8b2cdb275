#include "parallel/shared_uses.h"

#include <algorithm>
#include <memory>
#include <vector>

namespace fucina {

void exchange_uses(Communicator& pipeline, std::span<Parameter* const> parameters) {
    const int here = pipeline.rank();
    std::vector<std::unique_ptr<Request>> messages;
    for (Parameter* parameter : parameters) {
        if (parameter->made_here.empty()) continue;
        const Layout& layout = parameter->layout;
        const int other = here == layout.stage ? layout.other_stage : layout.stage;
        std::vector<Tensor>& grads = parameter->grads;
        const auto made = std::ranges::find(parameter->made_here, true);
        const Tensor like = grads[static_cast<size_t>(made - parameter->made_here.begin())];
        for (size_t use = 0; use < grads.size(); ++use) {
            MemoryPurpose purpose("gradients");
            if (!parameter->makes(use))
                grads[use] = parameter->exec.empty(like.shape(), DType::f32);
            const std::span<std::byte> bytes = grads[use].memory();
            const auto tag = static_cast<int>(use);
            messages.push_back(parameter->makes(use) ? pipeline.start_send(bytes, other, tag)
                                                     : pipeline.start_receive(bytes, other, tag));
        }
    }
    for (const std::unique_ptr<Request>& message : messages) message->wait();
}

}  // namespace fucina
