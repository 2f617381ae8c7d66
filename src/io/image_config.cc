// SPDX-License-Identifier: Apache-2.0
#include "io/image_config.h"

#include <system_error>

#include "core/check.h"
#include "io/config_fields.h"
#include "io/files.h"

namespace deltacome {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

constexpr int64_t kMaxSide = 1 << 13;
constexpr int kBicubic = 3;  // Pillow's number

/// {"height", "width"}, or one number for both.
void read_crop(const ConfigFields& fields, ImagePreprocessing& out) {
  const json* size = fields.find("crop_size");
  if (size == nullptr) return;
  if (size->is_object()) {
    const ConfigFields sides(*size, fields.where() + ": crop_size");
    out.crop_height = sides.integer("height", 1, kMaxSide);
    out.crop_width = sides.integer("width", 1, kMaxSide);
  } else {
    out.crop_height = out.crop_width = fields.check_integer("crop_size", *size, 1, kMaxSide);
  }
}

/// {"shortest_edge"}, {"height", "width"}, or one number for the shorter side.
void read_size(const ConfigFields& fields, ImagePreprocessing& out) {
  const json* size = fields.find("size");
  if (size == nullptr) return;
  if (!size->is_object()) {
    out.shortest_edge = fields.check_integer("size", *size, 1, kMaxSide);
    return;
  }
  const ConfigFields sides(*size, fields.where() + ": size");
  if (sides.is_present("shortest_edge")) {
    out.shortest_edge = sides.integer("shortest_edge", 1, kMaxSide);
    return;
  }
  out.shortest_edge = 0;
  out.height = sides.integer("height", 1, kMaxSide);
  out.width = sides.integer("width", 1, kMaxSide);
}

void read_colours(const ConfigFields& fields, const char* key, double low,
                  std::array<double, 3>& out) {
  const json* list = fields.find(key);
  if (list == nullptr) return;
  if (!list->is_array() || list->size() != 3) fields.reject(key, *list, "a list of 3 numbers");
  for (size_t i = 0; i < 3; ++i) {
    const json& value = (*list)[i];
    if (!value.is_number() || value.get<double>() < low || value.get<double>() > 1e3)
      fields.reject(key, *list, fmt::format("a list of 3 numbers from {} to 1000", low));
    out[i] = value.get<double>();
  }
}

void read_fields(const ConfigFields& fields, ImagePreprocessing& out) {
  out.resize = fields.flag_or("do_resize", true);
  read_size(fields, out);
  const int64_t filter = fields.integer_or("resample", kBicubic, 0, 5);
  if (out.resize && filter != kBicubic) {
    fail(ErrorCode::kUnsupported, "{}: resample {} is not supported; supported is 3 (bicubic)",
         fields.where(), filter);
  }
  out.center_crop = fields.flag_or("do_center_crop", true);
  read_crop(fields, out);
  out.rescale = fields.number_or("rescale_factor", out.rescale, 1e-6, 1e3);
  if (!fields.flag_or("do_rescale", true)) out.rescale = 1;
  read_colours(fields, "image_mean", -1e3, out.mean);
  read_colours(fields, "image_std", 1e-6, out.std);
  out.pad_to_square = fields.flag_or("do_pad", false);
  if (!fields.flag_or("do_normalize", true)) {
    out.mean = {0, 0, 0};
    out.std = {1, 1, 1};
  }
}

void expect_square(const ImagePreprocessing& p, int64_t side, const std::string& where) {
  const int64_t height = p.center_crop ? p.crop_height : p.height;
  const int64_t width = p.center_crop ? p.crop_width : p.width;
  const bool known = p.center_crop || (p.resize && p.shortest_edge == 0);
  if (known && height == side && width == side) return;
  fail(ErrorCode::kMismatch, "{}: pictures become {}, expected the vision tower's {} x {} pixels",
       where, known ? fmt::format("{} x {}", width, height) : "of no fixed size", side, side);
}

}  // namespace

ImagePreprocessing read_image_preprocessing(const fs::path& directory, const VisionConfig& vision) {
  ImagePreprocessing out;
  out.shortest_edge = out.crop_height = out.crop_width = vision.image_size;
  std::error_code error;
  const auto read = [&](const fs::path& path) {
    return parse_json_object(read_text_file(path), path.string());
  };
  const fs::path own = directory / "preprocessor_config.json";
  const fs::path of_processor = directory / "processor_config.json";
  std::string where = directory.string();
  if (fs::exists(own, error)) {
    where = own.string();
    const json object = read(own);
    read_fields(ConfigFields(object, where), out);
  } else if (fs::exists(of_processor, error)) {
    where = of_processor.string();
    const json object = read(of_processor);
    const auto part = object.find("image_processor");
    if (part != object.end() && part->is_object())
      read_fields(ConfigFields(*part, where + ": image_processor"), out);
  }
  const fs::path config = directory / "config.json";
  if (fs::exists(config, error)) {
    const json object = read(config);
    if (ConfigFields(object, config.string()).text_or("image_aspect_ratio", "") == "pad")
      out.pad_to_square = true;
  }
  expect_square(out, vision.image_size, where);
  return out;
}

}  // namespace deltacome
