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

/// Prints "what ....... figure (target ...)"; 0 means no target.
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

void peak(std::int64_t repetitions);
void grouped(std::int64_t repetitions);
void convolution(std::int64_t repetitions);
void layer_norm(std::int64_t repetitions);
void lstm(std::int64_t repetitions);
void integers(std::int64_t repetitions);
void aggregation(std::int64_t repetitions);
/// Needs 800 MB in the folder for temporary files.
void upload(std::int64_t repetitions);
/// Needs 3 GB of memory.
void secure_aggregation_sum(std::int64_t repetitions);
/// `grid` of one rank.
void moe(const ProcessGrid& grid, std::int64_t repetitions);
/// `grid` of one rank.
void private_step(const ProcessGrid& grid, std::int64_t repetitions);
/// `grid` of one rank.
void routing_cache(const ProcessGrid& grid, std::int64_t repetitions);
/// Measures a checkpoint's classifier of texts; `grid` of one rank.
void latency(const ProcessGrid& grid, const std::string& checkpoint, std::int64_t repetitions);
/// Needs WordNet; `grid` of one rank.
void batching(const ProcessGrid& grid, const std::string& cache_directory, std::int64_t repetitions);
/// Collective; rank 0 prints.
void routing_balance(const ProcessGrid& grid, std::int64_t repetitions);
void dispatch(const ProcessGrid& grid, std::int64_t repetitions);

}  // namespace conclave::bench
