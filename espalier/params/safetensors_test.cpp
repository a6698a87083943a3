#include "espalier/params/safetensors.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "espalier/base/error.h"

namespace espalier {
namespace {

ParameterSet example() {
  ParameterSet set(std::make_shared<ParameterLayout>(std::vector<ParameterInfo>{
      {"fc.weight", {2, 3}, Role::kWeight}, {"bn.count", {}, Role::kCounter}}));
  for (size_t i = 0; i < set.size(); ++i) set.values()[i] = static_cast<float>(i) + 0.5f;
  set.values("bn.count")[0] = 12;
  return set;
}

Bytes with_header(const std::string& header, size_t body) {
  Bytes out;
  ByteWriter writer(out);
  writer.put(static_cast<uint64_t>(header.size()));
  writer.bytes({reinterpret_cast<const uint8_t*>(header.data()), header.size()});
  out.resize(out.size() + body, 0);
  return out;
}

TEST(Safetensors, RoundTrip) {
  const ParameterSet set = example();
  const auto file = SafetensorsFile::parse(write_safetensors(set, {{"version", "1"}}), "test");
  EXPECT_EQ(file.metadata().at("version"), "1");
  EXPECT_EQ(file.find("bn.count")->dtype, DType::kI64);
  ParameterSet read(set.shared_layout());
  read_parameters(file, read);
  EXPECT_TRUE(std::equal(set.values().begin(), set.values().end(), read.values().begin()));
}

TEST(Safetensors, EveryTruncationIsAnError) {
  const Bytes whole = write_safetensors(example(), {});
  for (size_t size = 0; size < whole.size(); ++size) {
    EXPECT_THROW(SafetensorsFile::parse(
                     Bytes(whole.begin(), whole.begin() + static_cast<ptrdiff_t>(size)), "test"),
                 Error)
        << size;
  }
  Bytes longer = whole;
  longer.push_back(0);
  EXPECT_THROW(SafetensorsFile::parse(longer, "test"), Error);
}

TEST(Safetensors, RejectsBrokenHeaders) {
  const auto rejected = [](const std::string& header, size_t body) {
    EXPECT_THROW(SafetensorsFile::parse(with_header(header, body), "test"), Error) << header;
  };
  rejected("[]", 0);
  rejected("{", 0);
  rejected(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", 4);
  rejected(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 3);
  rejected(R"({"a":{"dtype":"F33","shape":[1],"data_offsets":[0,4]}})", 4);
  rejected(R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", 4);
  rejected(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}})", 4);
  rejected(R"({"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}})", 0);
  rejected(
      R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})",
      4);
  rejected(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", 8);
  rejected(
      R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})",
      1);
  rejected(R"({"__metadata__":{"a":1}})", 0);
  std::string deep;
  for (int i = 0; i < 100000; ++i) deep += "[";
  rejected("{\"a\":" + deep, 0);
}

TEST(Safetensors, ConvertsTypes) {
  const std::vector<uint16_t> halves = {0x3c00, 0xc000, 0x0001, 0x7bff};
  const std::vector<uint16_t> brains = {0x3f80, 0xc040};
  const auto bytes = [](const auto& v) {
    return std::span(reinterpret_cast<const uint8_t*>(v.data()), v.size() * sizeof(v[0]));
  };
  const auto file = SafetensorsFile::parse(
      write_safetensors(
          {{"h", DType::kF16, {4}, bytes(halves)}, {"b", DType::kBF16, {2}, bytes(brains)}}, {}),
      "test");
  const auto h = file.find("h")->as_float("test");
  EXPECT_EQ(h, (AlignedVector<float>{1, -2, 0x1p-24f, 65504}));
  EXPECT_EQ(file.find("b")->as_float("test"), (AlignedVector<float>{1, -3}));
  EXPECT_THROW(file.find("h")->as_int64("test"), Error);
}

template <class T>
void expect_conversion(DType dtype, bool to_integers) {
  const T stored[] = {T{1}, static_cast<T>(-2), T{100}};
  const std::span bytes(reinterpret_cast<const uint8_t*>(stored), sizeof(stored));
  const auto file =
      SafetensorsFile::parse(write_safetensors({{"x", dtype, {3}, bytes}}, {}), "test");
  const auto floats = file.find("x")->as_float("test");
  for (size_t i = 0; i < 3; ++i) EXPECT_EQ(floats[i], static_cast<float>(stored[i]));
  if (!to_integers) {
    EXPECT_THROW(file.find("x")->as_int64("test"), Error) << dtype_name(dtype);
    return;
  }
  const auto integers = file.find("x")->as_int64("test");
  for (size_t i = 0; i < 3; ++i) EXPECT_EQ(integers[i], static_cast<int64_t>(stored[i]));
}

TEST(Safetensors, OneValueAsText) {
  const uint64_t large[] = {7, UINT64_MAX};
  const double wide[] = {1e300, std::nan("")};
  const uint16_t half[] = {0x3c00, 0xfc00};
  const auto bytes = [](const auto& v) {
    return std::span(reinterpret_cast<const uint8_t*>(v), sizeof(v));
  };
  const auto file = SafetensorsFile::parse(write_safetensors({{"u", DType::kU64, {2}, bytes(large)},
                                                              {"d", DType::kF64, {2}, bytes(wide)},
                                                              {"h", DType::kF16, {2}, bytes(half)}},
                                                             {}),
                                           "test");
  EXPECT_EQ(file.find("u")->value_text(1), "18446744073709551615");
  EXPECT_EQ(file.find("d")->value_text(0), "1e+300");
  EXPECT_EQ(file.find("d")->value_text(1), "nan");
  EXPECT_EQ(file.find("h")->value_text(1), "-inf");
  // Unsigned 64-bit integers that fit are integers.
  EXPECT_THROW(file.find("u")->as_int64("test"), Error);
  const uint64_t small[] = {7, 1};
  const auto fits = SafetensorsFile::parse(
      write_safetensors({{"u", DType::kU64, {2}, bytes(small)}}, {}), "test");
  EXPECT_EQ(fits.find("u")->as_int64("test"), (std::vector<int64_t>{7, 1}));
}

TEST(Safetensors, ConvertsNumbersOfEverySize) {
  expect_conversion<uint8_t>(DType::kBool, true);
  expect_conversion<uint8_t>(DType::kU8, true);
  expect_conversion<int8_t>(DType::kI8, true);
  expect_conversion<int16_t>(DType::kI16, true);
  expect_conversion<uint16_t>(DType::kU16, true);
  expect_conversion<int32_t>(DType::kI32, true);
  expect_conversion<uint32_t>(DType::kU32, true);
  expect_conversion<int64_t>(DType::kI64, true);
  expect_conversion<uint64_t>(DType::kU64, false);
  expect_conversion<float>(DType::kF32, false);
  expect_conversion<double>(DType::kF64, false);
}

TEST(Safetensors, ReadParametersNamesTheProblem) {
  const ParameterSet set = example();
  const auto file = SafetensorsFile::parse(write_safetensors(set, {}), "test");
  ParameterSet other(
      std::make_shared<ParameterLayout>(std::vector<ParameterInfo>{{"fc.weight", {3, 2}}}));
  EXPECT_THROW(read_parameters(file, other), Error);
  ParameterSet fewer(
      std::make_shared<ParameterLayout>(std::vector<ParameterInfo>{{"fc.weight", {2, 3}}}));
  EXPECT_THROW(read_parameters(file, fewer), Error);
  ParameterSet more(std::make_shared<ParameterLayout>(std::vector<ParameterInfo>{{"x", {1}}}));
  EXPECT_THROW(read_parameters(file, more), Error);
  ParameterSet diverged = set;
  diverged.values()[1] = std::numeric_limits<float>::quiet_NaN();
  const auto broken = SafetensorsFile::parse(write_safetensors(diverged, {}), "test");
  EXPECT_THROW(read_parameters(broken, diverged), Error);
}

}  // namespace
}  // namespace espalier
