// SPDX-License-Identifier: Apache-2.0
// The deltas of a decode step on the CPU, without the base: layers of Llama-2-7B (q, k, v, o, gate,
// up, down), one token of each variant, packed codes several times the caches. Every round reads a
// buffer first, on pages of 4 KiB and on huge ones, and then the deltas of each kind; figures are
// medians of rounds, ratios those of a round's own roof.
// cpu_delta_bench [--kinds come,auto,vector] [--variants 8] [--layers 2] [--rounds 15]
//   [--threads 2] [--hidden 4096] [--repeats 1: of each step within a round, for what fits a cache]
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "backend/cpu/cpu_memory.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/linear.h"
#include "core/check.h"
#include "delta_data.h"

namespace deltacome::bench {
namespace {

using Clock = std::chrono::steady_clock;

template <class Body>
double seconds_of(const Body& body) {
  const auto start = Clock::now();
  body();
  return std::chrono::duration<double>(Clock::now() - start).count();
}

double median(std::vector<double> v) {
  std::ranges::sort(v);
  return v[v.size() / 2];
}

/// A buffer that is read as fast as the machine can.
class Roof {
 public:
  Roof(ThreadPool& pool, int advice) : pool_(pool) {
    void* p = ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) fail(ErrorCode::kOutOfMemory, "cannot map {} bytes", kBytes);
    ::madvise(p, kBytes, advice);
    words_ = static_cast<uint64_t*>(p);
    std::fill_n(words_, kBytes / 8, 1);
  }
  ~Roof() { ::munmap(words_, kBytes); }
  Roof(const Roof&) = delete;
  Roof& operator=(const Roof&) = delete;

  /// Read twice, as the deltas are: what caches keep helps both.
  double gb_per_s() {
    read();
    return kBytes / seconds_of([&] { read(); }) / 1e9;
  }

 private:
  static constexpr int64_t kBytes = int64_t{384} << 20;

  void read() {
    constexpr int64_t kPiece = 1 << 17;
    pool_.parallel_for(kBytes / 8 / kPiece, 1, [&](int64_t begin, int64_t end) {
      uint64_t sums[16] = {};
      for (int64_t i = begin * kPiece; i < end * kPiece; i += 16) {
        for (int64_t j = 0; j < 16; ++j) sums[j] += words_[i + j];
      }
      for (const uint64_t sum : sums) total_ += sum;
    });
  }

  ThreadPool& pool_;
  uint64_t* words_;
  std::atomic<uint64_t> total_ = 0;
};

/// Deltas of one kind: `variants` of them, `layers` each.
class Deltas {
 public:
  Deltas(const cpu::Runtime& runtime, std::string kind, int variants, int layers)
      : name(std::move(kind)), runtime_(runtime), variants_(variants), layers_(layers) {
    const int n = static_cast<int>(layer_matrices.size());
    std::vector<VariantSegment> segments;
    NoStream stream;
    for (int v = 0; v < variants; ++v) {
      auto variant = std::make_shared<cpu::CpuVariant>(n * layers);
      for (int slot = 0; slot < n * layers; ++slot) {
        const MatrixFormat format = format_of(name, layer_matrices[slot % n]);
        variant->set(slot, format, blob_of(format), stream);
      }
      bytes += variant->resident_bytes();
      segments.push_back({std::move(variant), 1});
    }
    plan_ = std::make_unique<cpu::CpuVariantPlan>(segments);
    for (const MatrixShape& m : layer_matrices) {
      weights_.push_back(cpu::allocate(DType::kBf16, {m.n_out, m.n_in}));  // never read
      y_.push_back(cpu::allocate(DType::kF32, {variants, m.n_out}));
      std::fill_n(cpu::f32(y_.back()), variants * m.n_out, 0.0F);
      x_.push_back(cpu::allocate(DType::kF32, {variants, m.n_in}));
      std::ranges::copy(random_values(variants * m.n_in), cpu::f32(x_.back()));
    }
  }

  double step() {
    return seconds_of([&] {
      for (int layer = 0; layer < layers_; ++layer) {
        for (const std::vector<int>& call : kCalls) {
          std::vector<LinearTarget> targets;
          for (const int i : call) {
            const auto at = static_cast<size_t>(i);
            const int slot = layer * static_cast<int>(layer_matrices.size()) + i;
            targets.push_back({slot, weights_[at], -1, {}, y_[at]});
          }
          cpu::add_deltas(runtime_, *plan_, x_[static_cast<size_t>(call[0])], targets);
        }
      }
    });
  }

  std::string name;
  int64_t bytes = 0;
  std::vector<double> rates, of_roof, of_huge;

 private:
  struct NoStream : Stream {
    void synchronize() override {}
  };
  cpu::Runtime runtime_;
  int variants_, layers_;
  std::unique_ptr<cpu::CpuVariantPlan> plan_;
  std::vector<Tensor> weights_, x_, y_;
};

struct Options {
  std::string kinds = "come,auto,vector";
  int variants = 8, layers = 2, rounds = 15, threads = 2, hidden = 4096, repeats = 1;
};

Options parse(int argc, char** argv) {
  Options o;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string key = argv[i], value = argv[i + 1];
    int* const number = key == "--variants"  ? &o.variants
                        : key == "--layers"  ? &o.layers
                        : key == "--rounds"  ? &o.rounds
                        : key == "--threads" ? &o.threads
                        : key == "--hidden"  ? &o.hidden
                        : key == "--repeats" ? &o.repeats
                                             : nullptr;
    if (number != nullptr) {
      *number = std::atoi(value.c_str());
    } else if (key == "--kinds") {
      o.kinds = value;
    } else {
      fail(ErrorCode::kInvalidArgument, "unknown option {}", key);
    }
  }
  return o;
}

void run(const Options& o) {
  set_hidden_size(o.hidden);
  ThreadPool pool(o.threads);
  const cpu::Runtime runtime{pool, *cpu::available_kernels().front()};
  Roof roof(pool, MADV_NOHUGEPAGE), huge(pool, MADV_HUGEPAGE);
  std::vector<std::unique_ptr<Deltas>> all;
  for (size_t at = 0; at < o.kinds.size();) {
    const size_t end = std::min(o.kinds.find(',', at), o.kinds.size());
    all.push_back(
        std::make_unique<Deltas>(runtime, o.kinds.substr(at, end - at), o.variants, o.layers));
    at = end + 1;
  }
  std::vector<double> roofs, huges;
  for (int round = 0; round <= o.rounds; ++round) {
    const double r = roof.gb_per_s(), h = huge.gb_per_s();
    if (round > 0) roofs.push_back(r), huges.push_back(h);
    for (const auto& d : all) {
      d->step();
      double s = 0;
      for (int i = 0; i < o.repeats; ++i) s += d->step() / o.repeats;
      if (round == 0) continue;  // warms up
      const double rate = static_cast<double>(d->bytes) / s / 1e9;
      d->rates.push_back(rate);
      d->of_roof.push_back(rate / r);
      d->of_huge.push_back(rate / h);
    }
  }
  std::printf("%d threads, %s; read %.1f GB/s, on huge pages %.1f\n", o.threads,
              runtime.kernels.name, median(roofs), median(huges));
  for (const auto& d : all) {
    std::printf("%-8s %7.1f MB %6.1f GB/s, of the roofs %.2f %.2f\n", d->name.c_str(),
                static_cast<double>(d->bytes) / 1e6, median(d->rates), median(d->of_roof),
                median(d->of_huge));
  }
}

}  // namespace
}  // namespace deltacome::bench

int main(int argc, char** argv) {
  try {
    deltacome::bench::run(deltacome::bench::parse(argc, argv));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "cpu_delta_bench: %s\n", error.what());
    return 1;
  }
  return 0;
}
