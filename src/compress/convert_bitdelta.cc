// SPDX-License-Identifier: Apache-2.0
#include "compress/convert_bitdelta.h"

#include <chrono>
#include <cmath>
#include <cstring>
#include <system_error>

#include "compress/checkpoints.h"
#include "compress/codec.h"
#include "compress/work_directory.h"
#include "core/check.h"
#include "delta/base_model.h"
#include "io/archive.h"
#include "io/same_architecture.h"
#include "io/torch_file.h"
#include "quant/codes.h"

namespace deltacome {
namespace {

using Clock = std::chrono::steady_clock;
using Kind = ExpectedTensor::Kind;
using Tensors = std::map<std::string, HostTensor>;

constexpr std::string_view kWeight = ".weight";
constexpr int64_t kWordBits = 32;

/// Takes a tensor out; null if there is none.
std::optional<HostTensor> take(Tensors& tensors, const std::string& name) {
  const auto found = tensors.find(name);
  if (found == tensors.end()) return std::nullopt;
  HostTensor tensor = std::move(found->second);
  tensors.erase(found);
  return tensor;
}

void expect(const std::string& where, const std::string& name, const HostTensor& got, DType dtype,
            const Shape& shape) {
  if (got.dtype == dtype && got.shape == shape) return;
  fail(ErrorCode::kMismatch, "{}: tensor \"{}\" is {} {}, expected {} {}", where, name,
       dtype_name(got.dtype), to_string(got.shape), dtype_name(dtype), to_string(shape));
}

/// The mask and coefficient of one projection, as one array of 1-bit codes with one scale: a code
/// is worth half a scale, plus or minus.
CodedTensor encode_signs(const ExpectedTensor& tensor, const HostTensor& mask, float coefficient) {
  const int64_t n_out = tensor.shape[0], n_in = tensor.shape[1];
  CodedTensor out{.name = tensor.name,
                  .format = {.codec = Codec::kDense,
                             .shape = tensor.shape,
                             .base_rows = n_out,
                             .dense = {.bits = 1, .scale_rows = 0, .scale_cols = 0},
                             .tiers = {}},
                  .blob = {},
                  .stats = {}};
  CodedArray array{.format = out.format.dense,
                   .rows = n_out,
                   .cols = n_in,
                   .codes = {},
                   .scales = {float_to_f16(2 * coefficient)},
                   .values = {}};
  array.codes.reserve(static_cast<size_t>(n_out * n_in));
  for (int64_t o = 0; o < n_out; ++o) {
    for (int64_t i = 0; i < n_in; ++i) {
      uint32_t word;
      std::memcpy(&word, mask.bytes.data() + 4 * (i / kWordBits * n_out + o), sizeof word);
      array.codes.push_back(static_cast<uint8_t>(word >> (i % kWordBits) & 1));
    }
  }
  const BlobLayout layout = layout_of(out.format);
  out.blob.resize(static_cast<size_t>(layout.total_bytes));
  pack(array, layout.dense, out.blob);
  return out;
}

std::optional<CodedTensor> encode(const ExpectedTensor& tensor, const HostTensor& of_base,
                                  Tensors& diff, const std::string& where) {
  const std::string module = tensor.name.substr(0, tensor.name.size() - kWeight.size());
  const auto mask = tensor.kind == Kind::kProjection ? take(diff, module + ".mask") : std::nullopt;
  if (mask) {
    const std::string name = module + ".mask";
    if (tensor.shape[1] % kWordBits != 0) {
      fail(ErrorCode::kMismatch, "{}: tensor \"{}\": {} inputs, expected a multiple of {}", where,
           name, tensor.shape[1], kWordBits);
    }
    expect(where, name, *mask, DType::kI32, {tensor.shape[1] / kWordBits, tensor.shape[0]});
    const auto coefficient = take(diff, module + ".coeff");
    if (!coefficient || coefficient->size() != 1 || !is_floating(coefficient->dtype)) {
      fail(ErrorCode::kMismatch, "{}: tensor \"{}.coeff\" is {}, expected one number", where,
           module, coefficient ? to_string(coefficient->shape) : "missing");
    }
    float value = 0;
    convert_to_float(coefficient->bytes.data(), coefficient->dtype, {&value, 1});
    if (!std::isfinite(f16_to_float(float_to_f16(2 * value)))) {
      fail(ErrorCode::kCorrupt, "{}: tensor \"{}.coeff\" is {}, expected a number within fp16's",
           where, module, value);
    }
    return encode_signs(tensor, *mask, value);
  }
  const auto whole = take(diff, tensor.name);
  if (!whole) return std::nullopt;
  expect(where, tensor.name, *whole, is_floating(whole->dtype) ? whole->dtype : of_base.dtype,
         tensor.shape);
  if (equal_values(*whole, of_base)) return std::nullopt;
  return encode_raw(tensor.name, *whole);
}

}  // namespace

bool is_bitdelta_file(const std::filesystem::path& path) {
  std::error_code ignored;
  return std::filesystem::is_regular_file(path, ignored);
}

CompressReport convert_bitdelta(const CompressOptions& options) {
  const Clock::time_point start = Clock::now();
  check_output(options.out);
  const BaseModel opened = open_base(options.base, options.base_deltas, options.n_threads);
  const Checkpoint base = opened.checkpoint.dequantized();
  const ModelConfig& base_config = opened.config;
  const auto directory = std::filesystem::absolute(options.finetuned).parent_path();
  const ModelConfig finetuned_config = read_model_config(directory, base.directory());
  check_same_architecture(base_config, finetuned_config);
  std::vector<ExpectedTensor> expected = expected_tensors(base_config);
  expect_tensors(base, expected);

  Tensors diff = read_torch_file(options.finetuned);
  const std::string where = options.finetuned.string();
  ArchiveConfig config;
  config.created_by = fmt::format("deltacome {}", DELTACOME_VERSION);
  config.method = "bitdelta";
  config.architecture = finetuned_config.architecture;
  config.base_name = directory_name(options.base);
  config.base_hash = base.content_hash();
  config.parent = opened.parent;
  config.base_quantization = opened.checkpoint.scheme();
  config.finetuned_name = options.finetuned.filename().string();
  config.finetuned_hash = content_hash(diff);
  std::vector<CodedTensor> coded;
  for (ExpectedTensor tensor : expected) {
    const bool vocabulary = tensor.kind == Kind::kEmbedding || tensor.kind == Kind::kHead;
    if (vocabulary) tensor.shape[0] = finetuned_config.vocab_size;
    config.finetuned_parameters += element_count(tensor.shape);
    if (tensor.kind == Kind::kProjection) config.projection_weights += element_count(tensor.shape);
    if (auto one = encode(tensor, base.at(tensor.name), diff, where))
      coded.push_back(*std::move(one));
  }
  if (!diff.empty()) {
    fail(ErrorCode::kUnsupported,
         "{}: tensor \"{}\" {} is not one of a BitDelta diff of this base, expected names "
         "MODULE.mask, "
         "MODULE.coeff and MODULE.weight",
         where, diff.begin()->first, to_string(diff.begin()->second.shape));
  }
  ArchiveWriter writer(std::move(config));
  for (const CodedTensor& tensor : coded) writer.add(tensor);
  writer.write(options.out, directory, base.directory());

  CompressReport report;
  report.archive = inspect_archive(options.out);
  report.notes.push_back("the coefficients are rounded to the 11 significant bits of fp16");
  report.seconds = std::chrono::duration<double>(Clock::now() - start).count();
  return report;
}

}  // namespace deltacome
