// Reference rotation: fp32, rounded once.
#include "kernels/rope.h"

#include "tests/reference/reference.h"
#include "tests/reference/rows.h"

namespace fucina::reference {

void rope(const Tensor& x, int64_t heads, const Tensor& positions, const RopeTable& table,
          bool inverse) {
    const int64_t half = table.cos.row_size(), head_dim = x.row_size() / heads;
    FUCINA_CHECK(x.row_size() == heads * head_dim && 2 * half <= head_dim, "rope of ", heads,
                 " heads, ", 2 * half, " rotated columns, on ", x.describe());
    const bool interleaved = table.layout == RopeLayout::interleaved;
    parallel_for(x.rows(), x.row_size(), [&](int64_t t) {
        const int32_t position = positions.data<int32_t>()[t];
        FUCINA_CHECK(position >= 0 && position < table.cos.rows(), "position ", position,
                     " of a table of ", table.cos.rows());
        const float* cos = table.cos.row<float>(position);
        const float* sin = table.sin.row<float>(position);
        std::vector<float> row = load_row(x, t);
        for (int64_t head = 0; head < heads; ++head) {
            float* rotated = row.data() + (head + 1) * head_dim - 2 * half;
            for (int64_t i = 0; i < half; ++i) {
                float& a = rotated[interleaved ? 2 * i : i];
                float& b = rotated[interleaved ? 2 * i + 1 : i + half];
                const float s = inverse ? -sin[i] : sin[i], first = a;
                a = first * cos[i] - b * s;
                b = first * s + b * cos[i];
            }
        }
        store_row(x, t, row);
    });
}

}  // namespace fucina::reference
