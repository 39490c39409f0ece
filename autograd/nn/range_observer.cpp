#include "autograd/nn/range_observer.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/kernels/quantized.h"

namespace conclave {
namespace {

constexpr double kNothing = std::numeric_limits<double>::infinity();
constexpr double kMostRows = 1 << 24;  // f32 can count up to this in steps of 1

// Bins of positive numbers from 2^-24 to 2^8, 32 per power of two; smaller and larger numbers are in the
// first and the last bin. Bins of negative numbers come before them, the most negative first.
constexpr Index kPositive = RangeObserver::kBins / 2;
constexpr double kPerOctave = 32, kFirstOctave = -24;

// x is not NaN
Index bin_of(double x) {
  const double at = std::floor((std::log2(std::fabs(x)) - kFirstOctave) * kPerOctave);
  const auto bin = static_cast<Index>(std::clamp<double>(at, 0, kPositive - 1));
  return x < 0 ? kPositive - 1 - bin : kPositive + bin;
}

// The edge of a bin that is farther from zero.
double edge_of(Index bin) {
  const bool negative = bin < kPositive;
  const Index size = negative ? kPositive - 1 - bin : bin - kPositive;
  if (size == 0) return 0;  // numbers too small for a bin of their own
  const double edge = std::exp2(static_cast<double>(size + 1) / kPerOctave + kFirstOctave);
  return negative ? -edge : edge;
}

// The edge beyond which a share of `outside` lies, counted from bin `first`. The outermost bin has no edge of
// its own; `extreme` replaces it: the extreme of the new inputs and of the previous range.
double percentile(const auto& counts, double total, double outside, Index first, Index step, double extreme) {
  double seen = 0;
  Index bin = first;
  for (Index left = RangeObserver::kBins; left > 1; --left, bin += step)
    if ((seen += static_cast<double>(counts[bin])) > outside * total) break;
  return bin == first ? extreme : edge_of(bin);
}

}  // namespace

RangeObserver::RangeObserver(const ObserverOptions& options, Index groups)
    : options_(options),
      groups_(groups),
      range_(add_buffer("range", {groups, 2}, 0, true)),
      rows_(add_buffer("rows", {groups}, 0, true)),
      histogram_(options.kind == ObserverOptions::Kind::percentile
                     ? &add_buffer("histogram", {groups, kBins}, 0, true)
                     : nullptr),
      least_(static_cast<std::size_t>(groups * 2)),
      sums_(static_cast<std::size_t>(groups * (histogram_ ? 1 + kBins : 1))) {
  forget();
}

void RangeObserver::forget() {
  std::ranges::fill(least_, kNothing);
  std::ranges::fill(sums_, 0);
}

void RangeObserver::see(Tape& tape, const Tensor& x, kernels::RowOffsets offsets, Index first) {
  const ArenaScope scope(tape.arena());
  const Index rows = x.size(0);
  const Tensor ends = tape.empty({2 * rows}, x.dtype());  // both in one tensor, so that one copy waits
  kernels::row_ranges(x, ends.rows(0, rows), ends.rows(rows, 2 * rows));
  const Tensor ends_here = tape.on_host(ends), low = ends_here.rows(0, rows),
               high = ends_here.rows(rows, 2 * rows);
  const Tensor values = histogram_ ? tape.on_host(x) : Tensor();
  const Index columns = x.size(1);
  for_floating(x.dtype(), "observe", [&]<class T>(T) {
    for (std::size_t g = 0; g + 1 < offsets.size(); ++g) {
      const Index group = first + static_cast<Index>(g);
      double& least = least_[static_cast<std::size_t>(group * 2)];
      double& negated = least_[static_cast<std::size_t>(group * 2 + 1)];
      for (Index row = offsets[g]; row < offsets[g + 1]; ++row) {
        least = std::min(least, static_cast<double>(low.data<T>()[row]));
        negated = std::min(negated, -static_cast<double>(high.data<T>()[row]));
      }
      sums_[static_cast<std::size_t>(group)] += static_cast<double>(offsets[g + 1] - offsets[g]);
      if (!histogram_) continue;
      const std::span<double> counts = bins(group);
      for (Index row = offsets[g]; row < offsets[g + 1]; ++row)
        for (Index i = 0; i < columns; ++i) {
          const auto value = static_cast<double>(values.data<T>()[row * columns + i]);
          if (!std::isnan(value)) ++counts[static_cast<std::size_t>(bin_of(value))];
        }
    }
  });
}

void RangeObserver::learn() {
  const Tensor &range = range_.values, &rows = rows_.values;
  for_floating(range.dtype(), "observe", [&]<class T>(T) {
    for (Index g = 0; g < groups_; ++g) {
      const double seen = sums_[static_cast<std::size_t>(g)];
      if (seen == 0) continue;
      T& before = rows.data<T>()[g];
      T* ends = range.data<T>() + 2 * g;
      double lowest = least_[static_cast<std::size_t>(2 * g)],
             highest = -least_[static_cast<std::size_t>(2 * g + 1)];
      const auto old_lowest = static_cast<double>(ends[0]), old_highest = static_cast<double>(ends[1]);
      if (histogram_) {
        T* counts = histogram_->values.data<T>() + g * kBins;
        const std::span<double> now = bins(g);
        double total = 0;
        for (std::size_t bin = 0; bin < now.size(); ++bin) {
          counts[bin] = static_cast<T>((1 - options_.momentum) * static_cast<double>(counts[bin]) + now[bin]);
          total += static_cast<double>(counts[bin]);
        }
        const double outside = (1 - options_.percentile / 100) / 2;
        lowest = percentile(counts, total, outside, 0, 1, std::min(lowest, old_lowest));
        highest = percentile(counts, total, outside, kBins - 1, -1, std::max(highest, old_highest));
      } else if (before > 0 && options_.kind == ObserverOptions::Kind::min_max) {
        lowest = std::min(lowest, old_lowest);
        highest = std::max(highest, old_highest);
      } else if (before > 0) {
        lowest = old_lowest + options_.momentum * (lowest - old_lowest);
        highest = old_highest + options_.momentum * (highest - old_highest);
      }
      ends[0] = static_cast<T>(lowest);
      ends[1] = static_cast<T>(highest);
      before = static_cast<T>(std::min(static_cast<double>(before) + seen, kMostRows));
    }
  });
  forget();
}

bool RangeObserver::has_seen() const {
  const Tensor& rows = rows_.values;
  return for_floating(rows.dtype(), "observe", [&]<class T>(T) {
    return std::ranges::any_of(rows.span<T>(), [](T seen) { return seen > 0; });
  });
}

RangeObserver::Scales RangeObserver::scales(Tape& tape, QuantLevels levels, Index first, Index count) const {
  const Tensor &range = range_.values, &rows = rows_.values;
  const auto of_groups = [&] { return tape.arena().empty_on_host({count}, range.dtype()); };
  const Scales result{of_groups(), of_groups()};
  for_floating(range.dtype(), "observe", [&]<class T>(T) {
    const T *ends = range.data<T>(), *seen = rows.data<T>();
    T layer_lowest = 0, layer_highest = 0;
    for (Index g = 0; g < groups_; ++g) {
      layer_lowest = std::min(layer_lowest, ends[2 * g]);
      layer_highest = std::max(layer_highest, ends[2 * g + 1]);
    }
    for (Index i = 0; i < count; ++i) {
      const Index g = first + i;
      const bool own = groups_ == 1 || static_cast<double>(seen[g]) >= kEnoughRows;
      result.scale.data<T>()[i] =
          kernels::range_scale(own ? ends[2 * g] : layer_lowest, own ? ends[2 * g + 1] : layer_highest,
                               levels, result.zero_point.data<T>()[i]);
    }
  });
  return result;
}

}  // namespace conclave
