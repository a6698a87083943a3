#include "espalier/serve/registry.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>

#include "espalier/base/file.h"
#include "espalier/base/test_error.h"

namespace espalier::serve {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;

class RegistryTest : public testing::Test {
 protected:
  void TearDown() override { fs::remove(file_); }
  const fs::path file_ = fs::path(testing::TempDir()) / concat("registry-", ::getpid(), ".jsonl");
};

TEST_F(RegistryTest, AStatementStaysAlsoForTheNextProcess) {
  {
    Registry registry(file_, 3);
    EXPECT_THAT(registry.missing(9), ElementsAre(0, 1, 2));
    registry.enrol(1, {600, 10, 77, "phone"});
    registry.enrol(1, {600, 10, 77, "tablet"});  // what a device calls itself may change
    EXPECT_EQ(registry.num_samples(1), 600U);
    EXPECT_EQ(registry.num_samples(0), 0U);
  }
  Registry registry(file_, 3);
  EXPECT_EQ(registry.num_samples(1), 600U);
  EXPECT_THAT(registry.missing(1), ElementsAre(0));
  EXPECT_THAT(registry.clients(), ElementsAre(1));
  EXPECT_THAT(error_of([&] { registry.enrol(1, {601, 10, 77, ""}); }), HasSubstr("600 samples"));
  EXPECT_THAT(error_of([&] { registry.enrol(1, {600, 10, 78, ""}); }), HasSubstr("not those"));
  EXPECT_THAT(error_of([&] { registry.enrol(3, {1, 1, 1, ""}); }), HasSubstr("0 to 2"));
  EXPECT_EQ(registry.size(), 1U);
}

TEST_F(RegistryTest, AHalfLineIsThatOfACrash) {
  Registry(file_, 2).enrol(0, {5, 0, 1, ""});
  std::ofstream(file_, std::ios::app) << "{\"client\": 1, \"sam";
  Registry registry(file_, 2);
  EXPECT_THAT(registry.missing(9), ElementsAre(1));
  registry.enrol(1, {6, 0, 2, ""});
  EXPECT_EQ(Registry(file_, 2).size(), 2U);
  std::ofstream(file_, std::ios::app) << "nonsense\n";
  EXPECT_THAT(error_of([&] { Registry again(file_, 2); }), HasSubstr("line 3 is damaged"));
}

}  // namespace
}  // namespace espalier::serve
