// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "core/check.h"
#include "delta/base_model.h"
#include "delta/finetune.h"
#include "deltacome/export.h"

namespace deltacome {
namespace {

/// The tensor of the fine-tune that stands at a place of the base's list; shapes may differ in
/// vocabulary rows.
const ExpectedTensor& tensor_of(const Finetune& finetune, size_t i, const std::string& name) {
  const ExpectedTensor& tensor = finetune.tensors().at(i);
  DELTACOME_CHECK(tensor.name == name);  // one architecture, one list
  return tensor;
}

}  // namespace

DiffReport diff_finetunes(const DiffOptions& options) {
  const BaseModel base = open_dense_base(options.base, options.base_deltas, options.n_threads);
  const Finetune a = Finetune::open(options.a, base.checkpoint, base.config);
  const Finetune b = Finetune::open(options.b, base.checkpoint, base.config);
  const auto backend = create_cpu_backend(options.n_threads);
  const auto stream = backend->create_stream();
  DiffReport report{.form_a = a.form(), .form_b = b.form(), .tensors = {}};
  const std::vector<ExpectedTensor> tensors = expected_tensors(base.config);
  for (size_t i = 0; i < tensors.size(); ++i) {
    const ExpectedTensor& tensor = tensors[i];
    const HostTensor& of_base = base.checkpoint.at(tensor.name);
    const auto read = [&](const Finetune& finetune) {
      return finetune.read(*backend, *stream, of_base, tensor_of(finetune, i, tensor.name),
                           DType::kF32);
    };
    const HostTensor of_a = read(a), of_b = read(b);
    TensorDiff diff{.name = tensor.name, .kind = tensor_kind(tensor.name), .layer = tensor.layer};
    diff.added_rows_a = std::max<int64_t>(0, of_a.rows() - of_base.rows());
    diff.added_rows_b = std::max<int64_t>(0, of_b.rows() - of_base.rows());
    const int64_t rows = std::min({of_base.rows(), of_a.rows(), of_b.rows()});
    for (int64_t r = 0; r < rows; ++r) {
      const std::vector<float> w = of_base.to_float(r, 1), x = of_a.to_float(r, 1),
                               y = of_b.to_float(r, 1);
      for (size_t c = 0; c < w.size(); ++c) {
        const double before = w[c], da = x[c] - before, db = y[c] - before;
        diff.base_square += before * before;
        diff.a_square += da * da;
        diff.b_square += db * db;
        diff.dot += da * db;
      }
    }
    release_pages(of_base.bytes);
    report.tensors.push_back(std::move(diff));
  }
  return report;
}

}  // namespace deltacome
