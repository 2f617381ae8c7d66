// SPDX-License-Identifier: Apache-2.0
#include "io/base_relation.h"

#include <algorithm>
#include <cmath>
#include <system_error>

#include "core/check.h"
#include "deltacome/archive.h"
#include "io/config_fields.h"
#include "io/model_config.h"
#include "io/safetensors.h"
#include "io/same_architecture.h"

namespace deltacome {
namespace fs = std::filesystem;
namespace {

using nlohmann::json;

constexpr const char* kName = "deltacome_base.json";
constexpr size_t kMaxBytes = 1u << 16;
// Codes of 4 bits are off by 0.08 to 0.2 of a matrix's norm, of 2 bits by less than 0.6, unrelated
// matrices by 1.4.
constexpr double kLargestError = 0.6;

/// ||quantized - full||_F / ||full||_F.
double relative_error(const QuantizedMatrix& matrix, const HostTensor& full) {
  std::vector<float> row(static_cast<size_t>(matrix.n_in));
  double error = 0, energy = 0;
  for (int64_t o = 0; o < matrix.n_out; ++o) {
    matrix.decode_row(o, row);
    const std::vector<float> want = full.to_float(o, 1);
    for (size_t i = 0; i < row.size(); ++i) {
      const double value = static_cast<double>(want[i]);
      error += std::pow(static_cast<double>(row[i]) - value, 2);
      energy += value * value;
    }
  }
  return energy > 0 ? std::sqrt(error / energy) : std::sqrt(error);
}

/// Whether `kept` is `full` in its own type. A method that folds scales into the layers before
/// (AWQ, SmoothQuant) changes norms: a delta of the full model does not fit such weights.
bool is_rounded(const HostTensor& kept, const HostTensor& full) {
  std::vector<std::byte> row(static_cast<size_t>(kept.cols() * dtype_bytes(kept.dtype)));
  for (int64_t r = 0; r < kept.rows(); ++r) {
    convert_from_float(full.to_float(r, 1), kept.dtype, row.data());
    const auto at = static_cast<size_t>(r) * row.size();
    if (!std::ranges::equal(row, kept.bytes.subspan(at, row.size()))) return false;
  }
  return true;
}

}  // namespace

std::optional<std::string> related_base(const fs::path& quantized, const std::string& hash) {
  const fs::path path = quantized / kName;
  std::error_code error;
  if (!fs::exists(path, error)) return std::nullopt;
  const json object = parse_json_object(read_text_file(path, kMaxBytes), path.string());
  const ConfigFields fields(object, path.string());
  if (const std::string own = fields.text_or("content_hash", ""); own != hash) {
    fail(ErrorCode::kMismatch,
         "{}: was written for weights with content hash {}, but the directory's is {}",
         path.string(), quote(own), hash);
  }
  return fields.text_or("quantized_from", "");
}

BaseRelation relate_bases(const fs::path& quantized, const fs::path& full) {
  const Checkpoint codes = Checkpoint::open(quantized), whole = Checkpoint::open(full);
  if (codes.quantized().empty() || !whole.quantized().empty()) {
    fail(ErrorCode::kInvalidArgument, "{}: {}, expected quantized weights, and in {} full ones",
         quantized.string(),
         codes.quantized().empty() ? "has no quantized weights" : "is quantized", full.string());
  }
  const ModelConfig config = read_model_config(quantized);
  check_same_architecture(read_model_config(full), config);
  BaseRelation relation{.scheme = codes.scheme()};
  for (const ExpectedTensor& expected : expected_tensors(config)) {
    const HostTensor& want = whole.at(expected.name);
    const QuantizedWeight* coded = codes.find_quantized(expected.name);
    const HostTensor* kept = coded == nullptr ? &codes.at(expected.name) : nullptr;
    if ((coded != nullptr ? coded->shape : kept->shape) != want.shape) {
      fail(ErrorCode::kMismatch, "{}: tensor {} has another shape than in {}", quantized.string(),
           quote(expected.name), full.string());
    }
    if (kept != nullptr && !is_rounded(*kept, want)) {
      fail(ErrorCode::kMismatch,
           "{}: tensor {} is not that of {}, so it is not the same model, or one whose scales were "
           "folded; a delta of one does not fit the other",
           quantized.string(), quote(expected.name), full.string());
    }
    if (coded == nullptr) continue;
    const double error = relative_error(coded->read(), want);
    if (!(error <= kLargestError)) {
      fail(ErrorCode::kMismatch,
           "{}: tensor {} differs from that of {} by {:.3f} of its norm, expected at most {}",
           quantized.string(), quote(expected.name), full.string(), error, kLargestError);
    }
    relation.largest_error = std::max(relation.largest_error, error);
    release_pages(want.bytes);
  }
  const json record{{"content_hash", codes.content_hash()},
                    {"quantized_from", whole.content_hash()},
                    {"name", directory_name(full)},
                    {"largest_error", relation.largest_error}};
  write_file_atomically(quantized / kName, record.dump(2) + "\n");
  return relation;
}

}  // namespace deltacome
