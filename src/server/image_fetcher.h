// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <set>
#include <span>
#include <string>
#include <string_view>

namespace deltacome::server {

/// Gets pictures from hosts that the operator names, and from no other: URLs come from clients, who
/// must not be able to make the server ask whatever it can reach.
class ImageFetcher {
 public:
  /// "example.org", at the ports of http and https, or "example.org:8080". Throws kInvalidArgument
  /// for another form.
  explicit ImageFetcher(std::span<const std::string> hosts);

  bool empty() const noexcept { return hosts_.empty(); }  // nothing is allowed
  /// What a GET of an http or https URL gives: status 200, at most a picture's size, within ten
  /// seconds; redirections are not followed, certificates are verified. Blocks. Throws
  /// kInvalidArgument for a URL that is not allowed, kIo for what came instead.
  std::string fetch(std::string_view url) const;

 private:
  std::set<std::string, std::less<>> hosts_;
};

}  // namespace deltacome::server
