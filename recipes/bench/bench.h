// The benchmarks of `conclave bench`. Every figure is a ratio to a reference. Subject and reference are timed
// alternately: other load on the machine slows both equally, so the median of the ratios is stable where a
// single time is not.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "parallel/process_grid.h"

namespace conclave::bench {

/// Duration of work() in seconds.
double seconds(const std::function<void()>& work);
/// Median of at least one value; for an even number of values, the upper of the middle two.
double median(std::vector<double> values);

/// Medians over the repetitions.
struct Comparison {
  double subject = 0;    ///< seconds
  double reference = 0;  ///< seconds
  double ratio = 0;      ///< reference / subject; above 1 the subject is faster
};

/// Runs both once to warm up, then `repetitions` times alternately. `tidy` runs after each subject and is not
/// timed.
Comparison compare(
    const std::function<void()>& subject, const std::function<void()>& reference, std::int64_t repetitions,
    const std::function<void()>& tidy = [] {});

/// Fills the f32 tensor x with values in [-0.5, 0.5); another `number` gives other values.
void fill(const Tensor& x, std::uint32_t number);

/// Prints "what ....... figure (target ...)". `figure` has its units; `target` is a ratio, which is printed
/// in percent, and 0 means that there is none.
void print_figure(std::string_view what, std::string_view figure, double target = 0);

/// A loop of fused multiply-adds in registers on each of `threads` threads: an upper bound for the speed of
/// matrix products.
class Peak {
 public:
  explicit Peak(int threads) : threads_(threads) {}
  void run() const;
  double flops() const;  ///< operations of one run(), over all threads

 private:
  int threads_;
};

// Each of these prints its figures, of so many repetitions. `grid` has one rank, unless a comment says else.
// scripts/README.md has what was measured, and the aims.

/// FMA peak: GFLOP/s.
void peak(std::int64_t repetitions);
/// Grouped products: GFLOP/s, and their share of one large product's speed (target 85 %).
void grouped(std::int64_t repetitions);
/// Depthwise convolutions: ms, GFLOP/s, and the share of the FMA peak; in integers, the ratio to f32.
void convolution(std::int64_t repetitions);
/// Layer normalization with GELU: ms, and the share of the time of one after the other (target 60 %).
void layer_norm(std::int64_t repetitions);
/// Experts that are LSTMs: tokens/s, GFLOP/s, and the share of the FMA peak.
void lstm(std::int64_t repetitions);
/// INT8 experts: ms, and how many times as fast as f32 (target 1.6).
void integers(std::int64_t repetitions);
/// Strategies: GB/s of updates, and the share of memcpy's speed.
void aggregation(std::int64_t repetitions);
/// An update over mutual TLS: GB/s, and the share of a bare stream's speed (target 90 %). Needs 800 MB in the
/// folder for temporary files.
void upload(std::int64_t repetitions);
/// A sum by secure aggregation: ms, how many times a plain sum's (target 3), and how many times an update's
/// bytes a site sends (target 1.3). Needs 3 GB of memory.
void secure_aggregation_sum(std::int64_t repetitions);
/// An MoE layer, forward and backward: GFLOP/s, and the share of the FMA peak (target 70 %).
void moe(const ProcessGrid& grid, std::int64_t repetitions);
/// A step that clips each example's gradient: time and memory, as multiples of a plain step's.
void private_step(const ProcessGrid& grid, std::int64_t repetitions);
/// Routing's share of a forward pass, in percent, without and with a cache.
void routing_cache(const ProcessGrid& grid, std::int64_t repetitions);
/// One text at a time, by a checkpoint's classifier of texts: ms, median and 99th percentile. `overrides`
/// change its recipe.
void latency(const ProcessGrid& grid, const std::string& checkpoint,
             const std::vector<std::string>& overrides, std::int64_t repetitions);
/// Padding in percent (target 3 %), and tokens/s against batches in any order (target 1.5 times). Needs
/// WordNet.
void batching(const ProcessGrid& grid, const std::string& cache_directory, std::int64_t repetitions);
/// A forward pass of an MoE layer: ms, and how much less when loads are even (target 25 %). Collective, on
/// two ranks; rank 0 prints.
void routing_balance(const ProcessGrid& grid, std::int64_t repetitions);
/// Dispatch and combine: GB/s between ranks, and the share of a bare all-to-all's (target 75 %). Collective,
/// on several ranks; rank 0 prints.
void dispatch(const ProcessGrid& grid, std::int64_t repetitions);

}  // namespace conclave::bench
