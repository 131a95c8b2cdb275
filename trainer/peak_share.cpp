#include "trainer/peak_share.h"

#include "kernels/calibrate.h"

namespace fucina {

double step_flops(Model& model, int64_t tokens, int64_t pairs) {
    const ModelSpec& spec = model.spec();
    double weights = 0;  // that a token meets
    for (const Parameter* parameter : model.all_parameters()) {
        const bool tied = spec.tied_head && parameter->name == "embedding";
        if (!parameter->packed && !tied) continue;
        double met = static_cast<double>(whole_box(parameter->shape).size());
        if (parameter->layout.expert >= 0) {
            met *= static_cast<double>(spec.moe.router.top_k) /
                   static_cast<double>(spec.moe.router.experts);
        }
        weights += met;
    }
    const MlaSpec& mla = spec.attention;
    const auto pair = static_cast<double>(spec.layers * mla.heads * (mla.qk_dim() + mla.v_dim));
    return 6 * (weights * static_cast<double>(tokens) + pair * static_cast<double>(pairs));
}

double PeakShare::of(double flops, double seconds) {
    const auto now = std::chrono::steady_clock::now();
    if (peak_ == 0 || now - measured_ > std::chrono::seconds(10)) {
        const DType operands = train_.precision() == "fp32" ? DType::f32 : DType::bf16;
        peak_ = peak_flops(operands) * ranks_;
        measured_ = now;
    }
    return peak_ > 0 ? flops / seconds / peak_ : 0;
}

}  // namespace fucina
