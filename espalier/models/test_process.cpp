#include <gtest/gtest.h>

#include "espalier/models/process.h"

// In every test program with nets (cmake/espalier.cmake): they compute as in the programs that call
// configure_process() first. Without it oneDNN would divide a product among threads in the main
// thread alone, and add up in another order there.
namespace espalier::models {
namespace {

class ProcessEnvironment final : public testing::Environment {
  void SetUp() override { configure_process(); }
};

[[maybe_unused]] const testing::Environment* const environment =
    testing::AddGlobalTestEnvironment(new ProcessEnvironment);

}  // namespace
}  // namespace espalier::models
