#include "espalier/base/byte_source.h"

#include <gtest/gtest.h>

#include <numeric>

#include "espalier/base/error.h"
#include "espalier/base/file.h"

namespace espalier {
namespace {

namespace fs = std::filesystem;

Bytes counted(size_t size) {
  Bytes bytes(size);
  std::iota(bytes.begin(), bytes.end(), uint8_t{1});
  return bytes;
}

// As a file would have them.
void append_elsewhere(Bytes bytes, ByteSource& source) {
  const size_t size = bytes.size();
  source.append_read(size, [bytes = std::move(bytes)](uint64_t offset, std::span<uint8_t> out) {
    ASSERT_LE(offset + out.size(), bytes.size());
    std::copy_n(bytes.begin() + static_cast<ptrdiff_t>(offset), out.size(), out.begin());
  });
}

TEST(ByteSource, IsItsPartsOneAfterTheOther) {
  const Bytes seen = {7, 8, 9};
  ByteSource source;
  source.append(Bytes{1, 2});
  append_elsewhere({3, 4, 5, 6}, source);
  source.append_view(seen);
  source.append(Bytes{});
  append_elsewhere({}, source);
  source.append(source.part(1, 3));
  const Bytes all = {1, 2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4};
  EXPECT_EQ(source.size(), all.size());
  EXPECT_EQ(source.bytes(), all);
  EXPECT_EQ(source.checksum(), checksum32(all));
  for (size_t begin = 0; begin <= all.size(); ++begin) {
    for (size_t end = begin; end <= all.size(); ++end) {
      const Bytes expected(all.begin() + static_cast<ptrdiff_t>(begin),
                           all.begin() + static_cast<ptrdiff_t>(end));
      Bytes read(end - begin);
      source.read(begin, read);
      EXPECT_EQ(read, expected);
      EXPECT_EQ(source.part(begin, end - begin).bytes(), expected);
    }
  }
  EXPECT_EQ(ByteSource().bytes(), Bytes());
  EXPECT_EQ(ByteSource().checksum(), checksum32({}));
}

TEST(ByteSource, WhatLiesElsewhereComesInSmallPieces) {
  const Bytes all = counted((3 << 20) + 17);
  ByteSource source;
  append_elsewhere(all, source);
  Bytes seen;
  size_t largest = 0;
  source.for_each_piece([&](std::span<const uint8_t> piece) {
    largest = std::max(largest, piece.size());
    seen.insert(seen.end(), piece.begin(), piece.end());
  });
  EXPECT_EQ(seen, all);
  EXPECT_EQ(largest, size_t{1} << 20);
  EXPECT_EQ(source.checksum(), checksum32(all));
}

TEST(ByteSource, APartKeepsWhatItIsOf) {
  ByteSource part;
  {
    ByteSource source;
    source.append(Bytes{1, 2, 3, 4});
    part = source.part(1, 2);
  }
  EXPECT_EQ(part.bytes(), (Bytes{2, 3}));
}

TEST(SourceReader, ReadsWithinBounds) {
  Bytes bytes;
  ByteWriter writer(bytes);
  writer.put(uint32_t{5});
  writer.array(std::span<const float>(std::vector<float>{1, 2}));
  ByteSource source;
  append_elsewhere(bytes, source);
  SourceReader reader(source, "test");
  EXPECT_EQ(reader.get<uint32_t>(), 5u);
  EXPECT_THROW(reader.finish(), Error);
  EXPECT_EQ(reader.remaining(), 8u);
  EXPECT_THROW(reader.part(9), Error);
  std::vector<float> values(2);
  reader.array(std::span(values));
  EXPECT_EQ(values, (std::vector<float>{1, 2}));
  reader.finish();
  EXPECT_THROW(reader.get<uint8_t>(), Error);
}

class ByteSourceFile : public testing::Test {
 protected:
  void SetUp() override { fs::create_directories(folder_); }
  void TearDown() override { fs::remove_all(folder_); }
  fs::path folder_ = fs::path(testing::TempDir()) / "byte-source";
  fs::path file_ = folder_ / "file";
};

TEST_F(ByteSourceFile, IsWrittenAndRead) {
  const Bytes all = counted((2 << 20) + 5);
  ByteSource source;
  source.append(Bytes{9});
  append_elsewhere(all, source);
  write_file_atomic(file_, source);
  EXPECT_EQ(read_file(file_), source.bytes());
  const ByteSource file = file_source(file_);
  write_file_atomic(file_, Bytes{1});  // what was opened stays
  EXPECT_EQ(file.part(1, all.size()).bytes(), all);
  EXPECT_THROW(file_source(folder_ / "other"), Error);
}

TEST_F(ByteSourceFile, AFailureLeavesWhatWasThere) {
  write_file_atomic(file_, Bytes{1, 2, 3});
  ByteSource source;
  source.append(counted(100'000));
  source.append_read(
      10, [](uint64_t, std::span<uint8_t>) { throw StorageError("[test] the disk is gone"); });
  EXPECT_THROW(write_file_atomic(file_, source), StorageError);
  EXPECT_EQ(read_file(file_), (Bytes{1, 2, 3}));
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), fs::directory_iterator()), 1);
}

}  // namespace
}  // namespace espalier
