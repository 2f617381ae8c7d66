// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>

#include <boost/asio/ssl/context.hpp>

namespace deltacome::server {

/// TLS 1.2 or later with a PEM certificate chain and its key. Throws kInvalidArgument naming the
/// file and what is wrong with it.
boost::asio::ssl::context make_tls_context(const std::filesystem::path& certificate,
                                           const std::filesystem::path& key);

}  // namespace deltacome::server
