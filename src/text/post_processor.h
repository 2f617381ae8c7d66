// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <utility>
#include <vector>

#include "text/tokenizer.h"

namespace deltacome {

/// A piece of a template: the ids of the text, or fixed ones.
struct TemplateItem {
  bool is_text;
  std::vector<TokenId> ids;  // fixed ids; empty for the text
};
using Template = std::vector<TemplateItem>;

/// The `post_processor` of tokenizer.json: templates, each applied to what the one before gave.
class PostProcessor {
 public:
  PostProcessor() = default;
  explicit PostProcessor(std::vector<Template> templates) : templates_(std::move(templates)) {}

  std::vector<TokenId> apply(std::vector<TokenId> ids) const {
    for (const Template& items : templates_) {
      std::vector<TokenId> out;
      for (const TemplateItem& item : items) {
        const std::vector<TokenId>& from = item.is_text ? ids : item.ids;
        out.insert(out.end(), from.begin(), from.end());
      }
      ids = std::move(out);
    }
    return ids;
  }

 private:
  std::vector<Template> templates_;
};

}  // namespace deltacome
