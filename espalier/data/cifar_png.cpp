#include "espalier/data/cifar_png.h"

#include <png.h>

#include <nlohmann/json.hpp>

#include "espalier/base/error.h"
#include "espalier/base/file.h"
#include "espalier/data/cifar.h"

namespace espalier::data {

Bytes cifar10_from_png(const std::filesystem::path& png, std::span<const uint8_t> labels) {
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  if (png_image_begin_read_from_file(&image, png.c_str()) == 0) {
    fail(png.string(), "this PNG cannot be read: ", image.message);
  }
  const size_t width = image.width, height = image.height;
  if (width != kCifarPlane || height != labels.size() || image.format != PNG_FORMAT_RGB) {
    const uint32_t format = image.format;
    png_image_free(&image);
    fail(png.string(), "expected an RGB image of ", kCifarPlane, " × ", labels.size(),
         " pixels, got ", width, " × ", height, " of format ", format);
  }
  Bytes pixels(PNG_IMAGE_SIZE(image));
  if (png_image_finish_read(&image, nullptr, pixels.data(), 0, nullptr) == 0) {
    fail(png.string(), "this PNG cannot be read: ", image.message);
  }
  constexpr size_t kImage = 3 * kCifarPlane, kRecord = 1 + kImage;
  Bytes out(height * kRecord);
  for (size_t row = 0; row < height; ++row) {
    write_cifar10_record(labels[row], std::span(pixels).subspan(row * kImage, kImage),
                         std::span(out).subspan(row * kRecord, kRecord));
  }
  return out;
}

std::vector<uint8_t> read_cifar10_labels(const std::filesystem::path& json) {
  const auto parsed =
      nlohmann::json::parse(read_text_file(json), nullptr, /*allow_exceptions=*/false);
  if (!parsed.is_array()) fail(json.string(), "expected a JSON list of labels");
  std::vector<uint8_t> labels;
  for (const auto& label : parsed) {
    if (!label.is_number_unsigned() || label.get<uint64_t>() >= 10) {
      fail(json.string(), "expected labels in [0, 10), got ", label.dump());
    }
    labels.push_back(label.get<uint8_t>());
  }
  return labels;
}

}  // namespace espalier::data
