// What range a product's inputs have, learned from those that pass: for scales that are fixed in inference
// (Jacob et al. 2018, section 3.1; Krishnamoorthi 2018, arXiv:1806.08342). Experts have a range each. A pass
// only notes what it sees; once a step, or once a batch of calibration, that is combined over all ranks, in
// numbers that do not depend on who saw what, and then learned: so the ranges are the same on every rank.
// They are buffers of the model, which checkpoints have.
#pragma once

#include <span>
#include <vector>

#include "autograd/nn/module.h"
#include "core/kernels/fake_quantize.h"
#include "core/kernels/matmul.h"

namespace conclave {

struct ObserverOptions {
  /// min_max: the least and greatest ever seen. moving_average: of each step's. percentile: what leaves so
  /// few numbers outside.
  enum class Kind : std::uint8_t { min_max, moving_average, percentile };
  Kind kind = Kind::moving_average;
  double momentum = 0.01;     ///< share of a step in the moving average, and in the percentile's counts
  double percentile = 99.99;  ///< of the numbers that are within, in percent
};

class RangeObserver : public Module {
 public:
  /// Rows that an expert must have seen to go by its own range; with fewer, it borrows the layer's.
  static constexpr double kEnoughRows = 256;
  /// A number's bin: by sign, and 32 for each power of two, so that a bin's edges are 2 % apart.
  static constexpr Index kBins = 2048;

  /// Of `groups` groups of rows: a layer's experts; 1: of all rows.
  RangeObserver(const ObserverOptions& options, Index groups);

  /// Notes x [rows, columns], whose rows `offsets` divides into groups, from number `first` on.
  void see(Tape& tape, const Tensor& x, kernels::RowOffsets offsets, Index first);

  /// What was noted, to be combined over the ranks: `least` by taking the least of each, `sums` by adding up.
  std::span<double> least() { return least_; }
  std::span<double> sums() { return sums_; }
  /// Learns of that, and begins anew.
  void learn();
  void forget();

  /// Whether there is any range yet.
  bool has_seen();
  struct Scales {
    Tensor scale, zero_point;  ///< [count], in host memory
  };
  /// Of groups [first, first + count), from the tape's arena.
  Scales scales(Tape& tape, QuantLevels levels, Index first, Index count);

 private:
  std::span<double> bins(Index group) {
    return std::span(sums_).subspan(static_cast<std::size_t>(groups_ + group * kBins),
                                    static_cast<std::size_t>(kBins));
  }
  static const Tensor& on_host(const Buffer& buffer, Tensor& copy);

  ObserverOptions options_;
  Index groups_;
  Buffer& range_;                     // [groups, 2]: lowest, highest
  Buffer& rows_;                      // [groups] seen, up to 2^24
  Buffer* histogram_;                 // [groups, kBins], of the percentile
  Tensor copies_[3];                  // in host memory, of buffers that are a device's
  std::vector<double> least_, sums_;  // [groups, 2]: lowest, -highest; [groups] rows, [groups, kBins]
};

}  // namespace conclave
