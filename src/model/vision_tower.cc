// SPDX-License-Identifier: Apache-2.0
#include "model/vision_tower.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <string>

#include "core/check.h"

namespace deltacome {
namespace {

/// The squares of a picture as rows, [1 + n_patches, 3 * p * p]; the first row, the class token's,
/// is zero. pixels [3, side, side]; what is left over at the right and bottom is not seen.
std::vector<float> patch_rows(std::span<const float> pixels, int64_t side, int64_t p) {
  const int64_t n = side / p, width = 3 * p * p;
  std::vector<float> out(static_cast<size_t>((1 + n * n) * width), 0.0F);
  float* to = out.data() + width;
  for (int64_t y = 0; y < n; ++y) {
    for (int64_t x = 0; x < n; ++x) {
      for (int64_t channel = 0; channel < 3; ++channel) {
        for (int64_t row = y * p; row < (y + 1) * p; ++row)
          to = std::copy_n(pixels.data() + (channel * side + row) * side + x * p, p, to);
      }
    }
  }
  return out;
}

Tensor upload(Backend& backend, Stream& stream, const std::vector<float>& values, Shape shape) {
  const Tensor out = backend.allocate(DType::kF32, std::move(shape));
  backend.upload(stream, std::as_bytes(std::span(values)), out);
  return out;
}

}  // namespace

/// Takes tensors over by name and counts their bytes.
class VisionTower::Reader {
 public:
  Reader(VisionTower& tower, const Checkpoint& tensors) : tower_(tower), tensors_(tensors) {}

  Tensor tensor(const std::string& name) {
    const HostTensor& host = tensors_.at(name);
    tower_.bytes_ += static_cast<int64_t>(host.bytes.size());
    return tower_.backend_.import_weight(host);
  }
  /// A matrix that only linear() reads.
  Tensor matrix(const std::string& name) {
    HostTensor host = tensors_.at(name);
    host.shape = {host.rows(), host.cols()};
    tower_.bytes_ += static_cast<int64_t>(host.bytes.size());
    return tower_.backend_.import_projection(host, WeightFormat::kStored);
  }
  Norm norm(const std::string& module) {
    return {tensor(module + ".weight"), tensor(module + ".bias")};
  }
  Linear linear(const std::string& module) {
    const bool biased = tensors_.find(module + ".bias") != nullptr;
    return {matrix(module + ".weight"), biased ? tensor(module + ".bias") : Tensor{}};
  }

 private:
  VisionTower& tower_;
  const Checkpoint& tensors_;
};

/// A picture on its way through the tower.
struct VisionTower::Run {
  Stream& stream;
  const VariantPlan& rows;
  Tensor normed, q, k, v, mixed, out;  // [n, hidden]
  Tensor inner;                        // [n, intermediate]
};

VisionTower::VisionTower(Backend& backend, const Checkpoint& tensors, const ModelConfig& config)
    : backend_(backend), ops_(backend.vision()), config_(config.vision.value()) {
  check_tensors(tensors, expected_vision_tensors(config));
  Reader reader(*this, tensors);
  const std::string tower = "vision_tower.";
  patches_ = reader.matrix(tower + "embeddings.patch_embedding.weight");
  std::vector<float> positions =
      tensors.at(tower + "embeddings.position_embedding.weight").to_float();
  const std::vector<float> of_class = tensors.at(tower + "embeddings.class_embedding").to_float();
  for (size_t i = 0; i < of_class.size(); ++i) positions[i] += of_class[i];
  const Shape shape{config_.n_patches() + 1, config_.hidden_size};
  positions_ = backend.import_weight(HostTensor::of(DType::kF32, shape, std::move(positions)));
  bytes_ += positions_.bytes();
  pre_norm_ = reader.norm(tower + "pre_layrnorm");
  for (int64_t i = 0; i < config_.feature_layers; ++i) {
    const std::string layer = fmt::format("{}encoder.layers.{}.", tower, i);
    const std::string attention = layer + "self_attn.";
    layers_.push_back({.norm1 = reader.norm(layer + "layer_norm1"),
                       .norm2 = reader.norm(layer + "layer_norm2"),
                       .q = reader.linear(attention + "q_proj"),
                       .k = reader.linear(attention + "k_proj"),
                       .v = reader.linear(attention + "v_proj"),
                       .out = reader.linear(attention + "out_proj"),
                       .fc1 = reader.linear(layer + "mlp.fc1"),
                       .fc2 = reader.linear(layer + "mlp.fc2")});
  }
  for (int i = 1; i <= config_.projector_layers; ++i)
    projector_.push_back(reader.linear(fmt::format("multi_modal_projector.linear_{}", i)));
}

Tensor VisionTower::features(Stream& stream, std::span<const float> pixels) const {
  const int64_t side = config_.image_size, hidden_size = config_.hidden_size;
  DELTACOME_CHECK(static_cast<int64_t>(pixels.size()) == 3 * side * side);
  const int64_t n = config_.n_patches() + 1;
  const auto rows = [&](int64_t width) { return backend_.allocate(DType::kF32, {n, width}); };
  const VariantSegment segment{nullptr, n};
  const auto plan = backend_.plan_variants({&segment, 1});
  const Run run{stream,
                *plan,
                rows(hidden_size),
                rows(hidden_size),
                rows(hidden_size),
                rows(hidden_size),
                rows(hidden_size),
                rows(hidden_size),
                rows(config_.intermediate_size)};

  const Tensor squares = upload(backend_, stream, patch_rows(pixels, side, config_.patch_size),
                                {n, 3 * config_.patch_size * config_.patch_size});
  const Tensor hidden = rows(hidden_size);
  const std::array patches{LinearTarget{.weight = patches_, .bias = {}, .y = hidden}};
  backend_.linear(stream, *plan, squares, patches);
  backend_.add(stream, positions_, hidden);
  ops_.layer_norm(stream, hidden, pre_norm_.weight, pre_norm_.bias, config_.layer_norm_eps, hidden);
  for (const Layer& layer : layers_) run_layer(run, layer, hidden);

  const int64_t first = config_.class_feature ? 0 : 1;
  Tensor x = hidden.slice(first, n - first);
  const VariantSegment kept{nullptr, n - first};
  const auto kept_plan = backend_.plan_variants({&kept, 1});
  for (size_t i = 0; i < projector_.size(); ++i) {
    if (i > 0) ops_.gelu(stream, config_.projector_activation, x);
    const Linear& linear = projector_[i];
    const Tensor y = backend_.allocate(DType::kF32, {x.rows(), linear.weight.rows()});
    const std::array target{LinearTarget{.weight = linear.weight, .bias = linear.bias, .y = y}};
    backend_.linear(stream, *kept_plan, x, target);
    x = y;
  }
  return x;
}

void VisionTower::run_layer(const Run& run, const Layer& layer, const Tensor& hidden) const {
  const auto target = [](const Linear& linear, const Tensor& y) {
    return LinearTarget{.weight = linear.weight, .bias = linear.bias, .y = y};
  };
  const auto project = [&](const Linear& linear, const Tensor& x, const Tensor& y) {
    const std::array targets{target(linear, y)};
    backend_.linear(run.stream, run.rows, x, targets);
  };
  ops_.layer_norm(run.stream, hidden, layer.norm1.weight, layer.norm1.bias, config_.layer_norm_eps,
                  run.normed);
  const std::array qkv{target(layer.q, run.q), target(layer.k, run.k), target(layer.v, run.v)};
  backend_.linear(run.stream, run.rows, run.normed, qkv);
  ops_.full_attention(run.stream, config_.n_heads, run.q, run.k, run.v, run.mixed);
  project(layer.out, run.mixed, run.out);
  backend_.add(run.stream, run.out, hidden);
  ops_.layer_norm(run.stream, hidden, layer.norm2.weight, layer.norm2.bias, config_.layer_norm_eps,
                  run.normed);
  project(layer.fc1, run.normed, run.inner);
  ops_.gelu(run.stream, config_.activation, run.inner);
  project(layer.fc2, run.inner, run.out);
  backend_.add(run.stream, run.out, hidden);
}

}  // namespace deltacome
