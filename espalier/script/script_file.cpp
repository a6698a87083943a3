#include "espalier/script/script_file.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string_view>
#include <vector>

#include "espalier/base/error.h"

namespace espalier::script {
namespace {

constexpr const char* kWayOut =
    "save the module itself: torch.jit.script(model).save(\"model.pt\")";

std::string read_at(std::ifstream& in, uint64_t offset, uint64_t size) {
  std::string bytes(size, '\0');
  in.clear();
  in.seekg(static_cast<std::streamoff>(offset));
  in.read(bytes.data(), static_cast<std::streamsize>(size));
  bytes.resize(static_cast<size_t>(std::max<std::streamsize>(0, in.gcount())));
  return bytes;
}

uint64_t number(std::string_view bytes, size_t at, size_t width) {
  uint64_t value = 0;
  for (size_t i = width; i-- > 0;) value = value << 8 | static_cast<uint8_t>(bytes[at + i]);
  return value;
}

// Names of a zip archive's members, from its central directory; nullopt when there is none, as in a
// file that was cut off.
std::optional<std::vector<std::string>> zip_members(std::ifstream& in, uint64_t size) {
  constexpr uint64_t kMostDirectory = uint64_t{64} << 20;
  const uint64_t tail = std::min<uint64_t>(size, 22 + 65535);
  const std::string end = read_at(in, size - tail, tail);
  const size_t record = end.rfind("PK\x05\x06");
  if (record == std::string::npos || end.size() - record < 22) return std::nullopt;
  uint64_t length = number(end, record + 12, 4), offset = number(end, record + 16, 4);
  // Zip64, which PyTorch writes: the real numbers stand in a record before.
  if (record >= 20 && end.compare(record - 20, 4, "PK\x06\x07") == 0) {
    const std::string wide = read_at(in, number(end, record - 12, 8), 56);
    if (wide.size() < 56 || wide.compare(0, 4, "PK\x06\x06") != 0) return std::nullopt;
    length = number(wide, 40, 8);
    offset = number(wide, 48, 8);
  }
  if (offset > size || length > size - offset || length > kMostDirectory) return std::nullopt;
  const std::string directory = read_at(in, offset, length);
  std::vector<std::string> names;
  for (size_t at = 0; at + 46 <= directory.size() && directory.compare(at, 4, "PK\x01\x02") == 0;) {
    const size_t name = number(directory, at + 28, 2), more = number(directory, at + 30, 2),
                 comment = number(directory, at + 32, 2);
    if (at + 46 + name > directory.size()) return std::nullopt;
    names.push_back(directory.substr(at + 46, name));
    at += 46 + name + more + comment;
  }
  return names;
}

// What an archive is that is no module; empty for a module.
std::string other_archive(const std::vector<std::string>& members) {
  const auto any = [&](auto test) { return std::ranges::any_of(members, test); };
  const auto has = [&](std::string_view name) {
    return any([&](const std::string& member) {
      return member == name || member.ends_with(concat("/", name));
    });
  };
  const auto contains = [&](std::string_view part) {
    return any([&](const std::string& member) { return member.find(part) != std::string::npos; });
  };
  if (has("serialized_exported_program.json") || contains("models/model.json") ||
      has("archive_format"))
    return "a program of torch.export";
  if (contains("/.data/") && has("extern_modules")) return "a package of torch.package";
  if (has("constants.pkl") || contains("/code/")) return "";
  if (has("data.pkl")) return "weights or a pickled module of torch.save, not a scripted module";
  if (any([](const std::string& member) { return member.ends_with(".npy"); }))
    return "an archive of numpy";
  if (has("config.json") && contains(".weights.h5")) return "a model of Keras";
  return "a zip archive without a scripted module";
}

std::string other_file(const std::string& head, const std::string& path) {
  const auto begins = [&](std::string_view bytes) { return head.starts_with(bytes); };
  using std::string_view_literals::operator""sv;
  const std::string extension = std::filesystem::path(path).extension().string();
  if (begins("\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19\x2e"sv))
    return "weights or a pickled module of an older torch.save, not a scripted module";
  if (head.size() > 1 && head[0] == '\x80' && head[1] >= 2 && head[1] <= 5)
    return "a pickle, not a scripted module";
  if (begins("\x89HDF\r\n\x1a\n"sv)) return "an HDF5 file (Keras)";
  if (begins("\x93NUMPY"sv)) return "an array of numpy";
  if (head.size() > 9 && head[8] == '{' && head.find("\"") != std::string::npos && head[7] == '\0')
    return "a safetensors file: weights alone";
  if (head.size() > 8 && head.compare(4, 4, "TFL3") == 0) return "a model of TensorFlow Lite";
  const bool protobuf = head.size() > 2 && head[0] == '\x08' && head[1] > 0 && head[1] < 32;
  if (extension == ".onnx" || (protobuf && (head.find("pytorch") != std::string::npos ||
                                            head.find("onnx") != std::string::npos)))
    return "a model of ONNX";
  if (extension == ".py") return "source code";
  return "no archive of TorchScript";
}

}  // namespace

void check_script_file(const std::string& file) {
  if (file.empty())
    fail("train/model", "model 'torchscript' needs model.file, the path of a scripted module");
  if (!std::filesystem::exists(file)) fail("train/model", "model.file: no such file (", file, ")");
  if (std::filesystem::is_directory(file))
    fail("train/model", "model.file is a folder; ", kWayOut, " (", file, ")");
  std::ifstream in(file, std::ios::binary);
  if (!in) fail("train/model", "model.file cannot be opened (", file, ")");
  const uint64_t size = std::filesystem::file_size(file);
  if (size == 0) fail("train/model", "model.file is empty; ", kWayOut, " (", file, ")");
  const std::string head = read_at(in, 0, 4096);
  std::string what;
  if (head.starts_with("PK\x03\x04")) {
    const auto members = zip_members(in, size);
    if (!members) {
      fail("train/model",
           "model.file is damaged: its end is missing, as after a copy that was cut "
           "off; copy or save it again (",
           file, ")");
    }
    what = other_archive(*members);
  } else {
    what = other_file(head, file);
  }
  if (!what.empty()) fail("train/model", "model.file is ", what, "; ", kWayOut, " (", file, ")");
}

}  // namespace espalier::script
