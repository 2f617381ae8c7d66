// SPDX-License-Identifier: Apache-2.0
#include "delta/base_model.h"

#include "backend/backend.h"
#include "core/check.h"
#include "delta/finetune.h"

namespace deltacome {
namespace {

/// The identity of a base that is a base and an archive on it.
std::string lineage_hash(const std::string& base_hash, const std::string& archive_hash) {
  Sha256 hash;
  hash.update(fmt::format("deltacome base\n{}\n{}\n", base_hash, archive_hash));
  return hash.hex();
}

}  // namespace

BaseModel open_base(const std::filesystem::path& directory,
                    std::span<const std::filesystem::path> deltas, int n_threads) {
  BaseModel base{.checkpoint = Checkpoint::open(directory),
                 .config = read_model_config(directory),
                 .parent = std::nullopt};
  if (deltas.empty()) return base;
  base.checkpoint = base.checkpoint.dequantized();
  const auto backend = create_cpu_backend(n_threads);
  const auto stream = backend->create_stream();
  for (const std::filesystem::path& delta : deltas) {
    const Finetune finetune = Finetune::open(delta, base.checkpoint, base.config);
    if (finetune.form() != std::string_view("archive")) {
      fail(ErrorCode::kUnsupported,
           "{} is a {}, expected an archive: a base can have archives on it; deltacome compress "
           "makes one",
           delta.string(), finetune.form());
    }
    const std::string hash = finetune.content_hash();
    const std::string identity = lineage_hash(base.checkpoint.content_hash(), hash);
    base.checkpoint = finetune.materialize(*backend, *stream, base.checkpoint, identity);
    base.config = finetune.config();
    base.parent = ParentArchive{.name = directory_name(delta), .hash = hash};
  }
  return base;
}

BaseModel open_dense_base(const std::filesystem::path& directory,
                          std::span<const std::filesystem::path> deltas, int n_threads) {
  BaseModel base = open_base(directory, deltas, n_threads);
  base.checkpoint = base.checkpoint.dequantized();
  return base;
}

}  // namespace deltacome
