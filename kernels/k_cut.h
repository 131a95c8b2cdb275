// How the summed dimension K of a product is cut into chunks, so that ranks which hold some of the
// columns of x and of W form partial sums that add up to the whole's bits.
//
// K consists of `parts` equal parts, the fused weights whose outputs it is (gate | up has two).
// Chunk c is the c-th of `chunks` equal pieces of each part, part after part: what a rank holds
// that has its share of every part. It is one leaf, in which each piece begins as a leaf does;
// chunk sums are added along the contiguous binary tree. A rank with chunks [a, b) of a node of
// that tree packs its columns with b - a chunks and gets, in fp32, the node's sum. One chunk of one
// part is K as one leaf; of several parts, the same where these are multiples of 32.
#pragma once
#include <bit>
#include <cstdint>

#include "kernels/error.h"

namespace fucina {

constexpr int64_t kMostChunks = 4;
constexpr int64_t kFp8Products = 128;  // that an FP8 sum takes before it is promoted to fp32

struct KCut {
    int64_t chunks = 1;  // 1, 2 or 4
    int64_t parts = 1;
};

inline void check_chunks(int64_t chunks, int64_t whole, const char* what) {
    FUCINA_CHECK(chunks >= 1 && chunks <= kMostChunks && std::has_single_bit(uint64_t(chunks)),
                 chunks, " chunks of ", what, "; 1, 2 and 4 are possible");
    FUCINA_CHECK(whole % chunks == 0, whole, " ", what, " in ", chunks, " chunks");
}

// The pieces of K in the order of the sum: chunk after chunk, in each one of every part.
struct KPieces {
    int64_t chunks = 1, parts = 1;
    int64_t length = 0;  // of each

    KPieces(KCut cut, int64_t k) : chunks(cut.chunks), parts(cut.parts) {
        FUCINA_CHECK(parts >= 1 && k % parts == 0, "K of ", k, " in ", parts, " parts");
        check_chunks(chunks, k / parts, "columns of K");
        length = k / parts / chunks;
    }
    int64_t count() const { return chunks * parts; }
    // Where piece `i` begins in K.
    int64_t begin(int64_t i) const { return (i % parts * chunks + i / parts) * length; }
};

// The same for FP8: the parts of one chunk are one piece, and chunks begin with a block of scales.
inline KPieces fp8_pieces(KCut cut, int64_t k) {
    const KPieces pieces(cut.chunks == 1 ? KCut{} : cut, k);
    FUCINA_CHECK(pieces.count() == 1 || pieces.length % kFp8Products == 0, "K of ", k, " in ",
                 pieces.count(), " pieces of ", pieces.length, "; FP8 takes multiples of ",
                 kFp8Products);
    return pieces;
}

}  // namespace fucina
