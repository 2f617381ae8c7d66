// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>

#include "backend/cpu/runtime.h"
#include "backend/cpu/variant.h"

namespace deltacome::cpu {

// The ops that work on one row at a time; see Backend.

void embed(const Runtime& runtime, const CpuVariantPlan& plan, int slot,
           std::span<const int32_t> ids, const Tensor& table, const Tensor& y);
void rms_norm(const Runtime& runtime, const CpuVariantPlan& plan, int slot, const Tensor& x,
              const Tensor& weight, double eps, const Tensor& y);
void silu_mul(const Runtime& runtime, const Tensor& gate, const Tensor& up, const Tensor& out);
void add(const Runtime& runtime, const Tensor& x, const Tensor& y);
void gather_rows(const Tensor& x, std::span<const int32_t> rows, const Tensor& y);

}  // namespace deltacome::cpu
