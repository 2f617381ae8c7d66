// SPDX-License-Identifier: Apache-2.0
#include "compress/options.h"

#include <fmt/format.h>

#include <algorithm>
#include <thread>

#include "compress/calibration.h"
#include "compress/taught_text.h"
#include "core/check.h"
#include "io/files.h"

namespace deltacome {
namespace {

using Kind = ExpectedTensor::Kind;

// Distillation: operations per product of a forward pass (it, the same again, and the two products
// of the backward pass), tokens of a step, and operations per second and thread, as measured on a
// 2-core EPYC with AVX2.
constexpr double kWorkPerProduct = 8;
constexpr double kNominalRate = 60e9;
// Of a GPU, and what a layer of a step takes however small it is; an H200's, the same for every
// GPU.
constexpr double kNominalGpuRate = 100e12;
constexpr double kGpuLayerSeconds = 2e-3;
constexpr int64_t kLeastSteps = 24;  // fewer move nothing

}  // namespace

const char* method_name(Method method) {
  switch (method) {
    case Method::kAuto:
      return "auto";
    case Method::kCome:
      return "come";
    case Method::kLowRank:
      return "lowrank";
    case Method::kBitDelta:
      return "bitdelta";
  }
  return "?";
}

void check_options(const CompressOptions& options) {
  if (!(options.bits > 0 && options.bits <= 16)) {
    fail(ErrorCode::kInvalidArgument, "--bits {}: expected a number above 0 and at most 16",
         options.bits);
  }
  if (options.method == Method::kBitDelta && options.bits < 1) {
    fail(ErrorCode::kInvalidArgument, "--bits {}: bitdelta stores one bit per weight, no less",
         options.bits);
  }
  if (options.target_kl && options.method != Method::kAuto) {
    fail(ErrorCode::kInvalidArgument, "--target-kl is a search by the method auto, not by {}",
         method_name(options.method));
  }
  if (options.vision_bits != 8 && options.vision_bits != 16) {
    fail(ErrorCode::kInvalidArgument, "--vision-bits {}: expected 8 or 16", options.vision_bits);
  }
  if (options.group < 8 || options.group % 8 != 0) {
    fail(ErrorCode::kInvalidArgument, "--group {}: expected a positive multiple of 8",
         options.group);
  }
  if (calibration_tokens(options) <= 0) {
    fail(ErrorCode::kInvalidArgument, "--calib-tokens {}: expected a positive number",
         calibration_tokens(options));
  }
}

std::string identity_of(const CompressOptions& options, const CheckpointPair& pair,
                        const Backend& backend) {
  std::string text =
      fmt::format("deltacome {}\nbase {}\nfine-tune {}\nmethod {}\nbits {}\ngroup {}\n",
                  DELTACOME_VERSION, pair.base_hash, pair.finetuned_hash,
                  method_name(options.method), options.bits, options.group);
  text += fmt::format("profile {}\ncodes {}\ndistillation {}\n", static_cast<int>(options.profile),
                      static_cast<int>(options.codes), options.distill_minutes.value_or(-1));
  if (pair.finetuned_config.vision) text += fmt::format("vision bits {}\n", options.vision_bits);
  if (options.target_kl) text += fmt::format("target KL {}\n", *options.target_kl);
  text += fmt::format("backend {}\nseed {}\ncalibration tokens {}\n", backend.name(), options.seed,
                      options.calibration.empty() && options.method != Method::kAuto
                          ? 0
                          : calibration_tokens(options));
  for (const std::filesystem::path& file : options.calibration) {
    text += fmt::format("calibration {}\n", sha256_hex(MappedFile::open(file)->bytes()));
  }
  return text;
}

int64_t calibration_tokens(const CompressOptions& options) {
  if (options.calibration_tokens) return *options.calibration_tokens;
  if (options.method != Method::kAuto) return 65536;
  return int64_t{65536} << static_cast<int>(options.profile);  // fast, balanced, best
}

bool is_on_gpu(const CompressOptions& options) {
  return options.device != "cpu";
}

int thread_count(const CompressOptions& options) {
  return options.n_threads > 0
             ? options.n_threads
             : static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
}

double products_per_token(const CheckpointPair& pair) {
  const ModelConfig& config = pair.base_config;
  auto products = static_cast<double>(config.n_layers * config.n_heads * config.head_dim *
                                      kCalibrationLength);  // of attention
  for (const ExpectedTensor& tensor : pair.tensors) {
    if (tensor.kind == Kind::kProjection || tensor.kind == Kind::kHead)
      products += static_cast<double>(element_count(tensor.shape));
  }
  return products;
}

int64_t distillation_steps(const CompressOptions& options, const CheckpointPair& pair) {
  const double minutes =
      options.distill_minutes.value_or(options.profile == Profile::kFast       ? 0
                                       : options.profile == Profile::kBalanced ? 6
                                                                               : 15);
  const double rate = is_on_gpu(options) ? kNominalGpuRate : kNominalRate * thread_count(options);
  double step_s =
      kWorkPerProduct * products_per_token(pair) * static_cast<double>(kStepTokens) / rate;
  if (is_on_gpu(options))
    step_s += kGpuLayerSeconds * static_cast<double>(pair.base_config.n_layers);
  const auto steps = static_cast<int64_t>(minutes * 60 / step_s);
  return steps < kLeastSteps ? 0 : steps;
}

}  // namespace deltacome
