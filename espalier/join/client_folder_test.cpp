#include "espalier/join/client_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

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
  Bytes task(1000);
  for (size_t i = 0; i < task.size(); ++i) task[i] = static_cast<uint8_t>(i);
  const uint64_t digest = rpc::digest64(task);
  {
    ClientFolder folder(path_);
    EXPECT_EQ(folder.begin_task(digest, 1000), 0U);
    folder.add_to_task(0, std::span(task).first(400));
  }
  ClientFolder folder(path_);
  EXPECT_EQ(folder.begin_task(digest, 1000), 400U);
  EXPECT_THAT(error_of([&] { folder.task(); }), HasSubstr("damaged"));
  EXPECT_EQ(folder.begin_task(digest, 1000), 0U);
  folder.add_to_task(0, std::span(task).first(400));
  folder.add_to_task(400, std::span(task).subspan(400));
  EXPECT_EQ(folder.task(), task);
  EXPECT_THAT(error_of([&] { folder.add_to_task(1000, std::span(task).first(1)); }),
              HasSubstr("more than"));
  EXPECT_EQ(folder.begin_task(digest + 1, 1000), 0U);  // another one
}

TEST_F(ClientFolderTest, TheLastUpdateStaysForItsTask) {
  {
    ClientFolder folder(path_);
    EXPECT_FALSE(folder.update_for(5));
    folder.keep_update(5, Bytes{1, 2, 3});
  }
  ClientFolder folder(path_);
  EXPECT_EQ(folder.update_for(5), (Bytes{1, 2, 3}));
  EXPECT_FALSE(folder.update_for(6));
  folder.keep_update(6, Bytes{});
  EXPECT_EQ(folder.update_for(6), Bytes{});
  EXPECT_FALSE(folder.update_for(5));
}

}  // namespace
}  // namespace espalier::join
