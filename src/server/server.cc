// SPDX-License-Identifier: Apache-2.0
#include "deltacome/server.h"

#include "server/service.h"

namespace deltacome {

struct Server::Impl {
  Impl(Engine& e, const ServerOptions& options)
      : engine(server::serve_engine(e)), service(*engine, options) {}
  std::unique_ptr<server::ServedEngine> engine;
  server::Service service;
};

Server::Server(Engine& engine, const ServerOptions& options)
    : impl_(std::make_unique<Impl>(engine, options)) {}
Server::~Server() = default;

void Server::start() {
  impl_->service.start();
}
uint16_t Server::port() const {
  return impl_->service.port();
}
void Server::stop() {
  impl_->service.stop();
}
void Server::hurry() {
  impl_->service.hurry();
}
void Server::reload_keys() {
  impl_->service.reload_keys();
}

}  // namespace deltacome
