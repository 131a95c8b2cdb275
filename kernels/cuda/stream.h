// The queue that a device operation is put on. Null is the default stream; under the SIMT model an
// operation has run when its call returns.
#pragma once

struct CUstream_st;

namespace fucina::cuda {

using Stream = CUstream_st*;  // = cudaStream_t

}  // namespace fucina::cuda
