// SPDX-License-Identifier: Apache-2.0
#include "compress/row_encoder.h"

#include <map>
#include <string>

#include "core/check.h"
#include "image/data_uri.h"

namespace deltacome {

struct RowEncoder::Table {
  Backend& backend;
  Stream& stream;
  PictureReader pictures;
  std::map<std::string, int64_t> first_rows;  // by the picture's hash
  std::vector<float> values;                  // [n, hidden]
  int64_t hidden = 0;
  Tensor uploaded;

  /// Where the features of a picture begin.
  int64_t first_row(const std::string& file) {
    const Picture picture = read_picture(std::as_bytes(std::span(file)), pictures.preprocessing);
    const auto known = first_rows.find(picture.hash);
    if (known != first_rows.end()) return known->second;
    const Tensor rows = pictures.tower->features(stream, picture.pixels);
    hidden = rows.cols();
    const size_t before = values.size();
    values.resize(before + static_cast<size_t>(rows.size()));
    backend.download(stream, rows, std::as_writable_bytes(std::span(values).subspan(before)));
    return first_rows[picture.hash] = static_cast<int64_t>(before) / hidden;
  }
};

RowEncoder::RowEncoder(const Tokenizer& tokenizer) : tokenizer_(&tokenizer) {}

RowEncoder::RowEncoder(const Tokenizer& tokenizer, const CheckpointPair& pair, Backend& backend,
                       Stream& stream)
    : tokenizer_(&tokenizer) {
  if (!pair.finetuned_config.vision) return;
  PictureReader pictures = PictureReader::open(backend, pair.finetuned, pair.finetuned_config,
                                               pair.finetuned.directory());
  table_ = std::make_shared<Table>(Table{backend, stream, std::move(pictures), {}, {}, 0, {}});
}

std::vector<TokenId> RowEncoder::encode(const TextRow& row,
                                        const std::filesystem::path& directory) const {
  std::vector<TokenId> ids = tokenizer_->encode(row.text, false);
  if (!row.image) return ids;
  if (table_ == nullptr) {
    fail(ErrorCode::kInvalidArgument, "a row has a picture, but the model has no vision tower: {}",
         row.text.substr(0, 80));
  }
  const VisionConfig& vision = table_->pictures.tower->config();
  const int64_t first = table_->first_row(read_named_picture(*row.image, directory));
  return place_pictures(expand_image_tokens(ids, vision), vision, 1, first);
}

Tensor RowEncoder::given() const {
  if (table_ == nullptr || table_->values.empty()) return {};
  const int64_t n = static_cast<int64_t>(table_->values.size()) / table_->hidden;
  if (table_->uploaded.empty() || table_->uploaded.rows() != n) {
    table_->uploaded = table_->backend.allocate(DType::kF32, {n, table_->hidden});
    table_->backend.upload(table_->stream, std::as_bytes(std::span(table_->values)),
                           table_->uploaded);
  }
  return table_->uploaded;
}

}  // namespace deltacome
