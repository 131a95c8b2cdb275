#include "trainer/product_choice.h"

#include <vector>

#include "kernels/error.h"
#include "kernels/products.h"
#include "parallel/agreement.h"

namespace fucina {
namespace {

// The order of kernels/cuda.
constexpr ProductOrder kOnGpu = ProductOrder::fma;

bool needs_order(const Train& train) {
    return train.numerics() != "fast" && train.precision() != "fp32";
}

}  // namespace

ProductOrder fastest_products(Communicator& communicator) {
    const ProductOffer own = product_offer();
    std::vector<ProductOffer> all(static_cast<size_t>(communicator.size()));
    communicator.all_gather(std::as_bytes(std::span(&own, 1)),
                            std::as_writable_bytes(std::span(all)));
    return fastest_products(common_offer(all));
}

bool all_offer(Communicator& communicator, ProductOrder order) {
    int64_t lacking[] = {offers(order) ? 0 : 1};
    communicator.all_reduce_max(lacking);
    return lacking[0] == 0;
}

void resolve_products(Communicator& communicator, Recipe& recipe,
                      const std::string& what_to_do_instead) {
    if (!needs_order(recipe.train())) return;
    const std::string& wanted = recipe.exact().products();
    if (recipe.run().device() == "cuda") {
        if (wanted != "auto" && product_order(wanted) != kOnGpu)
            fail(ExitCode::usage, "exact.products = \"", wanted,
                 "\": a GPU has the order \"fma\" alone; ", what_to_do_instead);
        recipe.mutable_exact()->set_products(std::string(name_of(kOnGpu)));
        return;
    }
    if (wanted == "auto") {
        recipe.mutable_exact()->set_products(std::string(name_of(fastest_products(communicator))));
        return;
    }
    agree(communicator, [&] {
        if (offers(product_order(wanted))) return;
        fail(ExitCode::usage, "exact.products = \"", wanted,
             "\" needs AVX512_BF16, which this CPU lacks (", describe_runtime(), "); ",
             what_to_do_instead);
    });
}

ProductOrder evaluation_products(Communicator& communicator, const Recipe* run) {
    if (!communicator.exec().on_host()) return kOnGpu;
    if (run != nullptr && needs_order(run->train())) {
        const ProductOrder order = product_order(stored_products(*run));
        if (all_offer(communicator, order)) return order;
    }
    return fastest_products(communicator);
}

std::string stored_products(const Recipe& run) {
    return run.exact().has_products() ? run.exact().products() : "amx";
}

}  // namespace fucina
