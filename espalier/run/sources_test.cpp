#include "espalier/run/sources.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "espalier/base/config.h"
#include "espalier/base/file.h"
#include "espalier/base/test_error.h"
#include "espalier/report/test_run.h"

namespace espalier::run {
namespace {

namespace fs = std::filesystem;
using report::RunFolder;
using report::TemporaryFolder;
using testing::HasSubstr;

data::Dataset pixels() {
  data::Dataset set;
  set.kind = data::Kind::kImage;
  set.sample_shape = {1, 1, 2};
  set.num_classes = 3;
  set.pixels = {1, 2, 3, 4};
  set.labels = {0, 2};
  set.mean = {0.25f};
  set.stddev = {0.1f};
  return set;
}

SafetensorsFile model_with(const std::map<std::string, std::string>& metadata) {
  return SafetensorsFile::parse(write_safetensors(std::vector<TensorData>{}, metadata), "model");
}

TEST(Sources, WhatModelsSeeOfSamplesSurvivesTheFile) {
  const data::Dataset set = pixels();
  const auto read = samples_of(model_with({{kSamplesEntry, describe_samples(set).dump()}}));
  ASSERT_TRUE(read);
  EXPECT_EQ(read->kind, set.kind);
  EXPECT_EQ(read->sample_shape, set.sample_shape);
  EXPECT_EQ(read->num_classes, set.num_classes);
  EXPECT_EQ(read->mean, set.mean) << "bit for bit";
  EXPECT_EQ(read->stddev, set.stddev);
  EXPECT_FALSE(samples_of(model_with({})));
  for (const char* damaged :
       {"{", "[]", "{}", R"({"kind":"sound","shape":[1],"classes":2})",
        R"({"kind":"float","shape":[0],"classes":2})",
        R"({"kind":"image","shape":[1,2,2],"classes":2,"mean":[0,0],"stddev":[1,1]})"}) {
    EXPECT_THAT(error_of([&] {
                  samples_of(model_with({{kSamplesEntry, damaged}}));
                }),
                HasSubstr("damaged"))
        << damaged;
  }
}

TEST(Sources, OtherDataAreToldApart) {
  const auto train = std::make_shared<data::Dataset>(pixels());
  const Json kept = describe_data({train, train});
  data::Dataset other = pixels();
  EXPECT_EQ(data_difference(kept, other, "train"), "");
  other.labels[0] = 1;
  EXPECT_EQ(data_difference(kept, other, "test"), "the 2 test samples have other contents");
  other.labels = {0}, other.pixels = {1, 2};
  EXPECT_EQ(data_difference(kept, other, "train"), "1 training samples instead of 2");
}

// A run goes on with the files that it began with, whatever becomes of them outside.
TEST(Sources, FilesThatTheConfigurationNamesAreKept) {
  const TemporaryFolder base;
  const fs::path module = base.path() / "net.pt";
  write_text_file_atomic(module, "first");
  const auto config_of = [&](const fs::path& file) {
    return read_run_config({{"data", {{"name", "synthetic"}}},
                            {"model", {{"name", "torchscript"}, {"file", file.string()}}}});
  };
  const RunConfig config = config_of(module);
  ASSERT_EQ(input_files(config).size(), 1U);
  EXPECT_EQ(input_files(config)[0].key, "model.file");

  const RunFolder folder = RunFolder::create(base.path() / "run");
  keep_inputs(config, folder);
  folder.write_config(to_toml(config.resolved));
  write_text_file_atomic(module, "second");
  keep_inputs(config, folder);  // of a run that was killed early and begins again

  RunConfig later = config;
  const auto notes = use_kept_inputs(later, folder);
  ASSERT_EQ(notes.size(), 1U);
  EXPECT_THAT(notes[0], HasSubstr("net.pt has changed since"));
  EXPECT_EQ(later.model.file, folder.inputs_path() / "model.file");
  EXPECT_EQ(read_text_file(later.model.file), "first");
  EXPECT_EQ(later.resolved, config.resolved) << "it still says where the file came from";

  write_text_file_atomic(base.path() / "other.pt", "third");
  RunConfig other = config_of(base.path() / "other.pt");
  const std::vector<std::string> assigned = {"model.file=other.pt"};
  EXPECT_THAT(error_of([&] { use_kept_inputs(other, folder, assigned); }),
              HasSubstr("not the file that the run began with"));
  write_text_file_atomic(base.path() / "moved.pt", "first");
  RunConfig moved = config_of(base.path() / "moved.pt");
  EXPECT_NO_THROW(use_kept_inputs(moved, folder, assigned)) << "the same contents elsewhere";
}

}  // namespace
}  // namespace espalier::run
