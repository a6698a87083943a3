// Files of every format version, kept for ever under tests/golden/codec: what was once written must
// be read, to the same values, and what is broken must be refused. To add files for a new stage or
// version (never to change old ones), add a row and run ESPALIER_WRITE_GOLDEN=1 codec_test
// --gtest_filter='Golden.*': files that exist are left alone.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>

#include "espalier/base/error.h"
#include "espalier/base/file.h"
#include "espalier/codec/codec.h"
#include "espalier/codec/message.h"

namespace espalier::codec {
namespace {

namespace fs = std::filesystem;

const fs::path kFolder = ESPALIER_GOLDEN_FOLDER;
bool writing() { return std::getenv("ESPALIER_WRITE_GOLDEN") != nullptr; }

struct Good {
  std::string name, stages;
};
const std::vector<Good> kGood = {
    {"v1_identity", ""},
    {"v1_hadamard_quantize4", "hadamard,quantize:bits=4"},
    {"v1_hadamard2_whole", "hadamard:rotations=2:block=0"},
    {"v1_kashin_quantize2", "kashin,quantize:bits=2"},
    {"v1_subsample_quantize8", "subsample:keep=0.25,quantize:bits=8"},
    {"v1_hadamard_subsample_quantize5", "hadamard:block=1024,subsample:keep=0.5,quantize:bits=5"},
    {"v1_hadamard_randomk", "hadamard,randomk:keep=0.1"},
    {"v1_topk_bf16", "topk:keep=0.05,cast"},
    {"v1_fp16", "cast:to=fp16"},
    {"v1_hadamard2_eden1", "hadamard:rotations=2,eden:bits=1"},
    {"v1_hadamard_eden2_585", "hadamard,eden:bits=2.585:unbiased=false"},
    {"v1_hadamard_dithered2", "hadamard,dithered:bits=2"},
    {"v1_hadamard_trellis3", "hadamard,trellis:bits=3"},
    {"v1_dithered_half", "dithered:bits=0.5"},
};

// Only exact arithmetic, so that the input is the same everywhere: multiples of 2^-24.
ParameterSet input() {
  ParameterSet x(std::make_shared<ParameterLayout>(
      std::vector<ParameterInfo>{{"conv.weight", {8, 4, 5, 5}, Role::kWeight},
                                 {"conv.bias", {8}, Role::kBias},
                                 {"fc.weight", {10, 541}, Role::kWeight},
                                 {"count", {}, Role::kCounter}}));
  Stream stream{Key(2024)};
  for (float& value : x.values()) value = stream.uniform_float() + stream.uniform_float() - 1.0f;
  x.values("count")[0] = 17;
  return x;
}

Json tables(const std::string& stages) { return parse_stages(stages); }

Bytes encode(const std::string& stages) {
  Bytes message;
  make_codec(tables(stages), "golden")->encode(input(), Key(0x0123456789abcdefu), message);
  return message;
}

void write_once(const fs::path& path, const Bytes& bytes) {
  if (!fs::exists(path)) write_file_atomic(path, bytes);
}

Bytes bytes_of(std::span<const float> values) {
  Bytes bytes;
  ByteWriter(bytes).array(values);
  return bytes;
}

TEST(Golden, GoodFilesDecodeToTheRecordedValuesAndAreWrittenAgain) {
  for (const Good& good : kGood) {
    const fs::path message_file = kFolder / (good.name + ".msg"),
                   values_file = kFolder / (good.name + ".f32");
    const auto codec = make_codec(tables(good.stages), "golden");
    ParameterSet decoded(input().shared_layout());
    if (writing()) {
      const Bytes message = encode(good.stages);
      codec->decode(message, decoded);
      make_folder(kFolder);
      write_once(message_file, message);
      write_once(values_file, bytes_of(decoded.values()));
    }
    const Bytes message = read_file(message_file), values = read_file(values_file);
    codec->decode(message, decoded);
    EXPECT_EQ(bytes_of(decoded.values()), values) << good.name;
    EXPECT_EQ(bytes_of(decode_any(message).values()), values) << good.name;
    EXPECT_EQ(encode(good.stages), message) << good.name;
  }
}

Bytes with_checksum(Bytes bytes) {
  bytes.resize(bytes.size() - 4);
  const uint32_t sum = checksum32(bytes);
  ByteWriter(bytes).put(sum);
  return bytes;
}

struct Broken {
  std::string name, reason;
  std::function<Bytes()> make;
};

// A message of one tensor and float32, for breaking: magic 0–3, version 4, key 5–12, number of
// pipelines 13, pipeline (stages, id, options size) 14 …, fingerprint, tensor table, payload,
// checksum.
Bytes message_of(std::span<const uint8_t> pipeline, uint64_t dimension, size_t payload_size,
                 float value) {
  Bytes out = {'E', 'S', 'P', 'C', 1, 1, 2, 3, 4, 5, 6, 7, 8, 1};
  ByteWriter writer(out);
  writer.bytes(pipeline);
  writer.put(uint32_t{0});
  put_varint(out, 1);
  put_varint(out, 1);
  put_varint(out, dimension);
  put_varint(out, 0);
  writer.put(static_cast<uint32_t>(payload_size));
  for (size_t i = 0; i + 4 <= payload_size; i += 4) writer.put(value);
  writer.put(uint32_t{0});
  return with_checksum(out);
}

const std::vector<uint8_t> kFloat32 = {0};

const std::vector<Broken>& broken() {
  static const std::vector<Broken> list = {
      {"bad_empty", "truncated", [] { return Bytes(); }},
      {"bad_magic", "not an encoded message",
       [] {
         Bytes bytes = encode("");
         bytes[0] = 'X';
         return with_checksum(bytes);
       }},
      {"bad_version", "expected format version 1, got 2",
       [] {
         Bytes bytes = encode("");
         bytes[4] = 2;
         return with_checksum(bytes);
       }},
      {"bad_checksum", "checksum",
       [] {
         Bytes bytes = encode("hadamard,quantize:bits=4");
         bytes[200] ^= 1;
         return bytes;
       }},
      {"bad_cut", "checksum",
       [] {
         Bytes bytes = encode("hadamard,quantize:bits=4");
         bytes.resize(bytes.size() / 2);
         return bytes;
       }},
      {"bad_stage", "unknown stage number 200",
       [] {
         return message_of(Bytes{1, 200, 0}, 4, 16, 1);
       }},
      {"bad_option", "at most 16",
       [] {
         return message_of(Bytes{1, 4, 2, 40, 0}, 4, 16, 1);
       }},
      {"bad_option_size", "truncated",
       [] {
         return message_of(Bytes{1, 4, 1, 8}, 4, 16, 1);
       }},
      {"bad_stage_order", "too late",
       [] {
         return message_of(Bytes{2, 4, 2, 8, 0, 1, 3, 128, 64, 2}, 4, 16, 1);
       }},
      {"bad_many_values", "allowed", [] { return message_of(kFloat32, uint64_t{1} << 39, 16, 1); }},
      {"bad_absurd_values", "2^40", [] { return message_of(kFloat32, uint64_t{1} << 50, 16, 1); }},
      {"bad_payload_short", "truncated", [] { return message_of(kFloat32, 5, 16, 1); }},
      {"bad_payload_long", "unexpected bytes", [] { return message_of(kFloat32, 3, 16, 1); }},
      {"bad_nan", "not finite", [] { return message_of(kFloat32, 4, 16, std::nanf("")); }},
      {"bad_varint", "variable-length",
       [] {
         Bytes bytes = message_of(kFloat32, 4, 16, 1);
         for (size_t i = 13; i < 24; ++i) bytes[i] = 0xff;
         return with_checksum(bytes);
       }},
  };
  return list;
}

TEST(Golden, BrokenFilesAreRefusedWithTheReason) {
  for (const Broken& bad : broken()) {
    const fs::path file = kFolder / (bad.name + ".msg");
    if (writing()) write_once(file, bad.make());
    const Bytes message = read_file(file);
    EXPECT_EQ(message, bad.make()) << bad.name;
    try {
      decode_any(message);
      ADD_FAILURE() << bad.name << " was accepted";
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(bad.reason), std::string::npos)
          << bad.name << ": " << error.what();
    }
  }
}

TEST(Golden, TheUnbrokenBaseOfTheBrokenFilesIsAccepted) {
  EXPECT_EQ(decode_any(message_of(kFloat32, 4, 16, 1)).values()[3], 1.0f);
}

}  // namespace
}  // namespace espalier::codec
