// The memory of the GPU that the SIMT model is: the host may not touch it, as with a GPU, wherever
// the CPU has protection keys (pkeys(7)). A thread may while it runs a kernel or copies.
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
