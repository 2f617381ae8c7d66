// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string_view>

namespace deltacome::server {

// Files of this directory that are part of the program (deltacome_embed() in CMakeLists.txt).
std::string_view embedded_openapi();  // openapi.json
std::string_view embedded_page();     // page/, in one

}  // namespace deltacome::server
