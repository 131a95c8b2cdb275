// What the process holds besides tensors.
#pragma once
#include <cstdint>
#include <string>

namespace fucina {

// What is no tensor, as a purpose beside Arena's.
inline constexpr const char* kProgramPurpose = "program";

// Bytes of a line "VmHWM:  298872 kB" of /proc/self/status; 0 if there is none.
int64_t process_bytes(const std::string& key);

// Code, libraries, data, tables of tokens and whatever else is no tensor.
int64_t program_bytes();

}  // namespace fucina
