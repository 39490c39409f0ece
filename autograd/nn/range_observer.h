// Learns the range of a product's inputs from the inputs that pass, for scales that are fixed in inference
// (Jacob et al. 2018, section 3.1; Krishnamoorthi 2018, arXiv:1806.08342). Each expert has its own range. A
// pass only accumulates what it sees. Once per step, or per batch of calibration, this is combined over all
// ranks by operations that do not depend on which rank saw what, and then learned, so that the ranges are the
// same on every rank. They are buffers of the model, so checkpoints have them. They are in host memory, so
// that on a device nothing waits for them.
#pragma once

#include <span>
#include <vector>

#include "autograd/nn/module.h"
#include "core/kernels/fake_quantize.h"
#include "core/kernels/matmul.h"

namespace conclave {

struct ObserverOptions {
  /// min_max: the smallest and largest number ever seen. moving_average: of each step's smallest and largest.
  /// percentile: the range within which the given percentage of the numbers lies.
  enum class Kind : std::uint8_t { min_max, moving_average, percentile };
  Kind kind = Kind::moving_average;
  double momentum = 0.01;     ///< share of a step in the moving average, and in the percentile's counts
  double percentile = 99.99;  ///< percentage of numbers within the range
};

class RangeObserver : public Module {
 public:
  /// Rows that an expert must have seen before its own range is used; until then it uses the layer's range.
  static constexpr double kEnoughRows = 256;
  /// Bins by sign, with 32 bins per power of two, so that the edges of a bin are 2 % apart.
  static constexpr Index kBins = 2048;

  /// `groups`: groups of rows with a range each, such as a layer's experts; 1: one range for all rows.
  RangeObserver(const ObserverOptions& options, Index groups);

  /// Accumulates x [rows, columns]; `offsets` divide its rows into groups, which are numbered from `first`
  /// on. Waits for a device.
  void see(Tape& tape, const Tensor& x, kernels::RowOffsets offsets, Index first);

  /// What was accumulated, to be combined over the ranks: the elements of `least` by minimum, those of `sums`
  /// by sum.
  std::span<double> least() { return least_; }
  std::span<double> sums() { return sums_; }
  /// Updates the ranges from the combined values, and clears them.
  void learn();
  void forget();

  /// Whether any range has been learned yet.
  bool has_seen() const;
  struct Scales {
    Tensor scale, zero_point;  ///< [count], in host memory
  };
  /// The scales of groups [first, first + count), allocated from the tape's arena.
  Scales scales(Tape& tape, QuantLevels levels, Index first, Index count) const;

 private:
  std::span<double> bins(Index group) {
    return std::span(sums_).subspan(static_cast<std::size_t>(groups_ + group * kBins),
                                    static_cast<std::size_t>(kBins));
  }

  ObserverOptions options_;
  Index groups_;
  Buffer& range_;                     // [groups, 2]: lowest, highest
  Buffer& rows_;                      // [groups] rows seen, at most 2^24
  Buffer* histogram_;                 // [groups, kBins]; null unless percentile
  std::vector<double> least_, sums_;  // [groups, 2]: lowest, -highest; [groups] rows, [groups, kBins]
};

}  // namespace conclave
