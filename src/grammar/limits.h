// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

/// Bounds on what a client may ask for: constraints are untrusted. docs/grammar.md has the table.
namespace deltacome::grammar {

inline constexpr size_t kMaxSourceBytes = 256 << 10;  // a schema, all choices, all tools together
inline constexpr size_t kMaxRegexBytes = 16 << 10;
inline constexpr int kMaxJsonDepth = 64;            // of a schema's text
inline constexpr int kMaxRegexDepth = 64;           // of groups
inline constexpr int kMaxRepeat = 2048;             // counts in schemas and regular expressions
inline constexpr size_t kMaxChoices = 4096;         // of `choice`
inline constexpr size_t kMaxSchemaSteps = 100'000;  // schemas visited while one is compiled
inline constexpr size_t kMaxNfaStates = 1 << 20;
inline constexpr size_t kMaxStates = 65'535;    // of the automaton, so that a state has 16 bits
inline constexpr size_t kMaxWork = 10'000'000;  // NFA states and edges visited while it is made
inline constexpr int kMaxDepth = 128;           // of the stack: objects, arrays and a string
inline constexpr size_t kMaxThreads = 32;       // readings of one text that are followed at once
inline constexpr int kMaxIndent = 32;           // spaces after a line break between JSON values

}  // namespace deltacome::grammar
