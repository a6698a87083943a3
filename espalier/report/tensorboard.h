#pragma once

#include <cstdint>
#include <filesystem>
#include <span>

#include "espalier/base/bytes.h"
#include "espalier/base/options.h"

// Scalars for TensorBoard, without protobuf. An event file is a sequence of TFRecords,
//   u64 length | u32 masked CRC-32C of those 8 bytes | data | u32 masked CRC-32C of the data
//   (little-endian)
// whose data are tensorflow.Event messages: wall_time (field 1, double), step (2, int64),
// file_version (3, string; first record only) and summary (5), which repeats value (1) with tag (1,
// string) and simple_value (2, float).
namespace espalier::report {

// CRC-32C (Castagnoli, reflected polynomial 0x82F63B78), and TensorFlow's masking of it: rotated
// right by 15 bits, plus a constant, so that a checksum stored in a record does not disturb the
// checksum of the record.
uint32_t crc32c(std::span<const uint8_t> data);
uint32_t masked_crc32c(std::span<const uint8_t> data);

// Writes one event file, replacing an older one. A resumed run first adds the lines it kept, so
// that nothing is doubled. Not thread-safe. Errors name the file.
class EventWriter {
 public:
  // `start_seconds` is the time of the start of the run since the Unix epoch; a line's time is that
  // plus its "wall_seconds".
  EventWriter(const std::filesystem::path& path, double start_seconds);
  ~EventWriter();
  EventWriter(const EventWriter&) = delete;
  EventWriter& operator=(const EventWriter&) = delete;

  // One event with every finite numeric field of a metrics line but "round", which is the step.
  void add(const Json& metrics_line);

 private:
  void write_record(std::span<const uint8_t> data);

  std::filesystem::path path_;
  double start_seconds_;
  int descriptor_;
};

}  // namespace espalier::report
