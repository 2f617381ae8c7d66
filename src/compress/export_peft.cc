// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <map>
#include <memory>

#include "compress/calibration.h"
#include "compress/checkpoints.h"
#include "compress/finetuned_inputs.h"
#include "compress/svd.h"
#include "core/check.h"
#include "delta/base_model.h"
#include "delta/finetune.h"
#include "deltacome/export.h"
#include "io/fused_projections.h"
#include "io/peft_writer.h"
#include "model/model.h"
#include "text/tokenizer.h"

namespace deltacome {
namespace {

using Kind = ExpectedTensor::Kind;

DType parse_dtype(const std::string& name) {
  if (name == "f32") return DType::kF32;
  if (name == "f16") return DType::kF16;
  if (name == "bf16") return DType::kBf16;
  fail(ErrorCode::kInvalidArgument, "the type of the factors is \"{}\", expected f32, f16 or bf16",
       name);
}

/// One adapter from a base and a dense fine-tune.
class PeftExport {
 public:
  explicit PeftExport(const PeftOptions& options)
      : options_(options),
        dtype_(parse_dtype(options.dtype)),
        backend_(create_cpu_backend(options.n_threads)),
        stream_(backend_->create_stream()),
        base_(open_dense_base(options.base, options.base_deltas, options.n_threads)),
        finetune_(Finetune::open(options.finetuned, base_.checkpoint, base_.config)),
        dense_(finetune_.materialize(*backend_, *stream_, base_.checkpoint, {})) {
    check();
  }

  PeftReport run() {
    StagedDirectory stage(options_.out);
    note_what_is_lost();
    std::map<std::string, LoraFactors> factors;
    const auto fit = [&](const ExpectedTensor& tensor, const Tensor& root) {
      factors[tensor.name] = this->fit(tensor, root);
    };
    if (options_.calibration.empty()) {
      for (const ExpectedTensor& tensor : projections_) fit(tensor, {});
    } else {
      for_each_input([&](int64_t layer, LayerInput input, const Tensor& root) {
        for (const ExpectedTensor& tensor : projections_) {
          if (tensor.layer == layer && input_of(tensor_kind(tensor.name)) == input)
            fit(tensor, root);
        }
      });
    }
    std::vector<LoraFactors> ordered;
    for (const ExpectedTensor& tensor : projections_)
      ordered.push_back(std::move(factors.at(tensor.name)));
    report_.bytes = write_peft_adapter(stage.staging(), directory_name(options_.base),
                                       options_.rank, dtype_, ordered);
    for (const CompanionFile& file : finetune_.companions(base_.checkpoint.directory())) {
      if (file.name == "config.json") continue;  // the base's
      write_file_atomically(stage.staging() / file.name,
                            read_text_file(file.directory / file.name));
    }
    stage.commit();
    for (PeftKind& kind : report_.kinds) {
      kind.error /= static_cast<double>(kind.matrices);
      if (kind.output_error >= 0) kind.output_error /= static_cast<double>(kind.matrices);
    }
    return report_;
  }

 private:
  void check() {
    for (const StoredTensor& stored : stored_tensors(base_.config)) {
      if (stored.parts.size() == 1) continue;
      fail(ErrorCode::kUnsupported,
           "{} keeps several projections in one tensor, \"{}\": a LoRA adapter of the projections "
           "would have modules that its models do not have",
           base_.config.architecture, stored.name);
    }
    if (finetune_.config().vocab_size != base_.config.vocab_size) {
      fail(ErrorCode::kUnsupported,
           "{} has a vocabulary of {} tokens, the base one of {}: a LoRA adapter cannot hold that",
           options_.finetuned.string(), finetune_.config().vocab_size, base_.config.vocab_size);
    }
    for (const ExpectedTensor& tensor : finetune_.tensors()) {
      if (tensor.kind != Kind::kProjection) continue;
      projections_.push_back(tensor);
      const int64_t most = std::min(tensor.shape[0], tensor.shape[1]);
      if (options_.rank >= 1 && options_.rank <= most) continue;
      fail(ErrorCode::kInvalidArgument, "the rank is {}, expected 1 to {}: \"{}\" is {}",
           options_.rank, most, tensor.name, to_string(tensor.shape));
    }
  }

  void note_what_is_lost() {
    int64_t n = 0;
    for (const ExpectedTensor& tensor : finetune_.tensors()) {
      n += tensor.kind != Kind::kProjection &&
           !equal_values(base_.checkpoint.at(tensor.name), dense_.at(tensor.name));
    }
    if (n == 0) return;
    report_.notes.push_back(fmt::format(
        "{} tensor{} outside of the projections (embeddings, head, norms, biases) differ from the "
        "base; the adapter leaves them as the base has them",
        n, n == 1 ? "" : "s"));
  }

  /// Calls body with a root R of each layer input's C = R^T R over the calibration text.
  void for_each_input(const std::function<void(int64_t, LayerInput, const Tensor&)>& body) {
    const std::vector<CompanionFile> files = finetune_.companions(base_.checkpoint.directory());
    const auto tokenizer = std::find_if(files.begin(), files.end(), [](const CompanionFile& file) {
      return file.name == "tokenizer.json";
    });
    if (tokenizer == files.end()) {
      fail(ErrorCode::kNotFound, "{}: calibration needs a tokenizer.json, and it has none",
           options_.finetuned.string());
    }
    const ModelConfig& config = finetune_.config();
    const auto sequences = calibration_sequences(
        options_.calibration, Tokenizer::load(tokenizer->directory),
        static_cast<TokenId>(config.bos_token_id.value_or(-1)),
        config.eos_token_ids.empty() ? -1 : static_cast<TokenId>(config.eos_token_ids.front()),
        options_.calibration_tokens, options_.seed);
    for (const auto& sequence : sequences)
      report_.calibration_tokens += static_cast<int64_t>(sequence.size());
    if (report_.calibration_tokens == 0)
      fail(ErrorCode::kInvalidArgument, "the calibration files hold no text");
    const Model model(*backend_, dense_, config);
    FinetunedInputs inputs(model, *stream_, sequences);
    inputs.for_each([](int64_t) { return true; },
                    [&](int64_t layer, LayerInput input, const Tensor& c) {
                      const Tensor root = backend_->allocate(DType::kF64, c.shape);
                      backend_->compression().copy(*stream_, c, root);
                      std::vector<double> values = backend_->compression().eigh(*stream_, root);
                      for (double& value : values) value = std::sqrt(std::max(value, 0.0));
                      backend_->compression().scale(*stream_, root, values, {});
                      body(layer, input, root);
                    });
  }

  PeftKind& kind_of(const std::string& name) {
    const std::string kind = tensor_kind(name);
    for (PeftKind& known : report_.kinds) {
      if (known.kind == kind) return known;
    }
    return report_.kinds.emplace_back(PeftKind{.kind = kind});
  }

  /// The delta D of rank r nearest under |(D - B A) R^T|: with U the first left singular vectors of
  /// D R^T it is U U^T D (docs/export.md), split evenly into B and A. No root: R = I.
  LoraFactors fit(const ExpectedTensor& tensor, const Tensor& root) {
    CompressionOps& ops = backend_->compression();
    const int64_t n_out = tensor.shape[0], n_in = tensor.shape[1], rank = options_.rank;
    const Tensor d = backend_->allocate(DType::kF64, tensor.shape);
    ops.subtract(*stream_, backend_->import_weight(dense_.at(tensor.name)),
                 backend_->import_weight(base_.checkpoint.at(tensor.name)), d);
    Tensor seen = d;  // what the metric sees of D
    if (!root.empty()) {
      seen = backend_->allocate(DType::kF64, tensor.shape);
      ops.matmul(*stream_, d, false, root, true, seen);
    }
    const Svd parts = svd(*backend_, *stream_, seen, rank);
    const Tensor a = backend_->allocate(DType::kF64, {rank, n_in});
    ops.matmul(*stream_, parts.u_t, false, d, false, a);

    std::vector<double> norms = ops.row_dots(*stream_, a, a);  // squared
    double kept = 0, whole = 0;
    for (const double square : norms) kept += square;
    for (const double square : ops.row_dots(*stream_, d, d)) whole += square;
    PeftKind& kind = kind_of(tensor.name);
    ++kind.matrices;
    kind.error += whole > 0 ? std::max(0.0, 1 - kept / whole) : 0;
    if (!root.empty()) {
      const double lost = parts.squared_norm - parts.kept;
      if (kind.output_error < 0) kind.output_error = 0;
      kind.output_error += parts.squared_norm > 0 ? std::max(0.0, lost / parts.squared_norm) : 0;
    }
    const auto to_host = [&](const Tensor& t) {
      std::vector<double> out(static_cast<size_t>(t.size()));
      backend_->download(*stream_, t, std::as_writable_bytes(std::span(out)));
      return out;
    };
    const std::vector<double> rows = to_host(a), u_t = to_host(parts.u_t);
    LoraFactors out{.name = tensor.name,
                    .a = std::vector<float>(rows.size()),
                    .b = std::vector<float>(u_t.size()),
                    .n_in = n_in,
                    .n_out = n_out};
    for (int64_t k = 0; k < rank; ++k) {
      const double root_norm = std::pow(norms[static_cast<size_t>(k)], 0.25);
      for (int64_t i = 0; i < n_in; ++i) {
        const auto at = static_cast<size_t>(k * n_in + i);
        out.a[at] = root_norm > 0 ? static_cast<float>(rows[at] / root_norm) : 0.0f;
      }
      for (int64_t i = 0; i < n_out; ++i) {
        out.b[static_cast<size_t>(i * rank + k)] =
            static_cast<float>(u_t[static_cast<size_t>(k * n_out + i)] * root_norm);
      }
    }
    return out;
  }

  const PeftOptions& options_;
  DType dtype_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Stream> stream_;
  BaseModel base_;
  Finetune finetune_;
  Checkpoint dense_;
  std::vector<ExpectedTensor> projections_;
  PeftReport report_;
};

}  // namespace

PeftReport export_peft(const PeftOptions& options) {
  return PeftExport(options).run();
}

}  // namespace deltacome
