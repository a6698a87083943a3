#include "espalier/base/file_writer.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <vector>

#include "espalier/base/error.h"
#include "espalier/base/file.h"

namespace espalier {
namespace {

namespace fs = std::filesystem;

class FileWriterTest : public testing::Test {
 protected:
  FileWriterTest() { fs::create_directories(folder_); }
  ~FileWriterTest() override { fs::remove_all(folder_); }
  const fs::path folder_ = fs::path(testing::TempDir()) / concat("file-writer-", ::getpid());
};

TEST_F(FileWriterTest, PiecesGoWhereTheyBelong) {
  const fs::path file = folder_ / "file";
  // More pieces than one call of the system takes, empty ones among them.
  Bytes all(1000);
  for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<uint8_t>(i * 7);
  std::vector<std::span<const uint8_t>> pieces;
  for (size_t at = 0, size = 0; at < all.size(); at += size, size = (size + 1) % 5)
    pieces.push_back(std::span(all).subspan(at, std::min(size, all.size() - at)));
  EXPECT_GT(pieces.size(), 200U);
  {
    FileWriter writer(file, true);
    writer.write(3, pieces);
    const std::vector<std::span<const uint8_t>> two = {std::span(all).first(2), {}};
    writer.write(0, two);
    writer.write(0, {});
  }
  Bytes expected = {all[0], all[1], 0};
  expected.insert(expected.end(), all.begin(), all.end());
  EXPECT_EQ(read_file(file), expected);
  // Another one goes on in it, or begins anew.
  const std::vector<std::span<const uint8_t>> one = {std::span(all).subspan(9, 1)};
  FileWriter(file, false).write(2, one);
  expected[2] = all[9];
  EXPECT_EQ(read_file(file), expected);
  FileWriter(file, true).write(0, one);
  EXPECT_EQ(read_file(file), Bytes{all[9]});
}

TEST_F(FileWriterTest, SaysWhatIsWrong) {
  EXPECT_THROW(FileWriter(folder_ / "nowhere" / "file", true), StorageError);
  if (!fs::exists("/dev/full")) GTEST_SKIP();
  const Bytes data(10);
  const std::vector<std::span<const uint8_t>> pieces = {data};
  EXPECT_THROW(FileWriter("/dev/full", false).write(0, pieces), StorageError);
}

}  // namespace
}  // namespace espalier
