#include "espalier/base/file.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include "espalier/base/error.h"

namespace espalier {
namespace {

namespace fs = std::filesystem;

TEST(File, AtomicWriteReplacesWholeAndLeavesNoTemporary) {
  const fs::path path = fs::path(testing::TempDir()) / concat("espalier_file_test_", ::getpid());
  write_text_file_atomic(path, "first");
  write_text_file_atomic(path, "second, longer");
  EXPECT_EQ(read_text_file(path), "second, longer");
  EXPECT_FALSE(fs::exists(path.string() + ".tmp"));
  fs::remove(path);
}

TEST(File, AFullDiskLeavesTheOldFileAndSaysWhatToDo) {
  if (!fs::exists("/dev/full")) GTEST_SKIP() << "no /dev/full here";
  // The temporary name is a link to /dev/full, where every write fails with ENOSPC.
  const fs::path path = fs::path(testing::TempDir()) / concat("espalier_full_", ::getpid());
  write_text_file_atomic(path, "old");
  fs::create_symlink("/dev/full", path.string() + ".tmp");
  try {
    write_text_file_atomic(path, "new");
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("No space left"), std::string::npos) << error.what();
  }
  EXPECT_EQ(read_text_file(path), "old");
  EXPECT_FALSE(fs::exists(fs::symlink_status(path.string() + ".tmp")));
  fs::remove(path);
}

TEST(File, ReadErrorsNameThePath) {
  EXPECT_THROW(read_file("/nonexistent/file"), Error);
  EXPECT_THROW(read_file("/tmp"), Error);
  EXPECT_THROW(read_file("/proc/self/exe", 10), Error);
}

TEST(File, GunzipRejectsTruncationAndLimits) {
  // gzip of "hello hello hello hello\n" is built by the shell's gzip -n; these are its bytes.
  const Bytes packed = {0x1f, 0x8b, 8,    0,    0,    0,    0,    0,    0,    3,
                        0xcb, 0x48, 0xcd, 0xc9, 0xc9, 0x57, 0xc8, 0x40, 0x27, 0xb8,
                        0,    0x00, 0x88, 0x59, 0x0b, 0x18, 0,    0,    0};
  for (size_t size = 0; size < packed.size(); ++size) {
    EXPECT_THROW(gunzip(std::span(packed).first(size), "test", 1000), Error) << size;
  }
}

TEST(File, Sha256OfAbc) {
  const Bytes abc = {'a', 'b', 'c'};
  EXPECT_EQ(sha256_hex(abc), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

}  // namespace
}  // namespace espalier
