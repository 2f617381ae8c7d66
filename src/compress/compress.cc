// SPDX-License-Identifier: Apache-2.0
#include "deltacome/compress.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>
#include <optional>

#include "backend/device.h"
#include "compress/auto_compression.h"
#include "compress/budget_search.h"
#include "compress/calibration.h"
#include "compress/calibration_text.h"
#include "compress/checkpoints.h"
#include "compress/codec.h"
#include "compress/convert_adapter.h"
#include "compress/convert_bitdelta.h"
#include "compress/held_out.h"
#include "compress/layer_flow.h"
#include "compress/options.h"
#include "compress/plan.h"
#include "compress/report_data.h"
#include "compress/work_directory.h"
#include "core/check.h"
#include "core/process_memory.h"
#include "io/archive.h"
#include "io/peft_adapter.h"
#include "io/text_rows.h"
#include "model/score.h"
#include "text/tokenizer.h"

namespace deltacome {
namespace {

using Clock = std::chrono::steady_clock;
using Kind = ExpectedTensor::Kind;

constexpr const char* kOuterPart = "outer";      // embedding, final norm and head
constexpr const char* kTrainedPart = "trained";  // what distillation changed outside of layers

std::string layer_part(int64_t layer) {
  return fmt::format("layer-{:05}", layer);
}

/// One compression from open checkpoints to a finished archive.
class Compression {
 public:
  Compression(const CompressOptions& options,
              const std::function<void(const CompressProgress&)>& on_progress)
      : options_(options),
        on_progress_(on_progress),
        backend_(create_backend(options.device, options.n_threads)),
        pair_(open_pair(options)),
        stream_(backend_->create_stream()),
        model_(*backend_, pair_.base, pair_.base_config),
        variant_(backend_->create_variant(static_cast<int>(pair_.tensors.size()))) {
    model_.on_layer_done(
        [this](int64_t layer) { release_layer(pair_.base, pair_.tensors, layer); });
  }

  CompressReport run() {
    if (!options_.resume || !take_finished()) make_archive();
    CompressReport report;
    report.archive = inspect_archive(options_.out);
    report.kinds = summarize(report.archive);
    report.notes = notes_;
    for (const auto& tried : findings_.methods)
      report.tried.push_back({tried.method, tried.bits_per_weight, tried.kl, tried.chosen});
    report.seconds = elapsed();
    report.peak_resident_bytes = peak_resident_bytes();
    report.peak_device_bytes = backend_->memory_use().peak;
    if (options_.report) write_report(*options_.report, report_data(report, findings_));
    return report;
  }

 private:
  /// Whether `out` holds the archive of this very run, killed or repeated after its last step.
  bool take_finished() {
    std::error_code ignored;
    if (!std::filesystem::exists(options_.out / "delta_config.json", ignored)) return false;
    const Archive archive = Archive::open(options_.out);
    const ArchiveConfig& config = archive.config();
    if (config.base_hash != pair_.base_hash || config.finetuned_hash != pair_.finetuned_hash ||
        config.method != method_name(options_.method) ||
        (!options_.target_kl && config.requested_bits != options_.bits) ||
        config.calibration.files != calibration_names(options_) ||
        config.calibration.seed != options_.seed) {
      return false;
    }
    archive.verify();
    for (const ArchiveTensor& tensor : config.tensors) described_[tensor.name] = {tensor, ""};
    WorkDirectory::remove(options_.out);
    notes_.push_back("the archive was finished before: nothing was left to resume");
    return true;
  }

  void make_archive() {
    if (options_.held_out)
      held_out_ = read_held_out(*options_.held_out, pair_, *backend_, *stream_);
    CalibrationText text =
        prepare_calibration(options_, pair_, model_, *stream_,
                            [this](const std::string& stage) { progress(0, stage); });
    sequences_ = std::move(text.sequences);
    given_ = std::move(text.given);
    calibrated_tokens_ = text.n_tokens;
    std::ranges::move(text.notes, std::back_inserter(notes_));
    work_.emplace(options_.out, identity_of(options_, pair_, *backend_), options_.resume);
    for (size_t i = 0; i < pair_.tensors.size(); ++i)
      slots_[pair_.tensors[i].name] = static_cast<int>(i);
    code_outer();
    if (options_.method == Method::kAuto) {
      code_auto();
      write();
      return;
    }
    if (calibrated_tokens_ > 0) {
      flow_ = std::make_unique<LayerFlow>(model_, *stream_, variant_, sequences_, given_);
      release_layer(pair_.base, pair_.tensors, -1);
    }
    for (int64_t layer = 0; layer < pair_.base_config.n_layers; ++layer) code_layer(layer);
    flow_.reset();
    if (options_.method == Method::kBitDelta && calibrated_tokens_ > 0) distil_scales();
    write();
  }

  /// The scales of bitdelta, trained on the calibration text (Liu et al., arXiv:2402.10193,
  /// section 3.2; on KL here).
  void distil_scales() {
    AutoCompression distillation(auto_input());
    std::map<std::string, CodedTensor> coded;
    for (int64_t layer = 0; layer < pair_.base_config.n_layers; ++layer) {
      std::vector<CodedTensor> part = work_->read(layer_part(layer)).value();
      for (CodedTensor& tensor : part) {
        if (tensor.format.codec == Codec::kDense) coded[tensor.name] = std::move(tensor);
      }
    }
    if (!distillation.distil_scales(coded)) return;
    findings_ = distillation.findings();
    std::vector<CodedTensor> tensors;
    for (auto& [name, tensor] : coded) tensors.push_back(std::move(tensor));
    adopt(tensors, kTrainedPart);
    work_->write(kTrainedPart, tensors);
  }

  double elapsed() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }

  void progress(int64_t layer, const std::string& stage) {
    if (!on_progress_) return;
    const double done =
        static_cast<double>(matrices_done_) / static_cast<double>(7 * pair_.base_config.n_layers);
    on_progress_(
        {.layer = layer,
         .n_layers = pair_.base_config.n_layers,
         .stage = stage,
         .mean_error = n_errors_ > 0 ? error_sum_ / static_cast<double>(n_errors_) : -1,
         .elapsed_s = elapsed(),
         .remaining_s = coded_here_ > 0 ? elapsed() * (1 - done) / std::max(done, 1e-9) : -1});
  }

  /// Takes finished tensors over into the running variant and the list of the archive.
  void adopt(const std::vector<CodedTensor>& tensors, const std::string& part) {
    for (const CodedTensor& tensor : tensors) {
      if (const auto slot = slots_.find(tensor.name); slot != slots_.end()) {  // not of the tower
        variant_->set(
            slot->second, tensor.format,
            HostTensor::of(DType::kU8, {static_cast<int64_t>(tensor.blob.size())}, tensor.blob),
            *stream_);
      }
      described_[tensor.name] = {
          {tensor.name, tensor.format, sha256_hex(tensor.blob), tensor.stats}, part};
    }
  }

  /// Reads a part of an interrupted run; false if it is not there.
  bool read_part(const std::string& part) {
    const auto tensors = work_->read(part);
    if (tensors) adopt(*tensors, part);
    return tensors.has_value();
  }

  /// Codes one tensor, unless it equals the base's.
  std::optional<CodedTensor> code(const ExpectedTensor& tensor, const InputStatistics& input) {
    const HostTensor& base = pair_.base.at(tensor.name);
    const HostTensor& finetuned = pair_.finetuned.at(tensor.name);
    if (equal_values(base, finetuned)) return std::nullopt;
    switch (tensor.kind) {
      case Kind::kNorm:
      case Kind::kBias:
        return encode_raw(tensor.name, finetuned);
      case Kind::kEmbedding:
      case Kind::kHead:
        return encode_embedding(
            *backend_, *stream_, tensor.name,
            plan_embedding(finetuned.shape, base.rows(), finetuned.dtype, options_.group),
            finetuned, base);
      case Kind::kProjection:
        break;
      case Kind::kVision:
        DELTACOME_CHECK(false);  // code_vision()
    }
    const Tensor d = backend_->allocate(DType::kF64, finetuned.shape);
    backend_->compression().subtract(*stream_, backend_->import_weight(finetuned),
                                     backend_->import_weight(base), d);
    CodedTensor coded = encode_projection(
        *backend_, *stream_, tensor.name,
        plan_projection(options_.method, finetuned.shape, options_.bits, options_.group), d, input);
    error_sum_ += coded.stats.relative_error;
    ++n_errors_;
    release_free_memory();
    return coded;
  }

  void code_into(std::vector<CodedTensor>& part, const ExpectedTensor& tensor,
                 const InputStatistics& input = {}) {
    if (auto coded = code(tensor, input)) part.push_back(std::move(*coded));
    // Of the base's tensors only those of the layer at hand are needed again.
    release_pages(pair_.finetuned.at(tensor.name).bytes);
    if (tensor.layer < 0) release_pages(pair_.base.at(tensor.name).bytes);
  }

  void code_outer() {
    progress(0, "embeddings");
    if (read_part(kOuterPart)) return;
    std::vector<CodedTensor> part;
    for (const ExpectedTensor& tensor : pair_.tensors) {
      if (tensor.layer < 0) code_into(part, tensor);
    }
    for (const ExpectedTensor& tensor : pair_.vision_tensors) code_vision(part, tensor.name);
    adopt(part, kOuterPart);
    work_->write(kOuterPart, part);
  }

  /// Keeps a tensor of the vision tower or projector, unless it equals the base's.
  void code_vision(std::vector<CodedTensor>& part, const std::string& name) {
    const HostTensor* base = pair_.base.find(name);
    const HostTensor& finetuned = pair_.finetuned.at(name);
    if (base != nullptr && base->shape != finetuned.shape) {
      fail(ErrorCode::kMismatch, "tensor \"{}\": the fine-tune's has shape {}, the base's {}", name,
           to_string(finetuned.shape), to_string(base->shape));
    }
    if (base == nullptr || !equal_values(*base, finetuned)) {
      part.push_back(encode_vision(*backend_, *stream_, name,
                                   plan_vision(finetuned, options_.vision_bits, options_.group),
                                   finetuned, base));
    }
    release_pages(finetuned.bytes);
  }

  /// The signs of all rotations of a base's deltas: 52 bits of its hash, exact in any JSON reader.
  uint64_t rotation_seed() const { return std::stoull(pair_.base_hash.substr(0, 13), nullptr, 16); }

  AutoInput auto_input() {
    return {
        .options = options_,
        .steps = distillation_steps(options_, pair_),
        .pair = pair_,
        .base = model_,
        .stream = *stream_,
        .outer = variant_,
        .sequences = sequences_,
        .given = given_,
        .rotation_seed = rotation_seed(),
        .work = *work_,
        .progress =
            [this](const std::string& stage, double done) {
              const int64_t n = pair_.base_config.n_layers;
              if (on_progress_)
                on_progress_({.layer = static_cast<int64_t>(done * static_cast<double>(n)),
                              .n_layers = n,
                              .stage = stage,
                              .elapsed_s = elapsed()});
            },
    };
  }

  /// KL of a coded fine-tune on the held-out text, or on held-back calibration text without one.
  double target_kl_of(const std::map<std::string, CodedTensor>& coded, double held_back_kl) {
    if (!options_.held_out) return held_back_kl;
    const auto variant = backend_->create_variant(static_cast<int>(pair_.tensors.size()));
    const auto set = [&](const CodedTensor& t) {
      variant->set(slots_.at(t.name), t.format,
                   HostTensor::of(DType::kU8, {static_cast<int64_t>(t.blob.size())}, t.blob),
                   *stream_);
    };
    const std::vector<CodedTensor> outer = work_->read(kOuterPart).value();
    for (const CodedTensor& tensor : outer) {
      if (slots_.contains(tensor.name)) set(tensor);
    }
    for (const ExpectedTensor& tensor : pair_.tensors) {  // norms and biases without distillation
      if (tensor.layer < 0 || tensor.kind == Kind::kProjection || coded.contains(tensor.name))
        continue;
      if (const auto raw = code(tensor, {})) set(*raw);
    }
    for (const auto& [name, tensor] : coded) set(tensor);
    return held_out_fidelity(variant).kl;
  }

  /// Codes at the budget asked for, or searches the smallest that reaches the KL asked for.
  std::map<std::string, CodedTensor> code_within_target(AutoCompression& auto_compression) {
    if (!options_.target_kl) return auto_compression.run(bits_);
    std::map<std::string, CodedTensor> best;
    AutoFindings best_findings;
    BudgetSearch search(*options_.target_kl);
    while (const auto bits = search.next()) {
      auto coded = auto_compression.run(*bits);
      const AutoFindings& found = auto_compression.findings();
      const double kl = target_kl_of(coded, found.held_back_kl);
      notes_.push_back(fmt::format("at {:.3f} bits the KL is {:.5f}", *bits, kl));
      if (!search.tell(*bits, kl)) continue;
      best = std::move(coded);
      bits_ = *bits;
      best_findings = found;
    }
    if (best.empty()) {
      fail(ErrorCode::kInvalidArgument,
           "--target-kl {}: not reached; the KL at {:.3g} bits is {:.5f}", *options_.target_kl,
           search.last_bits(), search.last_kl());
    }
    findings_ = best_findings;
    return best;
  }

  void code_auto() {
    AutoCompression auto_compression(auto_input());
    std::map<std::string, CodedTensor> coded = code_within_target(auto_compression);
    if (!options_.target_kl) findings_ = auto_compression.findings();
    std::map<std::string, std::vector<CodedTensor>> parts;
    for (const ExpectedTensor& tensor : pair_.tensors) {
      const std::string part = tensor.layer < 0 ? kTrainedPart : layer_part(tensor.layer);
      if (const auto it = coded.find(tensor.name); it != coded.end()) {
        parts[part].push_back(std::move(it->second));
      } else if (tensor.layer >= 0 && tensor.kind != Kind::kProjection) {
        code_into(parts[part], tensor);
      }
    }
    for (const auto& [part, tensors] : parts) {
      adopt(tensors, part);
      work_->write(part, tensors);
    }
  }

  InputStatistics statistics(int64_t layer, LayerInput input) {
    if (!flow_) return {};
    Tensor c = flow_->statistics(layer, input);
    release_free_memory();
    return make_statistics(*backend_, *stream_, std::move(c));
  }

  void code_layer(int64_t layer) {
    if (!read_part(layer_part(layer))) {
      std::vector<CodedTensor> part;
      for (const ExpectedTensor& tensor :
           pair_.tensors) {  // norms and biases act on every input below
        if (tensor.layer == layer && tensor.kind != Kind::kProjection) code_into(part, tensor);
      }
      adopt(part, layer_part(layer));
      for (const LayerInput input :
           {LayerInput::kQkv, LayerInput::kO, LayerInput::kGateUp, LayerInput::kDown}) {
        code_projections(layer, input, part);
      }
      work_->write(layer_part(layer), part);
    } else {
      matrices_done_ += 7;
    }
    if (flow_) flow_->finish_layer(layer);
    release_free_memory();
    release_layer(pair_.base, pair_.tensors, layer);
    release_layer(pair_.finetuned, pair_.tensors, layer);
  }

  void code_projections(int64_t layer, LayerInput input, std::vector<CodedTensor>& part) {
    static const std::map<LayerInput, std::vector<std::string>> kKinds{
        {LayerInput::kQkv, {"q_proj", "k_proj", "v_proj"}},
        {LayerInput::kO, {"o_proj"}},
        {LayerInput::kGateUp, {"gate_proj", "up_proj"}},
        {LayerInput::kDown, {"down_proj"}}};
    const InputStatistics known = statistics(layer, input);
    std::vector<CodedTensor> coded;
    for (const ExpectedTensor& tensor : pair_.tensors) {
      const std::vector<std::string>& kinds = kKinds.at(input);
      if (tensor.layer != layer || tensor.kind != Kind::kProjection ||
          std::find(kinds.begin(), kinds.end(), tensor_kind(tensor.name)) == kinds.end()) {
        continue;
      }
      code_into(coded, tensor, known);
      ++matrices_done_;
      ++coded_here_;
      progress(layer, tensor.name);
    }
    adopt(coded, layer_part(layer));
    std::move(coded.begin(), coded.end(), std::back_inserter(part));
  }

  HeldOutFidelity held_out_fidelity(const std::shared_ptr<const DeviceVariant>& variant) {
    return measure_held_out(model_, variant, pair_, *stream_, held_out_,
                            options_.held_out->filename().string());
  }

  void write() {
    ArchiveConfig config;
    config.created_by = fmt::format("deltacome {}", DELTACOME_VERSION);
    config.method = method_name(options_.method);
    config.architecture = pair_.finetuned_config.architecture;
    config.base_name = directory_name(options_.base);
    config.base_hash = pair_.base_hash;
    config.parent = pair_.parent;
    config.base_quantization = pair_.base_quantization;
    config.finetuned_name = options_.finetuned_name.empty() ? directory_name(options_.finetuned)
                                                            : options_.finetuned_name;
    config.finetuned_hash = pair_.finetuned_hash;
    config.finetuned_dtype = pair_.finetuned.at(pair_.tensors.front().name).dtype;
    for (const auto& [name, tensor] : pair_.finetuned.tensors())
      config.finetuned_parameters += tensor.size();
    for (const ExpectedTensor& tensor : pair_.tensors) {
      if (tensor.kind == Kind::kProjection)
        config.projection_weights += element_count(tensor.shape);
    }
    config.requested_bits = bits_;
    config.calibration.files = calibration_names(options_);
    config.calibration.tokens = calibrated_tokens_;
    config.calibration.sequence_length = calibrated_tokens_ > 0 ? kCalibrationLength : 0;
    config.calibration.seed = options_.seed;
    if (options_.held_out) {
      progress(pair_.base_config.n_layers, "measuring on held-out text");
      config.held_out = held_out_fidelity(variant_);
    }
    if (options_.calibration.empty() && options_.method == Method::kCome) {
      notes_.push_back(
          "no calibration text was given, so codes are rounded to nearest: on the project's own "
          "models that gave 1.2 to 2.6 times the KL of calibrating on the fine-tune's own kind of "
          "text (docs/quality.md); give --calib FILE");
    }
    progress(pair_.base_config.n_layers, "writing");
    ArchiveWriter writer(std::move(config));
    const auto add = [&](const std::vector<ExpectedTensor>& tensors) {
      for (const ExpectedTensor& tensor : tensors) {
        const auto it = described_.find(tensor.name);
        if (it == described_.end()) continue;
        writer.add(it->second.tensor, [this, name = tensor.name, part = it->second.part] {
          return stored_blob(part, name);
        });
      }
    };
    add(pair_.tensors);  // model order
    add(pair_.vision_tensors);
    writer.write(options_.out, options_.finetuned);
    WorkDirectory::remove(options_.out);
  }

  /// Blobs come back from the shards, one part in memory at a time.
  std::vector<std::byte> stored_blob(const std::string& part, const std::string& name) {
    if (loaded_part_ != part) {
      auto tensors = work_->read(part);
      if (!tensors) fail(ErrorCode::kIo, "part {} of the unfinished archive has disappeared", part);
      loaded_ = std::move(*tensors);
      loaded_part_ = part;
    }
    const auto it = std::find_if(loaded_.begin(), loaded_.end(),
                                 [&](const CodedTensor& t) { return t.name == name; });
    if (it == loaded_.end())
      fail(ErrorCode::kIo, "part {} of the unfinished archive has lost {}", part, name);
    return it->blob;
  }

  struct Described {
    ArchiveTensor tensor;
    std::string part;  // the shard that holds its blob
  };

  const CompressOptions& options_;
  const std::function<void(const CompressProgress&)>& on_progress_;
  Clock::time_point start_ = Clock::now();
  std::unique_ptr<Backend> backend_;  // first: a device that is not there costs no reading
  CheckpointPair pair_;
  std::unique_ptr<Stream> stream_;
  Model model_;
  std::shared_ptr<DeviceVariant> variant_;
  std::optional<WorkDirectory> work_;
  std::map<std::string, int> slots_;
  std::map<std::string, Described> described_;
  std::vector<std::vector<TokenId>> sequences_;  // of calibration text, until flow_ takes them
  Tensor given_;                                 // rows that ids below 0 in sequences_ stand for
  std::vector<ScoredText> held_out_;
  std::unique_ptr<LayerFlow> flow_;
  int64_t calibrated_tokens_ = 0;
  int64_t matrices_done_ = 0, coded_here_ = 0, n_errors_ = 0;
  double error_sum_ = 0;
  double bits_ = options_.bits;  // the budget, once it is found
  std::vector<std::string> notes_;
  AutoFindings findings_;
  std::string loaded_part_;
  std::vector<CodedTensor> loaded_;
};

}  // namespace

CompressReport compress_delta(const CompressOptions& options,
                              const std::function<void(const CompressProgress&)>& on_progress) {
  check_options(options);
  if (is_peft_adapter(options.finetuned)) {
    CompressReport report = convert_adapter(options);
    report.peak_resident_bytes = peak_resident_bytes();
    return report;
  }
  if (is_bitdelta_file(options.finetuned)) {
    CompressReport report = convert_bitdelta(options);
    report.peak_resident_bytes = peak_resident_bytes();
    return report;
  }
  if (!options.resume) check_output(options.out);  // before the checkpoints are read
  return Compression(options, on_progress).run();
}

}  // namespace deltacome
