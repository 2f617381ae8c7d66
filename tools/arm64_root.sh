#!/usr/bin/env bash
# Installs a cross compiler and qemu-user, and unpacks the arm64 libraries of the build into
# build/arm64-root (Debian 12, as root): cmake/aarch64.cmake builds with them.
set -euo pipefail
cd "$(dirname "$0")/.."

root=build/arm64-root
packages=(libopenblas0-pthread libopenblas-pthread-dev liblapacke liblapacke-dev liblapack3 libblas3 libtmglib3
  libgfortran5 libfmt9 libfmt-dev libspdlog1.10 libspdlog-dev libutf8proc2
  libutf8proc-dev libpcre2-8-0 libpcre2-16-0 libpcre2-32-0 libpcre2-posix3 libpcre2-dev libssl3 libssl-dev
  libgtest-dev libpng16-16 libpng-dev zlib1g zlib1g-dev libjpeg62-turbo libjpeg62-turbo-dev)
[[ ! -e $root/complete ]] || exit 0
rm -rf "$root" && mkdir -p "$root/packages"
export DEBIAN_FRONTEND=noninteractive
if ! dpkg --print-foreign-architectures | grep -qx arm64; then
  dpkg --add-architecture arm64
  apt-get -qq update
fi
apt-get -qq install -y --no-install-recommends g++-aarch64-linux-gnu qemu-user
(cd "$root/packages" && apt-get -qq download "${packages[@]/%/:arm64}" nlohmann-json3-dev libcli11-dev libboost1.81-dev:arm64)
for package in "$root"/packages/*.deb; do dpkg -x "$package" "$root"; done
rm -r "$root/packages"
touch "$root/complete"
