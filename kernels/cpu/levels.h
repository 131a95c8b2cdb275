// Function tables with one copy per instruction set, and the choice among them at run time.
// A header of plain declarations says FUCINA_DECLARE_LEVELS(NormKernels, kNormKernels); its
// cpu/*_isa.cpp defines the table in its own namespace; callers write FUCINA_PICK(kNormKernels).
#pragma once
#include "kernels/runtime.h"

#define FUCINA_DECLARE_LEVELS(Type, name) \
    namespace scalar {                    \
    extern const Type name;               \
    }                                     \
    namespace avx2 {                      \
    extern const Type name;               \
    }                                     \
    namespace avx512 {                    \
    extern const Type name;               \
    }                                     \
    namespace avx512_bf16 {               \
    extern const Type name;               \
    }

// Of the table `name`, the copy for this CPU, what FUCINA_ISA allows and the numerics.
#define FUCINA_PICK(name)                                                                       \
    (::fucina::runtime().native_bf16 ? ::fucina::cpu::avx512_bf16::name                         \
     : ::fucina::runtime().vector_level >= ::fucina::IsaLevel::avx512                           \
         ? ::fucina::cpu::avx512::name                                                          \
     : ::fucina::runtime().vector_level == ::fucina::IsaLevel::avx2 ? ::fucina::cpu::avx2::name \
                                                                    : ::fucina::cpu::scalar::name)
