// SPDX-License-Identifier: Apache-2.0
#include "model/pictures.h"

#include <numeric>

#include "core/check.h"

namespace deltacome {

std::vector<int32_t> expand_image_tokens(std::span<const int32_t> ids, const VisionConfig& vision) {
  std::vector<int32_t> out;
  for (const int32_t id : ids) {
    const bool image = id == vision.image_token_id;
    out.insert(out.end(), image ? static_cast<size_t>(vision.n_features()) : size_t{1}, id);
  }
  return out;
}

std::vector<int32_t> place_pictures(std::span<const int32_t> ids, const VisionConfig& vision,
                                    int64_t n_pictures, int64_t first_row) {
  std::vector<int32_t> out(ids.begin(), ids.end());
  int64_t row = first_row;
  for (int32_t& id : out) {
    if (id == vision.image_token_id) id = given_id(row++);
  }
  const int64_t n = row - first_row, wanted = n_pictures * vision.n_features();
  if (n != wanted) {
    fail(ErrorCode::kInvalidArgument,
         "the prompt has {} image tokens (id {}), expected {} for {} picture{}", n,
         vision.image_token_id, wanted, n_pictures, n_pictures == 1 ? "" : "s");
  }
  return out;
}

PictureReader PictureReader::open(Backend& backend, const Checkpoint& tensors,
                                  const ModelConfig& config,
                                  const std::filesystem::path& directory) {
  if (!config.vision) return {};
  return {std::make_shared<VisionTower>(backend, tensors, config),
          read_image_preprocessing(directory, *config.vision)};
}

Tensor PictureReader::features(Backend& backend, Stream& stream,
                               std::span<const std::string> files) const {
  if (files.empty()) return {};
  if (tower == nullptr) {
    fail(ErrorCode::kInvalidArgument,
         "the model takes no pictures: it has no vision tower, and the request has {}",
         files.size());
  }
  Tensor table;
  int64_t first = 0;
  for (const std::string& file : files) {
    const Picture picture = read_picture(std::as_bytes(std::span(file)), preprocessing);
    const Tensor rows = tower->features(stream, picture.pixels);
    if (files.size() == 1) return rows;
    const int64_t n = rows.rows();
    if (table.empty())
      table = backend.allocate(DType::kF32, {n * static_cast<int64_t>(files.size()), rows.cols()});
    std::vector<int32_t> all(static_cast<size_t>(n));
    std::iota(all.begin(), all.end(), 0);
    backend.gather_rows(stream, rows, all, table.slice(first, n));
    first += n;
  }
  return table;
}

}  // namespace deltacome
