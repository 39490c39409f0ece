// Sums of gradients in which each example's gradient is clipped to a norm, without storing a gradient per
// example. Differentially private training adds noise to such sums (DP-SGD, Abadi et al. 2016,
// arXiv:1607.00133). The method is book-keeping (Bu et al. 2022, arXiv:2210.00038, algorithm 1). It takes one
// backward pass, in which a function with parameters does not add to their gradients. Instead it notes the
// factors of the gradient (a layer's input, and the gradient of its output) and measures the norm of each
// example's part. Once the norms of all examples, and so their clipping factors, are known, the notes are
// turned into the sum of clipped gradients, by the same products that a plain backward pass computes.
//
// This costs next to no memory: notes are stored in place of activations that no function needs any more. If
// an example has more output rows than the product has inputs, as in convolutions, the example's gradient is
// smaller than the output's gradient, and is stored itself.
//
// A parameter may be used only once in a pass: the gradients of two uses would have to be added before their
// norm is measured.
#pragma once

#include <span>

#include "core/arena.h"
#include "core/kernels/segment_products.h"

namespace conclave {

class ExampleGradients;

/// Maps the rows that a function is given to examples: segment s belongs to example number examples[s]. Among
/// the rows that one parameter sees, an example has at most one segment.
struct ExampleRows {
  kernels::RowSegments segments;
  std::span<const Index> examples;        ///< [segments]
  ExampleGradients* gradients = nullptr;  ///< null: examples are not told apart

  explicit operator bool() const { return gradients != nullptr; }
};

class ExampleGradients {
 public:
  /// Allocates notes and norms from `arena`, a tape's. `examples`: number in the batch, over all ranks;
  /// `first`: number of this rank's first example.
  ExampleGradients(Arena& arena, Index examples, Index first = 0);
  ExampleGradients(const ExampleGradients&) = delete;
  ExampleGradients& operator=(const ExampleGradients&) = delete;

  /// Segments for this rank's examples in order, by offsets [examples here + 1] i32 of their rows, in host
  /// memory.
  ExampleRows sequences(const Tensor& offsets);
  /// Row (or image) i belongs to the rank's example examples[i].
  ExampleRows each(std::span<const std::int32_t> examples);
  /// The same segments with one row each.
  ExampleRows one_each(const ExampleRows& rows);

  Index first() const { return first_; }

  // Notes that functions take in the backward pass. `spare`: memory that the function no longer needs, as
  // large as the gradient of its output; or that gradient itself, if it is in memory of the function's own.

  /// y = x weight^T + bias, for groups of rows: x [rows, in], dz [rows, out], weight [groups, out, in], bias
  /// [groups, out] or undefined.
  void product(const ExampleRows& rows, const Tensor& dz, const Tensor& x, kernels::RowOffsets groups,
               const Tensor& weight, const Tensor& bias, const Tensor& spare);
  /// ids [rows] i32, dy [rows, columns], table [vocabulary, columns].
  void embedding(const ExampleRows& rows, const Tensor& dy, const Tensor& ids, const Tensor& table,
                 const Tensor& spare);
  /// Notes the gradients themselves, values [segments, ...], of a parameter that is no larger than an
  /// example's part of the input. `values` must stay unchanged until add_clipped().
  void gradients(const ExampleRows& rows, const Tensor& parameter, const Tensor& values);
  /// Memory for values [segments, shape]; taken from `spare` if that is free and large enough.
  Tensor room_for(const ExampleRows& rows, const Shape& shape, DType dtype, const Tensor& spare);

  /// [examples] squared norms of this rank's part of each example's gradient, complete after backward. Sum
  /// them over the ranks.
  std::span<double> squares() { return squares_; }
  /// Adds to the parameters' gradients the sum over i of factors[i] times this rank's part of example i's
  /// gradient. An example with factor 0 adds nothing, even if its numbers are not finite; its rows of the
  /// products' inputs are overwritten with 0. Call it once.
  void add_clipped(std::span<const double> factors);

 private:
  enum class Kind : std::uint8_t { product, embedding, values };
  struct Note {
    Kind kind;
    ExampleRows rows;
    Tensor values, input;  // by kind: dz and x; dy and ids; the gradients (values only)
    kernels::RowOffsets groups;
    std::span<const Index> group_of;  // [segments] group of each segment; empty if there is one group
    Tensor parameter, bias;           // gradients of the parameter and of its bias
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

/// factors[i] = min(1, bound / sqrt(squares[i])), which limits every norm to `bound`; 0 if the square is not
/// finite.
void clip_factors(std::span<const double> squares, double bound, std::span<double> factors);

}  // namespace conclave
