// Cases of gemm.h in FP8.
#include "tests/kernels/gemm_cases.h"

namespace fucina::test {
namespace {

// Whole blocks of 128 and not, widths that no 16 bytes hold, chunks, leaves longer than a block.
const AddCases kFp8([](Cases& cases) {
    constexpr DType kType = DType::f8_e4m3;
    for (const auto& [rows, n, k] : {std::array<int64_t, 3>{1, 1, 1},
                                     {3, 130, 128},
                                     {33, 70, 31},
                                     {400, 136, 144},
                                     {65, 200, 300}}) {
        cases.kernels.push_back(linear_case({rows, n, k, kType}));
        cases.kernels.push_back(linear_case({rows, n, k, kType, true, true}));
        cases.kernels.push_back(wgrad_case(rows, n, k, kType));
    }
    for (const KCut cut : {KCut{1, 2}, {2, 1}, {2, 2}, {4, 2}}) {
        const int64_t k = 128 * cut.chunks * cut.parts;
        cases.kernels.push_back(linear_case({5, 70, k, kType, false, false, cut}));
        cases.kernels.push_back(linear_case({35, k, 72, kType, true, true, cut}));
    }
    for (const bool index : {false, true})
        for (const GroupedShape& s :
             {GroupedShape{2, 1, 3, 5, kType, index}, GroupedShape{5, 70, 48, 40, kType, index},
              GroupedShape{3, 900, 80, 144, kType, index}}) {
            cases.kernels.push_back(grouped_case(s));
            cases.kernels.push_back(grouped_wgrad_case(s));
            cases.kernels.push_back(gate_up_case(s));
            cases.kernels.push_back(down_backward_case(s));
        }
});

}  // namespace
}  // namespace fucina::test
