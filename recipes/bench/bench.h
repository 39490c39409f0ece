// What `conclave bench` measures. Every figure is a ratio to a reference, and the two are timed in turn,
// repetition by repetition: whatever else the machine does meanwhile slows both alike, and the median of the
// ratios stays put where either time alone would not.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "parallel/process_grid.h"

namespace conclave::bench {

/// How long `work` takes.
double seconds(const std::function<void()>& work);
/// Of at least one value; of an even number, the upper of the middle two.
double median(std::vector<double> values);

/// Medians over the repetitions.
struct Comparison {
  double subject = 0;    ///< seconds
  double reference = 0;  ///< seconds
  double ratio = 0;      ///< of reference to subject: 1 where both take the same time
};

/// Runs both once to warm up, then `repetitions` times in turn. `tidy` follows each subject, and is not
/// timed.
Comparison compare(
    const std::function<void()>& subject, const std::function<void()>& reference, std::int64_t repetitions,
    const std::function<void()>& tidy = [] {});

/// Gives x f32 values in [-0.5, 0.5); another `number`, other values.
void fill(const Tensor& x, std::uint32_t number);

/// Prints "what ....... figure (target ...)"; `target` 0: there is none.
void print_figure(std::string_view what, std::string_view figure, double target = 0);

/// A loop of fused multiply-adds in registers on each of `threads` threads: what no matrix product can
/// exceed.
class Peak {
 public:
  explicit Peak(int threads) : threads_(threads) {}
  void run() const;
  double flops() const;  ///< of one run(), over all threads

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
/// Takes 800 MB of the folder for temporary files.
void upload(std::int64_t repetitions);
/// Takes 3 GB.
void secure_aggregation_sum(std::int64_t repetitions);
/// `grid` of one rank.
void moe(const ProcessGrid& grid, std::int64_t repetitions);
/// `grid` of one rank.
void private_step(const ProcessGrid& grid, std::int64_t repetitions);
/// `grid` of one rank.
void routing_cache(const ProcessGrid& grid, std::int64_t repetitions);
/// Of a checkpoint's classifier of texts; `grid` of one rank.
void latency(const ProcessGrid& grid, const std::string& checkpoint, std::int64_t repetitions);
/// Needs WordNet; `grid` of one rank.
void batching(const ProcessGrid& grid, const std::string& cache_directory, std::int64_t repetitions);
/// Collective; rank 0 prints.
void routing_balance(const ProcessGrid& grid, std::int64_t repetitions);
void dispatch(const ProcessGrid& grid, std::int64_t repetitions);

}  // namespace conclave::bench
