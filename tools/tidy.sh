#!/usr/bin/env bash
# clang-tidy over the sources that differ from the main branch, then over the others, for at most
# SECONDS in all; says how far it came. Fails on any finding.
#   tools/tidy.sh [SECONDS]
set -euo pipefail
cd "$(dirname "$0")/.."
budget=${1:-600}
tidy=.venv/bin/clang-tidy
[[ -x $tidy ]] || tidy=clang-tidy

start=$(git merge-base HEAD origin/HEAD 2>/dev/null || git rev-parse -q --verify HEAD~1 || git rev-parse HEAD)
mapfile -t files < <({
  git diff --name-only --diff-filter=d "$start" -- '*.cc'
  git ls-files '*.cc'
} | grep -E '^(apps|src|examples)/' | grep -v '^src/backend/cuda/' | awk '!seen[$0]++')

done=0
for file in "${files[@]}"; do
  ((SECONDS < budget)) || break
  "$tidy" -p build/release --quiet "$file" 2> >(grep -v 'warnings\? generated' >&2)
  done=$((done + 1))
done
echo "clang-tidy: $done of ${#files[@]} files, ${SECONDS} s"
