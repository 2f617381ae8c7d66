#!/usr/bin/env bash
# What needs a GPU: builds the preset "cuda", runs its tests, then again under compute-sanitizer.
# Ends at the first failed part; a table comes last.
#   tools/gpu_check.sh [PART ...]    the parts named, or the first three:
#       build  test  sanitize
#       storm     10,000 random operations on an engine, every answer compared with its request alone
#       compress  minutes and 8 GiB of /dev/shm (tools/check_gpu_compression.py)
#       whole     a whole 7B pair compressed: 10 minutes, 32 GiB of /dev/shm, torch
#       bench     layers: base_bench, delta_bench
#       forms     the delta path as others compute it, widths of 2048 to 8192 (torch, triton)
#       system    7B: memory of 50 variants, cold starts, highest rates: 12 minutes (tools/gpu_system.sh)
#   tools/gpu_check.sh --prepare                    for a GPU machine without network, elsewhere and
#       first: fetches PCRE2 and utf8proc into .cache/gpu-deps, which travels with the checkout
set -uo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/local/cuda/bin

programs=(backend_cuda_test backend_cuda_delta_test cuda_golden_test)  # the programs whose tests have the label "cuda"
storms=(engine_cuda_storm_test engine_cuda_soak_test engine_cuda_fast_soak_test)  # too long for the sanitizers
benches=(base_bench delta_bench)
deps=$PWD/.cache/gpu-deps
log=$(mktemp)
rows=()

prepare() (
  set -e
  rm -rf "$deps"
  mkdir -p "$deps"
  cd "$deps"
  apt-get -qq download libpcre2-dev libutf8proc-dev
  for package in *.deb; do dpkg -x "$package" .; done
  # Archives alone, so that programs need nothing of this at run time; found wherever this is.
  find . -name '*.deb' -delete -o -name '*.so*' -delete
  # shellcheck disable=SC2016  # pkg-config expands it
  sed -i 's|^prefix=.*|prefix=${pcfiledir}/../../..|' usr/lib/*/pkgconfig/*.pc
)

build() {
  local options=() pc
  command -v ccache >/dev/null || options=(-DCMAKE_CXX_COMPILER_LAUNCHER= -DCMAKE_CUDA_COMPILER_LAUNCHER=)
  for pc in "$deps"/usr/lib/*/pkgconfig; do
    [[ ! -d $pc ]] || export PKG_CONFIG_PATH=$pc
  done
  cmake --preset cuda -DDELTACOME_BUILD_BENCHMARKS=ON "${options[@]}" >"$log" 2>&1 || { cat "$log"; return 1; }
  cmake --build --preset cuda -j "$(nproc)" --target "${programs[@]}" "${storms[@]}" check_backend "${benches[@]}" deltacome_program
}

# A skipped test means that the GPU was not used: that is no pass here.
passes() { "$@" 2>&1 | tee "$log" && ! grep -qi skipped "$log"; }

gpu_tests() { passes ctest --test-dir build/cuda -L '^cuda$' --output-on-failure --no-tests=error; }

sanitize() {  # TOOL [OPTION ...]
  local tool=$1 program
  shift
  for program in "${programs[@]}"; do
    passes compute-sanitizer --tool "$tool" "$@" --error-exitcode 1 "build/cuda/bin/$program" || return 1
  done
}

bench() {
  local program
  for program in "${benches[@]}"; do "build/cuda/bin/$program" || return 1; done
}

storm() { passes ctest --test-dir build/cuda -L cuda_soak --output-on-failure --no-tests=error; }

forms() {
  local hidden
  for hidden in 2048 4096 8192; do
    build/cuda/bin/delta_bench --quick --hidden $hidden --json build/cuda/delta_bench-$hidden.json || return 1
  done
  python3 benchmarks/baselines/gpu_forms.py --json build/cuda/gpu_forms.json &&
    python3 benchmarks/baselines/gpu_forms.py --only unpacked --hidden 2048 4096 8192 --variants 1 --rows 1 4 16 \
      --json build/cuda/gpu_forms-hidden.json
}

system() { DELTACOME=$PWD/build/cuda/bin/deltacome tools/gpu_system.sh; }

whole() { python3 tools/check_gpu_compression.py --whole --distill 2; }

compress() { python3 tools/check_gpu_compression.py; }

part() {  # NAME COMMAND...
  local name=$1 result=passed started=${EPOCHREALTIME//[!0-9]/} tenths
  shift
  echo "=== $name"
  "$@" || result=FAILED
  tenths=$(((${EPOCHREALTIME//[!0-9]/} - started) / 100000))
  rows+=("$(printf '%-22s %-8s %5d.%d' "$name" $result $((tenths / 10)) $((tenths % 10)))")
  [[ $result == passed ]] || exit 1
}

report() {
  local status=$?
  rm -f "$log"
  [[ ${#rows[@]} == 0 ]] || printf '\n%-22s %-8s %7s\n' part result seconds
  [[ ${#rows[@]} == 0 ]] || printf '%s\n' "${rows[@]}"
  exit $status
}
trap report EXIT

[[ $# -gt 0 ]] || set -- build test sanitize
for argument; do
  case $argument in
    --prepare) part prepare prepare ;;
    build) part build build ;;
    test)
      nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
      part test gpu_tests
      ;;
    bench) part bench bench ;;
    storm | compress | whole | forms | system) part "$argument" "$argument" ;;
    sanitize)
      if command -v compute-sanitizer >/dev/null; then
        part "sanitize: memcheck" sanitize memcheck --leak-check full
        # cuBLASLt's own kernels (nvjet) have reports that are not ours to mend.
        part "sanitize: racecheck" sanitize racecheck --kernel-name-exclude kns=nvjet
        part "sanitize: synccheck" sanitize synccheck
      else
        rows+=("$(printf '%-22s %-8s %7s' sanitize "no tool" -)")
      fi
      ;;
    *)
      sed -n '2,15s/^# \?//p' "$0" >&2
      exit 2
      ;;
  esac
done
