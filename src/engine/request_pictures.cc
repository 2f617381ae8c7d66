// SPDX-License-Identifier: Apache-2.0
#include "engine/request_pictures.h"

#include <algorithm>
#include <numeric>

#include "core/check.h"
#include "model/pictures.h"

namespace deltacome {
namespace {

constexpr size_t kMaxPictures = 64;  // of a request

}  // namespace

RequestPictures take_pictures(EngineRequest& request, const PictureFormat& format) {
  const size_t n = request.images.size();
  if (n > kMaxPictures)
    fail(ErrorCode::kInvalidArgument, "the number of pictures is {}, expected at most {}", n,
         kMaxPictures);
  const auto n_tokens = std::ranges::count(request.prompt, format.config.image_token_id);
  if (n_tokens == static_cast<int64_t>(n))
    request.prompt = expand_image_tokens(request.prompt, format.config);
  RequestPictures out;
  out.prompt = place_pictures(request.prompt, format.config, static_cast<int64_t>(n));
  for (const std::string& file : request.images) {
    Picture picture = read_picture(std::as_bytes(std::span(file)), format.preprocessing);
    request.extra_hash += "\n" + picture.hash;
    out.pixels.push_back(std::move(picture.pixels));
  }
  request.images.clear();
  return out;
}

void compute_features(RequestPictures& pictures, Backend& backend, Stream& stream) {
  if (!pictures.given.empty()) return;
  const VisionConfig& config = pictures.tower->config();
  const auto size = static_cast<size_t>(3 * config.image_size * config.image_size);
  const auto n = static_cast<int64_t>(pictures.pixels.size());
  const auto n_rows = std::ranges::count_if(pictures.prompt, [](int32_t id) { return id < 0; });
  if (pictures.pixels.front().size() != size || n_rows != n * config.n_features()) {
    fail(ErrorCode::kMismatch,
         "the variant was replaced by one that takes other pictures, of {} x {} pixels, before the "
         "request began",
         config.image_size, config.image_size);
  }
  Tensor given;
  for (int64_t i = 0; i < n; ++i) {
    const Tensor rows = pictures.tower->features(stream, pictures.pixels[static_cast<size_t>(i)]);
    if (given.empty()) given = backend.allocate(DType::kF32, {n * rows.rows(), rows.cols()});
    std::vector<int32_t> all(static_cast<size_t>(rows.rows()));
    std::iota(all.begin(), all.end(), 0);
    backend.gather_rows(stream, rows, all, given.slice(i * rows.rows(), rows.rows()));
  }
  pictures.given = given;
}

}  // namespace deltacome
