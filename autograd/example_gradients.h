// Gradients of which each example's part has a bounded norm, without a gradient for each example: what
// differentially private training adds noise to (DP-SGD, Abadi et al. 2016, arXiv:1607.00133). By
// book-keeping (Bu et al. 2022, arXiv:2210.00038, algorithm 1): one backward pass, in which a function with
// parameters does not add to their gradients, but notes down what they are made of (a layer's input, and the
// gradient of its output) and what each example's part of them measures; once the norms of all examples are
// known, and so the factors that clip them, the notes become the sum of clipped gradients, by the very
// products that a plain backward pass has.
//
// It costs next to no memory: notes take the place of activations that no function needs any more. Where a
// product has more rows of an example than inputs, as convolutions do, its example's gradient is smaller than
// the output's, and is what is noted down.
//
// A parameter may be used once in a pass: gradients of two uses would have to be added up before they are
// measured.
#pragma once

#include <span>

#include "core/arena.h"
#include "core/kernels/segment_products.h"

namespace conclave {

class ExampleGradients;

/// Which example the rows are of that a function is given: segment s is of example number examples[s]. Of
/// rows that one parameter sees, an example has one segment.
struct ExampleRows {
  kernels::RowSegments segments;
  std::span<const Index> examples;        ///< [segments]
  ExampleGradients* gradients = nullptr;  ///< null: nobody asks

  explicit operator bool() const { return gradients != nullptr; }
};

class ExampleGradients {
 public:
  /// Notes and norms are taken from `arena`, a tape's; of `examples` in the batch, over all ranks, this
  /// rank's begin with number `first`.
  ExampleGradients(Arena& arena, Index examples, Index first = 0);
  ExampleGradients(const ExampleGradients&) = delete;
  ExampleGradients& operator=(const ExampleGradients&) = delete;

  /// The rank's examples, one after the other, by offsets [examples here + 1] i32 of their rows, in host
  /// memory.
  ExampleRows sequences(const Tensor& offsets);
  /// Row (or image) i is of the rank's example examples[i].
  ExampleRows each(std::span<const std::int32_t> examples);
  /// The segments of `rows`, with one row each.
  ExampleRows one_each(const ExampleRows& rows);

  Index first() const { return first_; }

  // What functions note down in the backward pass. `spare`: memory that they need no more, as large as the
  // gradient of their output, or that gradient itself, where it is their own.

  /// y = x weight^T + bias, for groups of rows: x [rows, in], dz [rows, out], weight [groups, out, in], bias
  /// [groups, out] or undefined.
  void product(const ExampleRows& rows, const Tensor& dz, const Tensor& x, kernels::RowOffsets groups,
               const Tensor& weight, const Tensor& bias, const Tensor& spare);
  /// ids [rows] i32, dy [rows, columns], table [vocabulary, columns].
  void embedding(const ExampleRows& rows, const Tensor& dy, const Tensor& ids, const Tensor& table,
                 const Tensor& spare);
  /// The gradients themselves, values [segments, ...], of a parameter that is as large as an example's part
  /// of what it is applied to, or smaller. They stay as they are until add_clipped().
  void gradients(const ExampleRows& rows, const Tensor& parameter, const Tensor& values);
  /// Room for values [segments, shape], in spare where that is free and large enough.
  Tensor room_for(const ExampleRows& rows, const Shape& shape, DType dtype, const Tensor& spare);

  /// [examples] squared norms of this rank's part of their gradients, once backward is done: to be added up
  /// over the ranks.
  std::span<double> squares() { return squares_; }
  /// Adds to the parameters' gradients the sum of factors[i] times the gradient of example i, as far as it is
  /// on this rank. Once.
  void add_clipped(std::span<const double> factors);

 private:
  enum class Kind : std::uint8_t { product, embedding, values };
  struct Note {
    Kind kind;
    ExampleRows rows;
    Tensor values, input;  // dz and x; dy and ids; the gradients
    kernels::RowOffsets groups;
    std::span<const Index> group_of;  // [segments]; empty where there is one group
    Tensor parameter, bias;           // their gradients
    Note* previous;
  };

  void note(Note note);
  bool is_free(const Tensor& memory) const;
  Tensor keep(const Tensor& values, const Tensor& spare);
  void add_squares(const ExampleRows& rows, std::span<const double> of_segments);
  std::span<const Index> groups_of(const ExampleRows& rows, kernels::RowOffsets groups);

  Arena& arena_;
  Index first_;
  std::span<double> squares_;
  Note* last_ = nullptr;
};

/// min(1, bound / norm) for each of the norms' squares: what makes every norm at most `bound`.
void clip_factors(std::span<const double> squares, double bound, std::span<double> factors);

}  // namespace conclave
