#include "espalier/run/export_shards.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "espalier/base/config.h"
#include "espalier/base/test_error.h"
#include "espalier/data/tensor_dataset.h"
#include "espalier/run/sources.h"

namespace espalier::run {
namespace {

namespace fs = std::filesystem;

class ExportShardsTest : public testing::Test {
 protected:
  void SetUp() override { fs::remove_all(folder_); }
  void TearDown() override { fs::remove_all(folder_); }
  static RunConfig config(const std::string& shape) {
    Json tree = Json::object();
    for (const std::string& one :
         {std::string("data.name=synthetic"), std::string("data.synthetic_train_samples=60"),
          std::string("data.synthetic_test_samples=7"), "data.synthetic_shape=" + shape,
          std::string("data.synthetic_classes=3"), std::string("data.partition.name=dirichlet"),
          std::string("data.partition.clients=4"), std::string("data.partition.min_samples=2"),
          std::string("model.name=mlp")})
      set_config_value(tree, one);
    return read_run_config(tree);
  }
  const fs::path folder_ = fs::path(testing::TempDir()) / concat("shards-", ::getpid());
};

// What a client reads back are the very samples that a simulation would give it.
TEST_F(ExportShardsTest, ShardsAreTheSimulationsClients) {
  for (const std::string shape : {"[3, 4, 5]", "[6]"}) {
    fs::remove_all(folder_);
    const RunConfig config = this->config(shape);
    const ExportedShards out = export_shards(config, folder_);
    EXPECT_EQ(out.clients, 4U);
    EXPECT_EQ(out.samples, 60U);
    EXPECT_EQ(out.test_samples, 7U);
    const data::DataSource whole = load_data(config);
    const auto partition = divide(config, whole);
    std::vector<uint32_t> mine;
    for (uint64_t client = 0; client < 4; ++client) {
      partition->samples(client, mine);
      const fs::path own = folder_ / concat("client-", client);
      const data::LoadedData shard =
          data::tensor_datasets(SafetensorsFile::read(own / "train.safetensors"),
                                SafetensorsFile::read(own / "test.safetensors"));
      EXPECT_EQ(shard.train.sample_shape, whole.train->sample_shape);
      EXPECT_EQ(shard.train.num_classes, 3);
      const size_t size = whole.train->sample_size();
      ASSERT_EQ(shard.train.size(), mine.size());
      for (size_t i = 0; i < mine.size(); ++i) {
        EXPECT_EQ(shard.train.labels[i], whole.train->labels[mine[i]]);
        for (size_t v = 0; v < size; ++v) {
          if (whole.train->kind == data::Kind::kImage) {
            ASSERT_EQ(shard.train.pixels[i * size + v], whole.train->pixels[mine[i] * size + v]);
          } else {
            ASSERT_EQ(shard.train.floats[i * size + v], whole.train->floats[mine[i] * size + v]);
          }
        }
      }
      ASSERT_EQ(shard.test.size(), client < 3 ? 2U : 1U);
      EXPECT_EQ(shard.test.labels[0], whole.test->labels[client]);
    }
  }
  EXPECT_THAT(error_of([&] { export_shards(config("[6]"), folder_); }),
              testing::HasSubstr("not empty"));
}

}  // namespace
}  // namespace espalier::run
