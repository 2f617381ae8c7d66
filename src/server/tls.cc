// SPDX-License-Identifier: Apache-2.0
#include "server/tls.h"

#include "core/check.h"

namespace deltacome::server {

namespace ssl = boost::asio::ssl;

ssl::context make_tls_context(const std::filesystem::path& certificate,
                              const std::filesystem::path& key) {
  if (certificate.empty() || key.empty())
    fail(ErrorCode::kInvalidArgument, "TLS needs a certificate and a key, got only one of them");
  ssl::context context(ssl::context::tls_server);
  context.set_options(ssl::context::default_workarounds | ssl::context::no_sslv2 |
                      ssl::context::no_sslv3 | ssl::context::no_tlsv1 | ssl::context::no_tlsv1_1);
  boost::system::error_code error;
  if (context.use_certificate_chain_file(certificate.string(), error))
    fail(ErrorCode::kInvalidArgument, "TLS certificate \"{}\": {}", certificate.string(),
         error.message());
  if (context.use_private_key_file(key.string(), ssl::context::pem, error))
    fail(ErrorCode::kInvalidArgument, "TLS key \"{}\": {}", key.string(), error.message());
  return context;
}

}  // namespace deltacome::server
