// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

struct pcre2_real_code_8;

namespace deltacome {

/// adapter_config.json of PEFT, as far as it says what a LoRA adapter computes.
class PeftConfig {
 public:
  /// Untrusted text; `where` begins the messages. Throws kCorrupt for fields that are missing or of
  /// a wrong type, kUnsupported naming the field for what is not plain LoRA or rsLoRA (another
  /// peft_type, DoRA, biases, initializations that change the base).
  static PeftConfig parse(std::string_view text, const std::string& where);

  /// The rank that a module ("model.layers.0.self_attn.q_proj") has: the first rank_pattern that
  /// matches it, in the order of the file, or else r.
  int64_t rank(const std::string& module) const;
  /// alpha / rank, or with rsLoRA alpha / sqrt(rank); alpha by the same rule.
  double scale(const std::string& module) const;
  const std::string& base_name() const noexcept { return base_name_; }  // empty if it names none
  /// modules_to_save: whole modules that the adapter brings.
  const std::vector<std::string>& saved_modules() const noexcept { return saved_modules_; }
  /// Whether one of these is the module or one around it.
  bool is_saved_whole(const std::string& module) const;
  /// ensure_weight_tying: head and embeddings that the base ties are one in the adapter too.
  bool ties_weights() const noexcept { return ties_weights_; }

 private:
  /// A key of rank_pattern or alpha_pattern: a regular expression that a whole module name matches,
  /// or the end of one behind a dot.
  struct Pattern {
    std::shared_ptr<const pcre2_real_code_8> code;
    double value = 0;
  };
  static double lookup(const std::vector<Pattern>& patterns, const std::string& module,
                       double otherwise);

  std::string base_name_;
  int64_t rank_ = 0;
  double alpha_ = 0;
  bool rank_stabilized_ = false;
  bool ties_weights_ = false;
  std::vector<std::string> saved_modules_;
  std::vector<Pattern> rank_patterns_, alpha_patterns_;
};

}  // namespace deltacome
