#include "espalier/join/client_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <array>

#include "espalier/base/test_error.h"
#include "espalier/rpc/messages.h"

namespace espalier::join {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class ClientFolderTest : public testing::Test {
 protected:
  void SetUp() override { fs::remove_all(path_); }
  void TearDown() override { fs::remove_all(path_); }
  const fs::path path_ = fs::path(testing::TempDir()) / concat("client-folder-", ::getpid());
};

TEST_F(ClientFolderTest, HasOneUserAndKnowsTheOneBefore) {
  std::string first;
  {
    ClientFolder folder(path_);
    first = folder.session();
    EXPECT_EQ(first.size(), 16U);
    EXPECT_EQ(folder.previous_session(), "");
    EXPECT_THAT(error_of([&] { ClientFolder second(path_); }), HasSubstr("is used by"));
  }
  ClientFolder folder(path_);
  EXPECT_EQ(folder.previous_session(), first);
  EXPECT_NE(folder.session(), first);
}

TEST_F(ClientFolderTest, BelongsToOneRun) {
  {
    ClientFolder folder(path_);
    EXPECT_EQ(folder.run(), 0U);
    folder.belong_to(17);
    folder.belong_to(17);
  }
  ClientFolder folder(path_);
  EXPECT_EQ(folder.run(), 17U);
  EXPECT_THAT(error_of([&] { folder.belong_to(18); }), HasSubstr("another run"));
}

TEST_F(ClientFolderTest, ATaskGoesOnWhereItWasCutAlsoInTheNextProcess) {
  wire::EncodedMessage message;
  message.head.resize(600);
  message.bodies.push_back(std::make_shared<Bytes>(1000 - 600 - 4 - 8, uint8_t{9}));
  const Bytes task = wire::write_stream(message);
  ASSERT_EQ(task.size(), 1000U);
  const auto add = [&](ClientFolder& folder, uint64_t offset, size_t size) {
    const std::array<std::span<const uint8_t>, 2> halves = {
        std::span(task).subspan(offset, size / 2),
        std::span(task).subspan(offset + size / 2, size - size / 2)};
    folder.add_to_task(offset, halves);
  };
  const uint64_t digest = digest64(task);
  {
    ClientFolder folder(path_);
    EXPECT_EQ(folder.begin_task(digest, 1000), 0U);
    add(folder, 0, 400);
  }
  ClientFolder folder(path_);
  EXPECT_EQ(folder.begin_task(digest, 1000), 400U);
  EXPECT_FALSE(folder.task().has_value());
  EXPECT_EQ(folder.begin_task(digest, 1000), 0U);
  add(folder, 0, 400);
  add(folder, 400, 600);
  EXPECT_EQ(wire::write_stream(folder.task().value()), task);
  const std::span<const uint8_t> one = std::span(task).first(1);
  EXPECT_THAT(error_of([&] { folder.add_to_task(1000, std::span(&one, 1)); }),
              HasSubstr("more than"));
  EXPECT_EQ(folder.begin_task(digest + 1, 1000), 0U);  // another one
}

TEST_F(ClientFolderTest, TheLastUpdateStaysForItsTask) {
  wire::EncodedMessage update;
  update.head = {1, 2, 3};
  const Bytes stream = wire::write_stream(update);
  {
    ClientFolder folder(path_);
    EXPECT_FALSE(folder.update_for(5));
    folder.keep_update(5, update);
  }
  ClientFolder folder(path_);
  const auto kept = folder.update_for(5);
  ASSERT_TRUE(kept);
  ASSERT_EQ(kept->size(), stream.size());
  Bytes read(stream.size());
  kept->read(0, read);
  EXPECT_EQ(read, stream);
  EXPECT_EQ(kept->second(), digest64(stream));
  EXPECT_FALSE(folder.update_for(6));
  folder.keep_update(6, {});
  EXPECT_TRUE(folder.update_for(6));
  EXPECT_FALSE(folder.update_for(5));
  // What the disk has spoiled, or cut off, is no update.
  for (const uintmax_t size : {uintmax_t{18}, uintmax_t{3}}) {
    fs::resize_file(path_ / "update", size);
    EXPECT_FALSE(folder.update_for(6));
  }
}

}  // namespace
}  // namespace espalier::join
