// TensorBoard event files: TFRecords of Event protos (configs/tensorboard.proto). Only scalars.
#pragma once
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace fucina {

// CRC-32C (Castagnoli), as the record format uses it.
uint32_t crc32c(std::string_view bytes);

class TensorBoardWriter {
  public:
    // A new file events.out.tfevents.* in `directory` (made if absent), for the steps after
    // `last_step`: readers drop what older files say of later ones. Error(storage) if it cannot.
    TensorBoardWriter(const std::string& directory, int64_t last_step);
    ~TensorBoardWriter();
    TensorBoardWriter(const TensorBoardWriter&) = delete;
    TensorBoardWriter& operator=(const TensorBoardWriter&) = delete;

    // The scalars of one step, as one record. Values are stored as fp32, which is the format's.
    // False if the disk refused; training goes on without.
    bool write(int64_t step, const std::vector<std::pair<std::string, double>>& scalars);

  private:
    bool write_record(const std::string& event);

    std::FILE* file_ = nullptr;
};

}  // namespace fucina
