// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <map>
#include <utility>

#include "core/check.h"
#include "delta/base_model.h"
#include "deltacome/archive.h"
#include "deltacome/export.h"
#include "io/archive.h"
#include "io/checkpoint_index.h"
#include "io/files.h"

namespace deltacome {
namespace {

constexpr const char* kCardName = "README.md";

/// Text from an archive inside a line of Markdown: one line, nothing that Markdown or HTML reads.
std::string plain(std::string_view text) {
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f) {
      out += ' ';
    } else {
      if (std::string_view("\\`*_[]<>|#&").find(c) != std::string_view::npos) out += '\\';
      out += c;
    }
  }
  return out;
}

std::string size(int64_t bytes) {
  return fmt::format("{:.2f} MB", static_cast<double>(bytes) / 1e6);
}

std::string sizes(const ArchiveInfo& info) {
  std::string text = "| | |\n| --- | --- |\n";
  const auto row = [&](const char* name, const std::string& value) {
    text += fmt::format("| {} | {} |\n", name, value);
  };
  row("method", plain(info.method));
  row("architecture", plain(info.architecture));
  if (info.bits_per_weight >= 0)
    row("bits per projection weight, everything included",
        fmt::format("{:.3f}", info.bits_per_weight));
  row("projections", size(info.projection_bytes));
  row("embeddings and head", size(info.embedding_bytes));
  row("norms and biases", size(info.other_bytes));
  row("archive without tokenizer", size(info.all_in_bytes));
  if (info.finetuned_bytes > 0) {
    row("the fine-tune in bf16", size(info.finetuned_bytes));
    row("share of it", fmt::format("{:.1f} %", 100 * info.ratio));
  }
  return text;
}

std::string codecs(const ArchiveInfo& info) {
  struct Sum {
    int64_t n = 0, bytes = 0;
  };
  std::map<std::pair<std::string, std::string>, Sum> sums;  // by kind and codec
  for (const TensorInfo& tensor : info.tensors) {
    Sum& sum = sums[{tensor.kind, tensor.codec}];
    ++sum.n;
    sum.bytes += tensor.bytes;
  }
  std::string text = "| kind | codec | tensors | bytes |\n| --- | --- | --- | --- |\n";
  for (const auto& [key, sum] : sums)
    text += fmt::format("| {} | {} | {} | {} |\n", plain(key.first), key.second, sum.n, sum.bytes);
  return text;
}

std::string fidelity(const ArchiveInfo& info) {
  if (!info.held_out) return "Not measured when the archive was made.\n";
  return fmt::format(
      "On {} held-out tokens ({}), against the fine-tune: KL divergence {:.4g} nats per token, "
      "same "
      "most likely token for {:.2f} % of them.\n",
      info.held_out->tokens, plain(info.held_out->file), info.held_out->kl,
      100 * info.held_out->top1);
}

std::string provenance(const ArchiveInfo& info, const ArchiveConfig& config,
                       const std::string& archive_hash) {
  std::string text =
      fmt::format("- base: {}, content hash `{}`\n", plain(info.base_name), plain(info.base_hash));
  if (config.parent) {
    text += fmt::format(
        "- on the base lies the archive {}, content hash `{}`; the hash above is of both "
        "together\n",
        plain(config.parent->name), plain(config.parent->hash));
  }
  text += fmt::format("- fine-tune: {}, content hash `{}`\n", plain(info.finetuned_name),
                      plain(info.finetuned_hash));
  text += fmt::format("- this archive: content hash `{}`\n", archive_hash);
  if (info.calibration_tokens > 0) {
    std::string files;
    for (const std::string& file : info.calibration_files)
      files += (files.empty() ? "" : ", ") + plain(file);
    text += fmt::format("- calibration: {} tokens of {}, seed {}\n", info.calibration_tokens,
                        files.empty() ? "text without a name" : files, info.seed);
  } else {
    text += "- calibration: none\n";
  }
  return text + fmt::format("- made by {}\n", plain(info.created_by));
}

}  // namespace

std::string model_card(const CardOptions& options) {
  const Archive archive = Archive::open(options.archive);
  const ArchiveInfo info = inspect_archive(options.archive);
  const std::string& name = options.base_model.empty() ? info.base_name : options.base_model;
  std::string text = "---\n";
  // A JSON string is a YAML string.
  text += fmt::format("base_model: {}\n", quoted_json(name));
  if (!options.license.empty()) text += fmt::format("license: {}\n", quoted_json(options.license));
  text += "library_name: deltacome\ntags:\n- deltacome\n- delta-compression\n";
  text += "base_model_relation: adapter\n---\n\n";
  text += fmt::format("# {}\n\n", plain(info.finetuned_name));
  text += fmt::format(
      "A compressed delta: together with its base, {}, it stands for the fine-tune {}. It holds no "
      "weights of the base.\n\n",
      plain(name), plain(info.finetuned_name));
  text += "## Size\n\n" + sizes(info) + "\n## Codes\n\n" + codecs(info);
  text += "\n## Fidelity\n\n" + fidelity(info) + "\n## Provenance\n\n";
  text += provenance(info, archive.config(), archive.content_hash());
  const std::string on_base = archive.config().parent ? " --base-delta PARENT" : "";
  text += fmt::format(
      "\n## Use\n\n```sh\ndeltacome verify . --base BASE{0}\ndeltacome generate --base BASE{0} "
      "--delta . --chat \"...\"\ndeltacome merge --base BASE{0} --delta . --out MODEL\n```\n\n"
      "BASE is the directory of the base{1}. The last line writes an ordinary checkpoint.\n",
      on_base, archive.config().parent ? ", PARENT that of the archive which lies on it" : "");
  return text;
}

void write_model_card(const CardOptions& options, bool replace) {
  const std::filesystem::path path = options.archive / kCardName;
  std::error_code ignored;
  if (!replace && std::filesystem::exists(path, ignored))
    fail(ErrorCode::kInvalidArgument, "{} exists already", path.string());
  write_file_atomically(path, model_card(options));
}

void check_lineage(const std::filesystem::path& archive, const std::filesystem::path& base,
                   const std::vector<std::filesystem::path>& base_deltas) {
  Archive::open(archive).check_base(open_base(base, base_deltas, 0).checkpoint);
}

}  // namespace deltacome
