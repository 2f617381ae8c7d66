// SPDX-License-Identifier: Apache-2.0
// Runs a model on the CPU and on another device side by side and prints how far their logits are
// apart:
//   check_backend MODEL_DIR [DEVICE=cuda] [WEIGHTS=auto|f16|bf16|f32] [KV=f32|bf16|int8]
// Exits with 1 if the mean KL divergence is above 2e-3 for weights in bf16, 1e-4 for others.
#include <fmt/format.h>

#include "backend/device.h"
#include "tests/golden/side_by_side.h"

namespace deltacome {
namespace {

DType weight_type(const std::string& name, DType stored) {
  if (name == "auto") return stored;
  if (name == "f32") return DType::kF32;
  if (name == "f16") return DType::kF16;
  if (name == "bf16") return DType::kBf16;
  fail(ErrorCode::kInvalidArgument, "weights as \"{}\", expected auto, f32, f16 or bf16", name);
}

int run(const std::vector<std::string>& args) {
  if (args.empty() || args.size() > 4)
    fail(ErrorCode::kInvalidArgument, "usage: check_backend MODEL_DIR [DEVICE] [WEIGHTS] [KV]");
  const std::filesystem::path dir = args[0];
  const Checkpoint stored = Checkpoint::open(dir);
  const DType kept = stored.tensors().begin()->second.dtype;
  const DType dtype = weight_type(args.size() > 2 ? args[2] : "auto", kept);
  const DType kv_dtype = parse_kv_dtype(args.size() > 3 ? args[3] : "f32");
  const auto cpu = create_backend("cpu", 0);
  const auto device = create_backend(args.size() > 1 ? args[1] : "cuda", 0);
  const test::Difference d =
      test::compare(*cpu, *device, dtype == kept ? stored : test::converted(stored, dtype),
                    read_model_config(dir), kv_dtype, 4, 256, 64);
  fmt::print(
      "{} weights {} cache {}\n{}\nKL mean {:.3e}, largest {:.3e}; logits differ by at most "
      "{:.3e}; "
      "{} of {} tokens with another most likely one\n",
      dir.string(), dtype_name(dtype), dtype_name(kv_dtype), device->name(), d.mean_kl,
      d.largest_kl, d.largest_logit, d.other_top1, d.tokens);
  return d.mean_kl < (dtype == DType::kBf16 ? 2e-3 : 1e-4) ? 0 : 1;
}

}  // namespace
}  // namespace deltacome

int main(int argc, char** argv) {
  try {
    return deltacome::run({argv + 1, argv + argc});
  } catch (const deltacome::Error& error) {
    fmt::print(stderr, "check_backend: {}\n", error.what());
    return 2;
  }
}
