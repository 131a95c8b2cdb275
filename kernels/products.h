// The choice of the order of products (kernels/runtime.h: ProductOrder) for exact.products = "auto"
// and for fast numerics.
#pragma once
#include <span>

#include "kernels/runtime.h"

namespace fucina {

// What a CPU, or as much of it as FUCINA_ISA allows, can do. Plain data: ranks exchange it.
struct ProductOffer {
    int tiles = 0;             // AMX
    int dots = 0;              // VDPBF16PS
    double dot_seconds = 0;    // of the same small product by VDPBF16PS,
    double chain_seconds = 0;  // and by FMA
};

ProductOffer product_offer();  // of the runtime's level; measures for some microseconds

// What all of them have; seconds are added.
ProductOffer common_offer(std::span<const ProductOffer> offers);

// Tiles where there are any; VDPBF16PS where it is much faster than FMA (it has twice its rate on
// some CPUs, half of it on others); else FMA.
ProductOrder fastest_products(const ProductOffer& offer);

}  // namespace fucina
