// SPDX-License-Identifier: Apache-2.0
#include "compress/convert_adapter.h"

#include <algorithm>
#include <chrono>

#include "compress/checkpoints.h"
#include "compress/work_directory.h"
#include "core/check.h"
#include "delta/base_model.h"
#include "io/archive.h"
#include "io/peft_adapter.h"

namespace deltacome {
namespace {

using Clock = std::chrono::steady_clock;

std::vector<KindSummary> summary_of(const ArchiveInfo& archive) {
  std::vector<KindSummary> kinds;
  for (const TensorInfo& tensor : archive.tensors) {
    auto at = std::find_if(kinds.begin(), kinds.end(),
                           [&](const KindSummary& k) { return k.kind == tensor.kind; });
    if (at == kinds.end()) at = kinds.insert(kinds.end(), KindSummary{.kind = tensor.kind});
    ++at->matrices;
    at->rank += static_cast<double>(tensor.rank);
    at->bits_per_weight += tensor.bits_per_weight;  // matrices of one kind have one size
  }
  for (KindSummary& kind : kinds) {
    kind.rank /= static_cast<double>(kind.matrices);
    kind.bits_per_weight /= static_cast<double>(kind.matrices);
  }
  return kinds;
}

}  // namespace

CompressReport convert_adapter(const CompressOptions& options) {
  const Clock::time_point start = Clock::now();
  check_output(options.out);
  const BaseModel opened = open_base(options.base, options.base_deltas, options.n_threads);
  const Checkpoint base = opened.checkpoint.dequantized();
  const ModelConfig& base_config = opened.config;
  const std::vector<ExpectedTensor> expected = expected_tensors(base_config);
  std::vector<ExpectedTensor> all = expected_vision_tensors(base_config);
  all.insert(all.end(), expected.begin(), expected.end());
  expect_tensors(base, all);
  const PeftAdapter adapter = PeftAdapter::open(options.finetuned);

  ArchiveConfig config;
  config.created_by = fmt::format("deltacome {}", DELTACOME_VERSION);
  config.method = "lora";
  config.architecture = adapter.model_config(base.directory(), base_config).architecture;
  config.base_name = directory_name(options.base);
  config.base_hash = base.content_hash();
  config.parent = opened.parent;
  config.base_quantization = opened.checkpoint.scheme();
  config.finetuned_name = directory_name(options.finetuned);
  config.finetuned_hash = adapter.content_hash();
  for (const auto& [name, tensor] : base.tensors()) config.finetuned_parameters += tensor.size();
  for (const ExpectedTensor& tensor : expected) {
    if (tensor.kind == ExpectedTensor::Kind::kProjection)
      config.projection_weights += element_count(tensor.shape);
  }
  ArchiveWriter writer(std::move(config));
  for (const CodedTensor& tensor : adapter.encode(expected)) writer.add(tensor);
  writer.write(options.out, options.finetuned, base.directory());

  CompressReport report;
  report.archive = inspect_archive(options.out);
  report.kinds = summary_of(report.archive);
  if (adapter.has_type(DType::kF32)) {
    report.notes.push_back(
        "the adapter's F32 weights are rounded to the 11 significant bits of fp16");
  }
  report.seconds = std::chrono::duration<double>(Clock::now() - start).count();
  return report;
}

}  // namespace deltacome
