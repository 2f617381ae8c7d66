// SPDX-License-Identifier: Apache-2.0
#include "quant/vector_codes.h"

#include <algorithm>
#include <cmath>

#include "core/check.h"

namespace deltacome {
namespace {

#include "quant/code_books.inc"

struct Book {
  int dim;
  std::span<const int8_t> entries;
  double error;
};

/// Errors are those that tools/make_code_books.py measured.
const std::array<Book, kBookDimensions.size()> kBooks = {{{4, kBook4, 0.0975},
                                                          {6, kBook6, 0.2176},
                                                          {8, kBook8, 0.3219},
                                                          {12, kBook12, 0.4787},
                                                          {16, kBook16, 0.5802}}};

const Book& find_book(int dim) {
  for (const Book& book : kBooks) {
    if (book.dim == dim) return book;
  }
  fail(ErrorCode::kUnsupported, "no code book of dimension {}", dim);
}

template <class T>
void hadamard(std::span<T> x, int64_t block) {
  const T by = 1 / std::sqrt(static_cast<T>(block));
  for (size_t first = 0; first < x.size(); first += static_cast<size_t>(block)) {
    T* p = x.data() + first;
    for (int64_t half = 1; half < block; half *= 2) {
      for (int64_t i = 0; i < block; i += 2 * half) {
        for (int64_t j = i; j < i + half; ++j) {
          const T a = p[j], b = p[j + half];
          p[j] = a + b;
          p[j + half] = a - b;
        }
      }
    }
    for (int64_t i = 0; i < block; ++i) p[i] *= by;
  }
}

template <class T>
void apply_signs(std::span<T> x, std::span<const float> signs) {
  for (size_t i = 0; i < x.size(); ++i) x[i] *= static_cast<T>(signs[i]);
}

}  // namespace

bool has_code_book(int dim) noexcept {
  return std::find(kBookDimensions.begin(), kBookDimensions.end(), dim) != kBookDimensions.end();
}

std::span<const int8_t> code_book(int dim) {
  return find_book(dim).entries;
}

double code_book_error(int dim) {
  return find_book(dim).error;
}

std::vector<float> rotation_signs(uint64_t seed, int64_t n) {
  std::vector<float> signs;
  uint64_t state = seed + static_cast<uint64_t>(n);
  for (int64_t i = 0; i < n; ++i) {
    uint64_t z = state += 0x9e3779b97f4a7c15;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    signs.push_back(((z ^ (z >> 31)) & 1) == 0 ? 1.0F : -1.0F);
  }
  return signs;
}

int64_t rotation_block(int64_t n) noexcept {
  return std::min<int64_t>(n & -n, 1024);
}

void rotate(std::span<float> x, std::span<const float> signs, int64_t block) {
  apply_signs(x, signs);
  hadamard(x, block);
}

void rotate(std::span<double> x, std::span<const float> signs, int64_t block) {
  apply_signs(x, signs);
  hadamard(x, block);
}

void unrotate(std::span<float> x, std::span<const float> signs, int64_t block) {
  hadamard(x, block);
  apply_signs(x, signs);
}

float gain_of(uint8_t code) noexcept {
  return std::exp2(static_cast<float>(code - 128) / 64);
}

uint8_t gain_code(double gain) noexcept {
  const double code = 128 + 64 * std::log2(std::max(gain, 1e-6));
  return static_cast<uint8_t>(std::clamp(std::round(code), 0.0, 255.0));
}

std::vector<float> decode_rotated(const MatrixFormat& format, std::span<const std::byte> blob) {
  const BlobLayout layout = layout_of(format);
  const auto rows = static_cast<size_t>(format.base_rows),
             cols = static_cast<size_t>(format.n_in());
  const auto dim = static_cast<size_t>(format.vector.dim);
  const std::span<const int8_t> book = code_book(format.vector.dim);
  std::vector<float> scales(rows), out(rows * cols);
  convert_to_float(blob.data() + layout.row_scale.offset, DType::kF16, scales);
  const std::byte* code = blob.data() + layout.vector_codes.offset;
  for (size_t r = 0; r < rows; ++r) {
    for (size_t first = 0; first < cols; first += dim, ++code) {
      const int8_t* entry = book.data() + std::to_integer<size_t>(*code) * dim;
      for (size_t i = 0; i < std::min(dim, cols - first); ++i)
        out[r * cols + first + i] = scales[r] * (static_cast<float>(entry[i]) * kBookStep);
    }
  }
  return out;
}

}  // namespace deltacome
