// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

namespace deltacome {

/// What a completion answers: the last number behind its last "####" (GSM8K's form; thousands
/// commas and a leading $ are dropped), or without one the whole text, trimmed.
std::string answer_of(const std::string& completion);

/// True if `completion` gives `answer`: both read by answer_of(), numbers compared as numbers.
bool gives_answer(const std::string& completion, const std::string& answer);

}  // namespace deltacome
