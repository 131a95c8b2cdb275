// An HDF5 identifier that closes itself, and the process-wide settings that HDF5 needs to be quiet
// and harmless. Private to data/*.cpp.
#pragma once
#include <hdf5.h>

#include <utility>

namespace fucina {

class Hdf5Handle {
  public:
    using Close = herr_t (*)(hid_t);
    Hdf5Handle(hid_t id, Close close) : id_(id), close_(close) {}
    ~Hdf5Handle() { reset(); }
    Hdf5Handle(const Hdf5Handle&) = delete;
    Hdf5Handle& operator=(const Hdf5Handle&) = delete;

    explicit operator bool() const { return id_ >= 0; }
    operator hid_t() const { return id_; }
    // False when closing failed, which for a file means that it is not complete.
    bool reset() {
        const hid_t id = std::exchange(id_, -1);
        return id < 0 || close_(id) >= 0;
    }

  private:
    hid_t id_;
    Close close_;
};

// Properties of a new file, group or dataset (H5P_FILE_CREATE and so on) that keep the time out of
// it: the same content makes the same bytes. A file's are those of its root group.
inline Hdf5Handle without_times(hid_t kind) {
    const hid_t properties = H5Pcreate(kind);
    H5Pset_obj_track_times(properties, false);
    return Hdf5Handle(properties, H5Pclose);
}

// After a failed write HDF5 1.10 crashes in its own atexit handler, so it gets none. It must not
// print its error stack, and must not load filter plugins from the environment's path.
inline void quiet_hdf5() {
    static const bool done = [] {
        H5dont_atexit();
        H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
        H5PLset_loading_state(0);
        return true;
    }();
    (void)done;
}

}  // namespace fucina
