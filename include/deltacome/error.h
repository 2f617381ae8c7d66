// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <exception>
#include <memory>
#include <string>
#include <utility>

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
///
/// Copies share the message, so that copying cannot throw, and may be read and dropped by different
/// threads at once.
class Error : public std::exception {
 public:
  Error(ErrorCode code, std::string message)
      : code_(code), message_(std::make_shared<const std::string>(std::move(message))) {}
  Error(const Error&) noexcept = default;  // and no move, which would leave one without a message
  Error& operator=(const Error&) noexcept = default;
  ~Error() override = default;

  ErrorCode code() const noexcept { return code_; }
  const char* what() const noexcept override { return message_->c_str(); }

 private:
  ErrorCode code_;
  // Not std::runtime_error, whose copies share too: the C++ library counts them out of the sight of
  // the thread sanitizer, which then takes the last owner's free for a race.
  std::shared_ptr<const std::string> message_;
};

}  // namespace deltacome
