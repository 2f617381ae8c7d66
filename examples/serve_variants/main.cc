// SPDX-License-Identifier: Apache-2.0
// Asks a base and its variants the same question, all in one batch:
//   serve_variants BASE_DIR "Once upon a time" [NAME=ARCHIVE_DIR]...
#include <algorithm>
#include <condition_variable>
#include <exception>
#include <iostream>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "deltacome/engine.h"

int main(int argc, char** argv) {
  if (argc < 3) {
    std::cerr << "usage: serve_variants BASE_DIR TEXT [NAME=ARCHIVE_DIR]...\n";
    return 2;
  }
  try {
    const std::string text = argv[2];
    // Before the engine, whose events use it: what is declared first ends last.
    std::mutex mutex;
    std::condition_variable changed;
    std::map<std::string, std::string> answers;
    int n_open = 0;

    deltacome::EngineOptions options;
    options.base = argv[1];
    deltacome::Engine engine(options);
    std::vector<std::string> names = {""};  // the base
    for (int i = 3; i < argc; ++i) {
      const std::string argument = argv[i];
      const size_t equals = argument.find('=');
      if (equals == std::string::npos) throw std::runtime_error(argument + " is not NAME=DIR");
      names.push_back(argument.substr(0, equals));
      engine.load(names.back(), argument.substr(equals + 1));
    }

    for (const std::string& name : names) {
      deltacome::EngineRequest request;
      request.variant = name;
      request.prompt = engine.encode(name, text);
      request.max_tokens = 64;
      request.sampling.temperature = 0;
      {
        const std::lock_guard lock(mutex);
        ++n_open;
      }
      engine.submit(request, [&, name](const deltacome::TokenEvent& event) {
        const std::lock_guard lock(mutex);
        answers[name] += event.text;
        if (event.error) answers[name] = event.error->what();
        if (event.finish != deltacome::FinishReason::kNone) --n_open;
        changed.notify_all();
      });
    }
    {
      std::unique_lock lock(mutex);
      changed.wait(lock, [&] { return n_open == 0; });
    }
    engine.stop();
    for (const std::string& name : names)
      std::cout << "--- " << (name.empty() ? "base" : name) << "\n" << answers[name] << "\n";
    const deltacome::EngineStats stats = engine.stats();
    std::cerr << engine.device() << ": " << stats.output_tokens << " tokens in " << stats.steps
              << " steps; base " << stats.base_bytes << " bytes, variants " << stats.variant_bytes
              << " bytes\n";
    return 0;
  } catch (const std::exception& error) {
    std::cerr << "serve_variants: " << error.what() << "\n";
    return 1;
  }
}
