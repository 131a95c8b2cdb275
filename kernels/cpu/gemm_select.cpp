#include "kernels/cpu/gemm_select.h"

#include "kernels/cpu/levels.h"
#include "kernels/error.h"
#include "kernels/runtime.h"

namespace fucina::cpu {
GemmSet gemm_set(DType type) {
    if (type == DType::f32)
        return {FUCINA_PICK(kFp32Kernel), FUCINA_PICK(kFp32Tools), FUCINA_PICK(kFp32Epilogues),
                size_of(type)};
    FUCINA_CHECK(type == DType::bf16, "matrix products take BF16 or F32, not ", name_of(type));
    return {FUCINA_PICK(kBf16Kernel), FUCINA_PICK(kBf16Tools), FUCINA_PICK(kBf16Epilogues),
            size_of(type)};
}

}  // namespace fucina::cpu
