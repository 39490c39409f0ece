#include "autograd/example_gradients.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

#include "autograd/tape.h"
#include "core/kernels/activation.h"
#include "core/kernels/embedding.h"

namespace conclave {
namespace {

// The parameter's gradient. Backward has counted the uses, so this can check that it is the only use in the
// pass.
Tensor gradient_of(const char* function, const Tensor& parameter) {
  GradientSlot* slot = parameter.slot;
  require(slot && slot->parameter,
          "{}: some of its weights are parameters and others are computed; the norm of an example's gradient "
          "can only be measured if all of them are parameters",
          function);
  require(slot->pending == 1,
          "{}: a parameter is used several times in one pass, so the norm of an example's gradient cannot be "
          "measured; let no layers share parameters",
          function);
  return slot->gradient.reshape(parameter.shape());
}

// Zeroes the rows of examples with factor 0: 0 times infinity or NaN would not be 0.
void zero_left_out(const Tensor& x, const kernels::RowSegments& segments, std::span<const double> factors) {
  for (Index s = 0; s < segments.count(); ++s)
    if (factors[static_cast<std::size_t>(s)] == 0) x.rows(segments.begin(s), segments.end(s)).zero();
}

}  // namespace

ExampleGradients::ExampleGradients(Arena& arena, Index examples, Index first)
    : arena_(arena), first_(first), squares_(arena.array<double>(examples)) {}

ExampleRows ExampleGradients::sequences(const Tensor& offsets) {
  const auto bounds = offsets.span<std::int32_t>();
  const auto copy = arena_.array<Index>(offsets.numel()), numbers = arena_.array<Index>(offsets.numel() - 1);
  std::ranges::copy(bounds, copy.begin());
  std::iota(numbers.begin(), numbers.end(), first_);
  return {{copy}, numbers, this};
}

ExampleRows ExampleGradients::each(std::span<const std::int32_t> examples) {
  const auto count = static_cast<Index>(examples.size());
  const auto offsets = arena_.array<Index>(count + 1), numbers = arena_.array<Index>(count);
  std::iota(offsets.begin(), offsets.end(), Index{0});
  std::ranges::transform(examples, numbers.begin(), [&](std::int32_t example) { return first_ + example; });
  return {{offsets}, numbers, this};
}

ExampleRows ExampleGradients::one_each(const ExampleRows& rows) {
  const auto offsets = arena_.array<Index>(rows.segments.count() + 1);
  std::iota(offsets.begin(), offsets.end(), Index{0});
  return {{offsets}, rows.examples, this};
}

void ExampleGradients::note(Note note) {
  note.previous = last_;
  last_ = new (arena_.allocate(sizeof(Note))) Note(std::move(note));
}

bool ExampleGradients::is_free(const Tensor& memory) const {
  const auto begin = [](const Tensor& tensor) { return static_cast<const std::byte*>(tensor.raw()); };
  for (const Note* note = last_; note; note = note->previous)
    for (const Tensor* kept : {&note->values, &note->input})
      if (kept->defined() && std::less()(begin(*kept), begin(memory) + memory.bytes()) &&
          std::less()(begin(memory), begin(*kept) + kept->bytes()))
        return false;
  return true;
}

Tensor ExampleGradients::keep(const Tensor& values, const Tensor& spare) {
  if (spare.raw() == values.raw()) return values;
  const bool fits = spare.defined() && spare.bytes() >= values.bytes() && is_free(spare);
  const Tensor kept = fits ? Tensor::borrow(spare.raw(), values.shape(), values.dtype())
                           : arena_.empty(values.shape(), values.dtype());
  kernels::scale(values, 1.0, kept);
  return kept;
}

Tensor ExampleGradients::room_for(const ExampleRows& rows, const Shape& shape, DType dtype,
                                  const Tensor& spare) {
  const Index count = rows.segments.count();
  std::array<Index, Shape::kMaxRank> extents{count};
  std::ranges::copy(shape.extents(), extents.begin() + 1);
  const Shape all(std::span<const Index>(extents).first(static_cast<std::size_t>(shape.rank()) + 1));
  const bool fits = spare.defined() && spare.numel() >= all.numel() && is_free(spare);
  return fits ? Tensor::borrow(spare.raw(), all, dtype) : arena_.empty(all, dtype);
}

void ExampleGradients::add_squares(const ExampleRows& rows, std::span<const double> of_segments) {
  for (std::size_t s = 0; s < of_segments.size(); ++s)
    squares_[static_cast<std::size_t>(rows.examples[s])] += of_segments[s];
}

// The group of each segment; empty if there is one group. A segment must lie within one group.
std::span<const Index> ExampleGradients::groups_of(const ExampleRows& rows, kernels::RowOffsets groups) {
  if (groups.size() <= 2) return {};
  const auto found = arena_.array<Index>(rows.segments.count());
  Index group = 0;
  for (Index s = 0; s < rows.segments.count(); ++s) {
    const Index begin = rows.segments.begin(s), end = rows.segments.end(s);
    while (begin < end && groups[static_cast<std::size_t>(group) + 1] <= begin) ++group;
    require(end <= groups[static_cast<std::size_t>(group) + 1] || begin == end,
            "linear: rows [{}, {}) belong to one example but to two groups", begin, end);
    found[static_cast<std::size_t>(s)] = group;
  }
  return found;
}

void ExampleGradients::product(const ExampleRows& rows, const Tensor& dz, const Tensor& x,
                               kernels::RowOffsets groups, const Tensor& weight, const Tensor& bias,
                               const Tensor& spare) {
  const Tensor dweight = gradient_of("linear", weight),
               dbias = bias.defined() ? gradient_of("linear", bias) : Tensor();
  const Index count = rows.segments.count(), out = dz.size(1), in = x.size(1);
  const bool small = count * in <= dz.size(0);  // the gradients of all examples are no larger than dz
  const auto group_of = groups_of(rows, groups);
  Tensor sums;
  if (bias.defined() && small) sums = arena_.empty({count, out}, dz.dtype());
  Tensor kept;
  if (small) {
    kept = room_for(rows, {out, in}, dz.dtype(), spare.raw() == dz.raw() ? Tensor() : spare);
    kernels::segment_products(dz, x, rows.segments, kept);
  } else {
    kept = keep(dz, spare);
  }
  {
    const ArenaScope scope(arena_);
    const auto squares = arena_.array<double>(count);
    if (small)
      kernels::add_segment_squares(kept, squares);
    else
      kernels::add_product_squares(dz, x, rows.segments, squares);
    if (bias.defined()) {
      const Tensor of_bias = small ? sums : arena_.empty({count, out}, dz.dtype());
      kernels::segment_sums(dz, rows.segments, of_bias);
      kernels::add_segment_squares(of_bias, squares);
    }
    add_squares(rows, squares);
  }
  if (!small) return note({Kind::product, rows, kept, x, groups, {}, dweight, dbias, nullptr});
  note({Kind::values, rows, kept, {}, {}, group_of, dweight, {}, nullptr});
  if (bias.defined()) note({Kind::values, rows, sums, {}, {}, group_of, dbias, {}, nullptr});
}

void ExampleGradients::embedding(const ExampleRows& rows, const Tensor& dy, const Tensor& ids,
                                 const Tensor& table, const Tensor& spare) {
  const Tensor dtable = gradient_of("embedding", table), kept = keep(dy, spare);
  {
    const ArenaScope scope(arena_);
    const auto squares = arena_.array<double>(rows.segments.count());
    kernels::add_embedding_squares(dy, ids, rows.segments, squares);
    add_squares(rows, squares);
  }
  note({Kind::embedding, rows, kept, ids, {}, {}, dtable, {}, nullptr});
}

void ExampleGradients::gradients(const ExampleRows& rows, const Tensor& parameter, const Tensor& values) {
  const Tensor gradient = gradient_of("gradients", parameter);
  {
    const ArenaScope scope(arena_);
    const auto squares = arena_.array<double>(rows.segments.count());
    kernels::add_segment_squares(values, squares);
    add_squares(rows, squares);
  }
  note({Kind::values, rows, values, {}, {}, {}, gradient, {}, nullptr});
}

void ExampleGradients::add_clipped(std::span<const double> factors) {
  require(factors.size() == squares_.size(), "clipping: {} factors for {} examples", factors.size(),
          squares_.size());
  for (Note* note = std::exchange(last_, nullptr); note; note = note->previous) {
    const ArenaScope scope(arena_);
    const auto of_segments = arena_.array<double>(note->rows.segments.count());
    for (std::size_t s = 0; s < of_segments.size(); ++s)
      of_segments[s] = factors[static_cast<std::size_t>(note->rows.examples[s])];
    switch (note->kind) {
      case Kind::values:
        kernels::add_weighted(note->values, of_segments, note->group_of, note->parameter);
        break;
      case Kind::product:
        kernels::scale_segments(note->values, note->rows.segments, of_segments);
        zero_left_out(note->input, note->rows.segments, of_segments);
        kernels::grouped_linear_backward_parameters(note->values, note->input, note->groups, note->parameter,
                                                    note->bias);
        break;
      case Kind::embedding:
        kernels::scale_segments(note->values, note->rows.segments, of_segments);
        kernels::embedding_backward(note->values, note->input, note->parameter);
        break;
    }
  }
}

void clip_factors(std::span<const double> squares, double bound, std::span<double> factors) {
  std::ranges::transform(squares, factors.begin(), [&](double square) {
    if (square <= bound * bound) return 1.0;
    return std::isfinite(square) ? bound / std::sqrt(square) : 0.0;  // infinite or NaN: excluded
  });
}

}  // namespace conclave
