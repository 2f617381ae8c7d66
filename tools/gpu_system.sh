#!/usr/bin/env bash
# The system in Llama-2-7B's shape on one GPU, within 80 GB of its memory: random base and archives
# (`auto`, 1 bit, with embeddings and heads) in 75 GB of /dev/shm, made in a minute or two.
#   tools/gpu_system.sh [memory] [loads] [rates]    the parts named, or all:
#     memory  50 variants answer at once, with room for 30,000 tokens of keys and values
#     loads   cold starts of a variant while 16 others decode, from the disk and from the file cache
#     rates   the highest Poisson rate of 32 variants, uniform and 1/i, beside swapping whole models
# DELTACOME: the program; SCRATCH: memory instead of /dev/shm; DISK: a local disk instead of this
# directory's; TIMED: a command before those whose times count; DURATION: seconds of arrivals (60).
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
program=${DELTACOME:-$PWD/build/cuda/bin/deltacome}
read -ra timed <<<"${TIMED:-}"
models=$(mktemp -d -p "${SCRATCH:-/dev/shm}") || exit 1
disk=$(mktemp -d -p "${DISK:-$PWD}") || exit 1
trap 'rm -rf "$models" "$disk"' EXIT
made=$models/made
gpu=(--device cuda --kv-dtype bf16 --device-memory 74.5)  # GiB: 80 GB
failed=0

deltas() {  # NUMBER
  local i
  for ((i = 0; i < $1; i++)); do printf -- '--delta\n%s\n' "$made/delta$i"; done
}

make() {
  local started=$SECONDS
  "$program" bench make "$made" --shape 7b --delta auto --bits 1 --vocabulary --variants 50 --models 1 --threads 12 || exit 1
  echo "a base, 50 archives of $(du -sm "$made/delta0" | cut -f1) MiB and one more model in $((SECONDS - started)) s"
}

memory() {  # 50 requests of 576 + 16 tokens: 29,600 in the cache at once
  mapfile -t all < <(deltas 50)
  "$program" bench memory --base "$made/base" "${all[@]}" "${gpu[@]}" --kv-gib 14.65 --variant-gib 45.3 \
    --prompt 576 --output 16 --max-sequences 64
}

loads() {
  local cache
  cp -r "$made/delta40" "$disk/cold" && sync -f "$disk/cold"
  dd if="$disk/cold/delta.safetensors" of=/dev/null bs=16M iflag=direct 2>&1 | tail -1  # what the disk gives
  mapfile -t running < <(deltas 16)
  for cache in "" --keep-file-cache; do
    # shellcheck disable=SC2086  # no word if it is empty
    "${timed[@]}" "$program" bench loads --base "$made/base" "${running[@]}" --load "$disk/cold" --device cuda --kv-dtype bf16 \
      --kv-gib 20 --variant-gib 20 --output 2000 --repeats 5 --pause 1.5 $cache || return 1
  done
}

rates() {  # [LAW ...]; the names of whole models share two models' files: what is read is copied all the same
  local law i trace=(--duration "${DURATION:-60}" --max-sequences 128 --within 1.5 --search 3)
  local whole=()
  for ((i = 0; i < 32; i++)); do whole+=(--merged "$made/$([[ $((i % 2)) == 0 ]] && echo base || echo model0)"); done
  mapfile -t variants < <(deltas 32)
  for law in "${@:-uniform}"; do
    echo "$law: deltas"
    "${timed[@]}" "$program" bench trace --base "$made/base" "${variants[@]}" "${gpu[@]}" --kv-gib 26 --variant-gib 30 \
      "${trace[@]}" --popularity "$law" --rate 6 || return 1
    echo "$law: 5 of 32 whole models in memory"
    "${timed[@]}" "$program" bench trace "${whole[@]}" --slots 5 "${gpu[@]}" --kv-gib 9 \
      "${trace[@]}" --popularity "$law" --rate 0.8 || return 1
  done
}

[[ $# -gt 0 ]] || set -- memory loads rates
make
for part; do
  echo "=== $part"
  case $part in
    memory) memory || failed=1 ;;
    loads) loads || failed=1 ;;
    rates) rates uniform zipf:1 || failed=1 ;;
    *)
      sed -n '2,11s/^# \?//p' "$0" >&2
      exit 2
      ;;
  esac
done
exit $failed
