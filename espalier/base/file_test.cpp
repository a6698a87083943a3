#include "espalier/base/file.h"

#include <gtest/gtest.h>
#include <unistd.h>
#include <zlib.h>

#include "espalier/base/error.h"

namespace espalier {
namespace {

namespace fs = std::filesystem;

fs::path temporary_of(const fs::path& path) {
  return concat(path.string(), ".", ::getpid(), ".tmp");
}

TEST(File, AtomicWriteReplacesWholeAndLeavesNoTemporary) {
  const fs::path path = fs::path(testing::TempDir()) / concat("espalier_file_test_", ::getpid());
  write_text_file_atomic(path, "first");
  write_text_file_atomic(path, "second, longer");
  EXPECT_EQ(read_text_file(path), "second, longer");
  EXPECT_FALSE(fs::exists(temporary_of(path)));
  fs::remove(path);
}

TEST(File, AFullDiskLeavesTheOldFileAndSaysWhatToDo) {
  if (!fs::exists("/dev/full")) GTEST_SKIP() << "no /dev/full here";
  // The temporary name is a link to /dev/full, where every write fails with ENOSPC.
  const fs::path path = fs::path(testing::TempDir()) / concat("espalier_full_", ::getpid());
  write_text_file_atomic(path, "old");
  fs::create_symlink("/dev/full", temporary_of(path));
  try {
    write_text_file_atomic(path, "new");
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("No space left"), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("free some space"), std::string::npos) << error.what();
  }
  EXPECT_EQ(read_text_file(path), "old");
  EXPECT_FALSE(fs::exists(fs::symlink_status(temporary_of(path))));
  fs::remove(path);
}

TEST(File, WhatWasReadIsNotWrittenOverUnderAnyName) {
  const fs::path base = fs::path(testing::TempDir()) / concat("espalier_inputs_", ::getpid());
  make_folder(base / "inner");
  write_text_file_atomic(base / "model", "weights");
  fs::create_symlink(base / "model", base / "alias");
  const std::vector<fs::path> inputs = {base / "elsewhere", base / "model"};
  for (const char* same : {"model", "alias", "inner/../model"})
    EXPECT_THROW(refuse_overwriting(base / same, inputs), Error) << same;
  for (const char* other : {"out", "inner", "elsewhere"})
    EXPECT_NO_THROW(refuse_overwriting(base / other, inputs)) << other;
  fs::remove_all(base);
}

TEST(File, ALockHasOneHolderAndSaysWhich) {
  const fs::path path = fs::path(testing::TempDir()) / concat("espalier_lock_", ::getpid());
  std::string holder;
  auto first = FileLock::try_take(path, holder);
  ASSERT_TRUE(first);
  EXPECT_FALSE(FileLock::try_take(path, holder));
  EXPECT_NE(holder.find(concat("process ", ::getpid(), " on ")), std::string::npos) << holder;
  FileLock moved = std::move(*first);
  EXPECT_FALSE(FileLock::try_take(path, holder)) << "moved, not let go";
  first.reset();
  EXPECT_FALSE(FileLock::try_take(path, holder));
  { const FileLock end = std::move(moved); }
  EXPECT_TRUE(FileLock::try_take(path, holder));
  fs::remove(path);
}

TEST(File, ReadErrorsNameThePath) {
  EXPECT_THROW(read_file("/nonexistent/file"), Error);
  EXPECT_THROW(read_file("/tmp"), Error);
  EXPECT_THROW(read_file("/proc/self/exe", 10), Error);
}

Bytes gzipped(const std::string& text) {
  z_stream stream{};
  EXPECT_EQ(deflateInit2(&stream, 9, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
  Bytes packed(deflateBound(&stream, text.size()) + 64);
  std::string copy = text;
  stream.next_in = reinterpret_cast<Bytef*>(copy.data());
  stream.avail_in = static_cast<uInt>(copy.size());
  stream.next_out = packed.data();
  stream.avail_out = static_cast<uInt>(packed.size());
  EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  packed.resize(stream.total_out);
  deflateEnd(&stream);
  return packed;
}

TEST(File, GunzipUnpacksAndRejectsTruncationDamageAndLimits) {
  std::string text;
  for (int i = 0; i < 300; ++i) text += "line " + std::to_string(i) + "\n";
  const Bytes packed = gzipped(text);
  const Bytes unpacked = gunzip(packed, "test", text.size());
  EXPECT_EQ(std::string(unpacked.begin(), unpacked.end()), text);
  for (size_t size = 0; size < packed.size(); ++size) {
    EXPECT_THROW(gunzip(std::span(packed).first(size), "test", text.size()), Error) << size;
  }
  EXPECT_THROW(gunzip(packed, "test", text.size() - 1), Error);
  Bytes damaged = packed;
  damaged[packed.size() - 6] ^= 1;  // in the stored CRC
  EXPECT_THROW(gunzip(damaged, "test", text.size()), Error);
}

TEST(File, Sha256OfAbc) {
  const Bytes abc = {'a', 'b', 'c'};
  EXPECT_EQ(sha256_hex(abc), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

}  // namespace
}  // namespace espalier
