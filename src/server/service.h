// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>

#include "server/api.h"
#include "server/http_server.h"
#include "server/image_fetcher.h"
#include "server/model_directory.h"
#include "server/workers.h"

namespace deltacome::server {

/// The server over any engine: Server with a seam for tests. Its members are those of Server.
class Service {
 public:
  Service(ServedEngine& engine, const ServerOptions& options);
  ~Service();

  void start();
  uint16_t port() const;
  void stop();
  void hurry();
  void reload_keys();

 private:
  void dispatch(HttpRequest request, std::shared_ptr<ResponseStream> out);
  std::shared_ptr<const Caller> authenticate(const HttpRequest& request, const Route& route) const;
  void run(const Route& route, Call& call);
  void fail(Call& call, const ApiError& error);

  const ServerOptions options_;
  const AllowedPaths allowed_;
  const ImageFetcher images_;
  std::unique_ptr<ModelDirectory> directory_;  // null without a model_dir
  VariantNames names_;
  ApiContext context_;
  Router router_;
  mutable std::mutex mutex_;
  std::shared_ptr<const Keys> keys_;  // null: there are none
  bool hurried_ = false, stopped_ = false;
  std::unique_ptr<Workers> workers_;
  std::unique_ptr<HttpServer> http_;
};

}  // namespace deltacome::server
