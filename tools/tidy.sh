#!/usr/bin/env bash
# clang-tidy over the sources that g++ compiles, one process a core. Fails on any finding.
#   tools/tidy.sh [FILE ...]
set -euo pipefail
cd "$(dirname "$0")/.."
tidy=.venv/bin/clang-tidy
[[ -x $tidy ]] || tidy=clang-tidy

if [[ $# == 0 ]]; then
  mapfile -t files < <(git ls-files 'apps/*.cc' 'src/*.cc' 'examples/*.cc' ':!src/backend/cuda')
  set -- "${files[@]}"
fi
# g++ decides about warnings: clang has others, some in the headers of libstdc++.
printf '%s\0' "$@" | xargs -0 -n 1 -P "$(nproc)" "$tidy" -p build/release --quiet --extra-arg=-Wno-error 2> >(grep -v 'warnings\? generated' >&2)
echo "clang-tidy: $# files"
