#include "espalier/data/leaf.h"

#include <gmock/gmock.h>

#include "espalier/data/test_files.h"

namespace espalier::data {
namespace {

using ::testing::HasSubstr;

std::string image_json(const std::string& first) {
  std::string text = "[" + first;
  for (size_t i = 1; i < kLeafSide * kLeafSide; ++i) text += ", 1.0";
  return text + "]";
}

std::string text_json(char character) {
  return "\"" + std::string(kLeafSequence, character) + "\"";
}

std::string replaced(std::string text, std::string_view what, std::string_view with) {
  const size_t at = text.find(what);
  EXPECT_NE(at, std::string::npos);
  return text.replace(at, what.size(), with);
}

const std::string kFemnist =
    R"({"users": ["f1", "f2"], "num_samples": [2, 1], "hierarchies": [["a", {"b": null}]],
  "user_data": {"f2": {"y": [61], "x": [)" +
    image_json("0.2") + R"(]},
                "f1": {"x": [)" +
    image_json("0") + ", " + image_json("1") + R"(], "y": [3, 4], "z": [[1]]}}})";
const std::string kShakespeare =
    R"({"users": ["ROMEO"], "num_samples": [2], "user_data": {"ROMEO": {"x": [)" + text_json('a') +
    ", " + text_json('}') + R"(], "y": ["b", "\n"]}}})";

Dataset parse(const std::string& text, LeafUsers& users) {
  Dataset dataset;
  append_leaf({reinterpret_cast<const uint8_t*>(text.data()), text.size()}, "file", users, dataset);
  return dataset;
}

std::string message(const std::string& text) {
  LeafUsers users;
  return error_of([&] { parse(text, users); });
}

TEST(Leaf, Femnist) {
  LeafUsers users;
  const Dataset dataset = parse(kFemnist, users);
  EXPECT_EQ(dataset.kind, Kind::kImage);
  EXPECT_EQ(dataset.labels, (std::vector<int32_t>{61, 3, 4}));
  EXPECT_EQ(dataset.pixels.size(), 3 * 784u);
  EXPECT_EQ(dataset.pixels[0], 51);
  EXPECT_EQ(dataset.pixels[1], 255);
  EXPECT_EQ(dataset.pixels[784], 0);
  EXPECT_EQ(users.names, (std::vector<std::string>{"f2", "f1"}));
  EXPECT_EQ(dataset.client_of_sample, (std::vector<uint32_t>{0, 1, 1}));
}

TEST(Leaf, Shakespeare) {
  ASSERT_EQ(kLeafCharacters.size(), 80u);
  LeafUsers users;
  const Dataset dataset = parse(kShakespeare, users);
  EXPECT_EQ(dataset.kind, Kind::kTokens);
  EXPECT_EQ(dataset.vocabulary, 80);
  EXPECT_EQ(dataset.tokens.size(), 160u);
  EXPECT_EQ(dataset.tokens[159], 79);
  EXPECT_EQ(dataset.labels, (std::vector<int32_t>{dataset.tokens[0] + 1, 0}));
}

TEST(Leaf, BadFilesAreErrors) {
  EXPECT_EQ(message(kFemnist), "");
  EXPECT_THAT(message(kFemnist.substr(0, kFemnist.size() - 1)), HasSubstr("not valid JSON"));
  EXPECT_THAT(message(replaced(kFemnist, "[2, 1]", "[2, 2]")),
              HasSubstr("expected 2 samples of the user f2, got 1"));
  EXPECT_THAT(message(replaced(kFemnist, "[2, 1]", "[2]")), HasSubstr("got 2, 1 and 2"));
  EXPECT_THAT(message(replaced(kFemnist, "\"f2\"]", "\"f3\"]")),
              HasSubstr("the user f3 has no user_data"));
  EXPECT_THAT(message(replaced(kFemnist, "[61]", "[62]")),
              HasSubstr("expected labels in [0, 62), got 62 (user f2, sample 0)"));
  EXPECT_THAT(message(replaced(kFemnist, "[61]", "[1.5]")), HasSubstr("got 1.5"));
  EXPECT_THAT(message(replaced(kFemnist, "[61]", "[6, 7]")),
              HasSubstr("a label for each of 1 samples, got 2"));
  EXPECT_THAT(message(replaced(kFemnist, "[61]", "\"a\"")), HasSubstr("a string out of place"));
  EXPECT_THAT(message(replaced(kFemnist, "[61]", "[\"a\"]")), HasSubstr("mixed"));
  EXPECT_THAT(message(replaced(kFemnist, "0.2", "1.2")),
              HasSubstr("expected pixels in [0, 1], got 1.2 (user "));
  EXPECT_THAT(message(replaced(kFemnist, "0.2, ", "")), HasSubstr("images of 784 values, got 783"));
  EXPECT_THAT(message(replaced(kFemnist, "0.2", "0, 0")), HasSubstr("got more"));
  EXPECT_THAT(message(replaced(kFemnist, "0.2", "null")), HasSubstr("got null"));
  EXPECT_THAT(message(replaced(kShakespeare, "aa", "a")),
              HasSubstr("strings of 80 characters in x, got 79"));
  EXPECT_THAT(message(replaced(kShakespeare, "aa", "a~")), HasSubstr("got the byte 126"));
  EXPECT_THAT(message(replaced(kShakespeare, "\"b\"", "3")), HasSubstr("mixed"));
  EXPECT_THAT(message("[]"), HasSubstr("a list out of place"));
  EXPECT_THAT(message("{\"x\": " + std::string(100000, '[')), HasSubstr("too deep"));
}

TEST(Leaf, LoadsFolders) {
  const TestFolder folder;
  DataOptions options;
  options.name = "leaf";
  options.root = folder.root();
  EXPECT_THAT(error_of([&] { load_dataset(options, Key(1)); }), HasSubstr("preprocess.sh"));
  folder.write_text("train/all_data_0.json", kFemnist);
  folder.write_text("train/all_data_1.json",
                    replaced(replaced(kFemnist, "\"f1\"", "\"f9\""), "\"f1\"", "\"f9\""));
  folder.write_text("test/all_data.json", kFemnist);
  const DataSource source = load_dataset(options, Key(1));
  EXPECT_EQ(source.train->size(), 6u);
  EXPECT_EQ(source.test->size(), 3u);
  EXPECT_EQ(source.test->client_names, (std::vector<std::string>{"f2", "f1", "f9"}));
  EXPECT_EQ(source.train->client_of_sample, (std::vector<uint32_t>{0, 1, 1, 0, 2, 2}));
  EXPECT_EQ(source.test->mean, source.train->mean);
  options.normalize = "none";
  EXPECT_THAT(error_of([&] { load_dataset(options, Key(1)); }), HasSubstr("values from 0 to 1"));
  options.normalize = "unit";
  EXPECT_EQ(load_dataset(options, Key(1)).test->stddev, (std::vector<float>{1}));
  options.normalize = "dataset";
  std::filesystem::remove(folder.path() / "test/all_data.json");
  EXPECT_THAT(error_of([&] { load_dataset(options, Key(1)); }), HasSubstr("expected *.json files"));
  folder.write_text("test/all_data.json", kShakespeare);
  EXPECT_THAT(error_of([&] { load_dataset(options, Key(1)); }),
              HasSubstr("uint8 images of [1, 28, 28] and tokens of [80]"));
}

}  // namespace
}  // namespace espalier::data
