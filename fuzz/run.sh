#!/usr/bin/env bash
# Runs every fuzz target over its kept corpus, some at a time. Fails if one finds something: the
# input is then in build/fuzz/findings.
#   fuzz/run.sh [SECONDS a target = 60] [JOBS = 2]    after cmake --build --preset fuzz --target fuzzers
#   fuzz/run.sh --keep      makes of fuzz/corpus and of what runs found the new, minimized fuzz/corpus
set -euo pipefail
cd "$(dirname "$0")/.."

programs=build/fuzz/bin corpus=fuzz/corpus found=build/fuzz/corpus findings=build/fuzz/findings
mapfile -t targets < <(sed -n 's/^deltacome_fuzzer(\([a-z_]*\) .*/\1/p' fuzz/CMakeLists.txt)
limits=(-timeout=30 -rss_limit_mb=3000 -malloc_limit_mb=2000)

keep() {
  for target in "${targets[@]}"; do
    mkdir -p "$found/$target" "$corpus/$target"
    rm -rf "$found/$target.kept"
    mkdir "$found/$target.kept"
    "$programs/$target" -set_cover_merge=1 -use_counters=0 "${limits[@]}" "$found/$target.kept" "$corpus/$target" "$found/$target" 2>/dev/null
    rm -rf "${corpus:?}/$target"
    mv "$found/$target.kept" "$corpus/$target"
    echo "$target: $(find "$corpus/$target" -type f | wc -l) inputs, $(du -sb "$corpus/$target" | cut -f1) bytes"
  done
}

run() {  # target, seconds
  local log=$findings/$1.log
  mkdir -p "$found/$1" "$corpus/$1"
  if "$programs/$1" "${limits[@]}" -max_total_time="$2" -print_final_stats=1 \
    -artifact_prefix="$findings/$1-" "$found/$1" "$corpus/$1" >"$log" 2>&1; then
    echo "$1: $(sed -n 's/^stat::number_of_executed_units: *//p' "$log") runs, $(grep -oE 'cov: [0-9]+ ft: [0-9]+' "$log" | tail -1)"
  else
    echo "$1: FAILED"
    tail -n 40 "$log"
    touch "$findings/$1.failed"
  fi
}

if [[ ${1:-} == --keep ]]; then
  keep
  exit
fi
seconds=${1:-60} jobs=${2:-2}
rm -rf "$findings"
mkdir -p "$findings"
for target in "${targets[@]}"; do
  while (($(jobs -rp | wc -l) >= jobs)); do wait -n; done
  run "$target" "$seconds" &
done
wait
! compgen -G "$findings/*.failed" >/dev/null
