// While one lives, this process may touch the memory of the GPU that the SIMT model is: kernels and
// copies make one. With FUCINA_SIMT_GUARD=1 in the environment the host that touches it otherwise
// ends by SIGSEGV, as with a GPU; a system call or two a kernel.
#pragma once

namespace fucina::simt {

class DeviceAccess {
  public:
    DeviceAccess();
    ~DeviceAccess();
    DeviceAccess(const DeviceAccess&) = delete;
    DeviceAccess& operator=(const DeviceAccess&) = delete;
};

}  // namespace fucina::simt
