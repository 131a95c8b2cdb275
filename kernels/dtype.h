// Element types of tensors and files, and bfloat16 conversion (round to nearest even).
#pragma once
#include <bit>
#include <cstdint>
#include <string_view>

namespace fucina {

enum class DType : uint8_t {
    f64,
    f32,
    f16,
    bf16,
    f8_e4m3,
    f8_e5m2,
    f8_e8m0,
    i64,
    i32,
    i16,
    i8,
    u8,
    boolean
};

constexpr int64_t size_of(DType type) {
    switch (type) {
        case DType::f64:
        case DType::i64:
            return 8;
        case DType::f32:
        case DType::i32:
            return 4;
        case DType::f16:
        case DType::bf16:
        case DType::i16:
            return 2;
        default:
            return 1;
    }
}

// safetensors' spelling: "F32", "BF16", "I64", ...
constexpr std::string_view name_of(DType type) {
    constexpr std::string_view names[] = {"F64",     "F32",     "F16", "BF16", "F8_E4M3",
                                          "F8_E5M2", "F8_E8M0", "I64", "I32",  "I16",
                                          "I8",      "U8",      "BOOL"};
    return names[static_cast<int>(type)];
}

struct bfloat16 {
    uint16_t bits = 0;
};

constexpr float to_float(bfloat16 x) {
    return std::bit_cast<float>(uint32_t{x.bits} << 16);
}

// NaN stays NaN (quiet); everything else rounds to nearest, ties to even. Denormal results are
// kept.
constexpr bfloat16 to_bfloat16(float x) {
    const uint32_t bits = std::bit_cast<uint32_t>(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return {static_cast<uint16_t>((bits >> 16) | 0x40u)};
    return {static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}

template <class T>
constexpr DType dtype_of();
template <>
constexpr DType dtype_of<double>() {
    return DType::f64;
}
template <>
constexpr DType dtype_of<float>() {
    return DType::f32;
}
template <>
constexpr DType dtype_of<bfloat16>() {
    return DType::bf16;
}
template <>
constexpr DType dtype_of<int64_t>() {
    return DType::i64;
}
template <>
constexpr DType dtype_of<int32_t>() {
    return DType::i32;
}
template <>
constexpr DType dtype_of<int8_t>() {
    return DType::i8;
}
template <>
constexpr DType dtype_of<uint8_t>() {
    return DType::u8;
}

}  // namespace fucina
