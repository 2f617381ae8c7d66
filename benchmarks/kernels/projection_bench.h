// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "bench_device.h"

namespace deltacome::bench {

/// The projections of a layer of Llama-2-7B for few and many rows: by cuBLAS, by the backend, by
/// the own kernel; each call alone and all in turn, beside the time in which their bytes are read.
void bench_projections(BenchDevice& device);

}  // namespace deltacome::bench
