#!/usr/bin/env bash
# Installs what the build needs and does not find (Debian 12, Ubuntu 24.04).
set -euo pipefail

# Debian 12's own default, 1.74, cannot start coroutines with clang; Ubuntu 24.04 has 1.83.
boost=libboost-dev
! grep -qs '^VERSION_CODENAME=bookworm' /etc/os-release || boost=libboost1.81-dev
packages=(g++ cmake ninja-build ccache pkg-config libopenblas0-pthread libopenblas-pthread-dev
  liblapacke-dev nlohmann-json3-dev libcli11-dev libspdlog-dev libfmt-dev libutf8proc-dev
  libpcre2-dev libpng-dev libjpeg-dev libwebp-dev libssl-dev "$boost" libgtest-dev python3
  python3-venv)

fail() {
  echo "setup: $*" >&2
  exit 1
}

command -v dpkg-query >/dev/null || fail "this is not Debian or Ubuntu; README.md lists what the build needs"
missing=()
for package in "${packages[@]}"; do
  state=$(dpkg-query -W -f '${Status} ' "$package" 2>/dev/null || true)
  [[ $state == *"install ok installed"* ]] || missing+=("$package")
done
[[ ${#missing[@]} -gt 0 ]] || exit 0

as_root=()
if [[ $(id -u) != 0 ]]; then
  command -v sudo >/dev/null || fail "missing: ${missing[*]}; run this as root, or install sudo"
  as_root=(sudo)
fi
echo "setup: installing ${missing[*]}" >&2
log=$(mktemp)
trap 'rm -f "$log"' EXIT
apt() { "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq "$@" >"$log" 2>&1 </dev/null; }
install() { apt install -y --no-install-recommends "${missing[@]}"; }
# Package lists may be absent or stale: they are refreshed only if the first attempt fails.
install || { apt update && install; } ||
  fail "cannot install ${missing[*]}: $(grep -m1 '^E:' "$log" || echo "apt-get failed")"
