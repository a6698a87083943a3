#include "espalier/base/options.h"

#include <gtest/gtest.h>

#include "espalier/base/test_error.h"

namespace espalier {
namespace {

struct Sample {
  double lr = 0.1;
  int64_t epochs = 1;
  std::string name = "a";
  std::vector<int64_t> hidden = {64};
  bool nesterov = false;
  template <class Self, class Visitor>
  static void fields(Self& self, Visitor&& visit) {
    visit("lr", self.lr, Field("Learning rate.").above(0));
    visit("epochs", self.epochs, Field("Local epochs.").at_least(1));
    visit("name", self.name, Field("A name.").one_of({"a", "b"}));
    visit("hidden", self.hidden, Field("Widths.").at_least(1));
    visit("nesterov", self.nesterov, Field("Nesterov momentum."));
  }
};

std::string error_of_reading(const char* text) {
  const Json table = Json::parse(text);
  Sample sample;
  return error_of([&] { read_options({&table, "train"}, {"other"}, sample); });
}

TEST(Options, ReadsWritesAndDescribes) {
  const Json table = Json::parse(R"({"lr": 1, "hidden": [3, 4], "other": {}, "nesterov": true})");
  Sample sample;
  read_options({&table, "train"}, {"other"}, sample);
  EXPECT_EQ(sample.lr, 1.0);
  EXPECT_EQ(sample.hidden, (std::vector<int64_t>{3, 4}));
  Json out = Json::object();
  write_options(sample, out);
  EXPECT_EQ(out.dump(), R"({"lr":1.0,"epochs":1,"name":"a","hidden":[3,4],"nesterov":true})");
  EXPECT_EQ(describe_options<Sample>().size(), 5u);
}

TEST(Options, ErrorsNameTheKey) {
  EXPECT_EQ(error_of_reading(R"({"lr": 0})"),
            "[config] expected a number above 0 for train.lr, got 0");
  EXPECT_EQ(error_of_reading(R"({"lr": "x"})"),
            "[config] expected a number for train.lr, got \"x\"");
  EXPECT_EQ(error_of_reading(R"({"epochs": 1.5})"),
            "[config] expected an integer for train.epochs, got 1.5");
  EXPECT_EQ(error_of_reading(R"({"hidden": [0]})"),
            "[config] expected a number of at least 1 for train.hidden, got 0");
  EXPECT_NE(error_of_reading(R"({"epoch": 1})").find("did you mean 'epochs'"), std::string::npos);
  EXPECT_NE(error_of_reading(R"({"name": "c"})").find("unknown train.name 'c'"), std::string::npos);
}

TEST(Options, AValueOfTheWrongTypeThatIsNoTextIsAnErrorToo) {
  Json table = Json::object();
  table["lr"] = "\xff\xfe";
  Sample options;
  EXPECT_THROW(read_options({&table, "train"}, {}, options), Error);
}

}  // namespace
}  // namespace espalier
