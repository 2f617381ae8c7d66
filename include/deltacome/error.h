// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <stdexcept>
#include <string>

namespace deltacome {

/// What went wrong, as a closed set: a caller can switch over it.
enum class ErrorCode {
  kInvalidArgument,  // the caller asked for something that makes no sense
  kNotFound,         // a file, tensor or variant that is named does not exist
  kUnsupported,      // understood, but not something this build or version does
  kCorrupt,          // bytes that are not what their format or hash promises
  kMismatch,         // two things that are each valid but do not belong together
  kIo,               // the operating system refused a read or write
  kOutOfMemory,      // a memory budget or the machine is exhausted
  kOverloaded,       // a queue is full or the engine is stopping; the same request may work later
  kDevice,           // an accelerator failed
  kInternal,         // a bug in deltacome
};

/// The one exception type of deltacome. The message is one sentence: what, got, expected, where.
class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ErrorCode code() const noexcept { return code_; }

 private:
  ErrorCode code_;
};

}  // namespace deltacome
