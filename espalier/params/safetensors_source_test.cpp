#include "espalier/params/safetensors_source.h"

#include <gtest/gtest.h>

#include "espalier/base/error.h"

namespace espalier {
namespace {

ByteSource elsewhere(const Bytes& bytes) {
  ByteSource source;
  source.append_read(bytes.size(), [bytes](uint64_t offset, std::span<uint8_t> out) {
    std::copy_n(bytes.begin() + static_cast<ptrdiff_t>(offset), out.size(), out.begin());
  });
  return source;
}

// Each of the two written by the other's means.
TEST(SafetensorsSource, HasTheBytesOfOneInMemory) {
  const Bytes first = {1, 2, 3, 4, 5, 6, 7, 8}, second = {9, 10, 11};
  const std::map<std::string, std::string> metadata = {{"format", "test"}};
  const Bytes whole =
      write_safetensors({{"z", DType::kF32, {2}, first}, {"a", DType::kU8, {3}, second}}, metadata);
  std::vector<std::pair<std::string, TensorSource>> tensors;
  tensors.emplace_back("z", TensorSource{DType::kF32, {2}, elsewhere(first)});
  tensors.emplace_back("a", TensorSource{DType::kU8, {3}, elsewhere(second)});
  EXPECT_EQ(safetensors_source(tensors, metadata).bytes(), whole);
  EXPECT_EQ((whole.size() - 8 - 3) % 8, 0u);  // the body is aligned

  const SafetensorsSource read = parse_safetensors(elsewhere(whole), "test");
  EXPECT_EQ(read.metadata, metadata);
  ASSERT_EQ(read.tensors.size(), 2u);
  EXPECT_EQ(read.tensors.at("z").dtype, DType::kF32);
  EXPECT_EQ(read.tensors.at("z").shape, std::vector<int64_t>{2});
  EXPECT_EQ(read.tensors.at("z").data.bytes(), first);
  EXPECT_EQ(read.tensors.at("a").data.bytes(), second);
}

// Reading the header touches nothing else.
TEST(SafetensorsSource, TensorsAreReadWhenTheyAreAskedFor) {
  const Bytes data(1000, 7);
  const Bytes whole = write_safetensors({{"a", DType::kU8, {1000}, data}}, {});
  uint64_t furthest = 0;
  ByteSource file;
  file.append_read(whole.size(), [&](uint64_t offset, std::span<uint8_t> out) {
    furthest = std::max(furthest, offset + out.size());
    std::copy_n(whole.begin() + static_cast<ptrdiff_t>(offset), out.size(), out.begin());
  });
  const SafetensorsSource read = parse_safetensors(file, "test");
  EXPECT_EQ(furthest, whole.size() - 1000);
  EXPECT_EQ(read.tensors.at("a").data.bytes(), data);
}

}  // namespace
}  // namespace espalier
