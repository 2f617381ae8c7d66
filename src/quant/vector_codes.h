// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "quant/format.h"

namespace deltacome {

inline constexpr int kBookEntries = 256;
/// Dimensions that there are code books for: 2, 1.33, 1, 0.67 and 0.5 bits a weight.
inline constexpr std::array<int, 5> kBookDimensions = {4, 6, 8, 12, 16};
bool has_code_book(int dim) noexcept;

/// Entries [256, dim] of the global code book of `dim`, for independent standard Gaussians; the
/// value of an element is entry / 32. Made by tools/make_code_books.py; a book never changes.
std::span<const int8_t> code_book(int dim);
inline constexpr float kBookStep = 1.0F / 32;
/// Mean squared error of the book on standard Gaussians, per weight.
double code_book_error(int dim);

/// signs[i] of the rotation of an input of n elements: bit 0 of the i-th output of splitmix64
/// started at seed + n, 0 = +1. Ref: Steele et al., OOPSLA 2014.
std::vector<float> rotation_signs(uint64_t seed, int64_t n);
/// The largest power of two that divides n, at most 1024: the block of a rotation.
int64_t rotation_block(int64_t n) noexcept;
/// x [n] becomes R^T x, R = diag(signs) H: signs first, then the Hadamard blocks. In float for
/// activations, in double for compression.
void rotate(std::span<float> x, std::span<const float> signs, int64_t block);
void rotate(std::span<double> x, std::span<const float> signs, int64_t block);
/// x [n] becomes R x: the inverse of rotate(). A row w of a rotated delta becomes w R^T.
void unrotate(std::span<float> x, std::span<const float> signs, int64_t block);

/// Gains are stored as logarithms: gain = 2^((code - 128) / 64), 0.25 to 3.96 in steps of 1.1 %.
float gain_of(uint8_t code) noexcept;
uint8_t gain_code(double gain) noexcept;  // the nearest; gains out of range become the last one

/// Values of the rows of a vector code before the rotation is undone, with their scale:
/// [base_rows, n_in] row-major. Column gains are not in it.
std::vector<float> decode_rotated(const MatrixFormat& format, std::span<const std::byte> blob);

}  // namespace deltacome
