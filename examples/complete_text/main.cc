// SPDX-License-Identifier: Apache-2.0
// Completes a text with a base model and a delta on top of it:
//   complete_text BASE_DIR ARCHIVE_DIR "Once upon a time"
#include <exception>
#include <iostream>
#include <string>

#include "deltacome/archive.h"
#include "deltacome/model.h"

int main(int argc, char** argv) {
  if (argc != 4) {
    std::cerr << "usage: complete_text BASE_DIR ARCHIVE_DIR TEXT\n";
    return 2;
  }
  try {
    const std::string base = argv[1], archive = argv[2], text = argv[3];

    const deltacome::ArchiveInfo info = deltacome::inspect_archive(archive);
    std::cerr << info.method << " delta of " << info.finetuned_name << ": " << info.all_in_bytes
              << " bytes, " << info.bits_per_weight << " bits per weight\n";

    deltacome::LanguageModel model =
        deltacome::LanguageModel::open({.model = base, .delta = archive});
    std::cerr << model.device() << ", base " << model.weight_bytes() << " bytes, delta "
              << model.delta_bytes() << " bytes\n";

    std::cout << text;
    const deltacome::GenerateResult result =
        model.generate(text, {.max_tokens = 64}, [](const std::string& piece) {
          std::cout << piece << std::flush;
          return std::cout.good();  // false ends the generation
        });
    std::cout << "\n";
    std::cerr << result.tokens.size() << " tokens, finished by " << result.finish_reason << "\n";
    return 0;
  } catch (const std::exception& error) {  // deltacome::Error has a code as well
    std::cerr << "complete_text: " << error.what() << "\n";
    return 1;
  }
}
