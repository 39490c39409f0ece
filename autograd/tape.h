// The tape records a forward pass, so that backward() can walk it in reverse. A function records one node: a
// closure that reads the gradients of its outputs and adds to those of its inputs. Nodes, closures and
// gradients live in the step's activation arena; recording and walking allocate nothing on the heap. The
// memory of a gradient is reused as soon as the function whose output it belongs to has run its backward,
// while it is still in the cache: only a few gradients are alive at a time.
//
// backward() may run more than once over one recording, with other gradients of the loss.
#pragma once

#include <array>
#include <cstring>
#include <initializer_list>
#include <new>
#include <span>
#include <type_traits>
#include <vector>

#include "autograd/example_gradients.h"
#include "core/arena.h"
#include "core/kernels/kernel.h"

namespace conclave {

/// Rows [begin, end) of a tensor.
struct RowRange {
  Tensor whole;
  Index begin = 0, end = 0;
};

/// Holds one tensor's gradient. Gradients of parameters are allocated for good; those of activations live in
/// the arena for one step.
struct GradientSlot {
  Tensor gradient;         ///< same shape and dtype as the tensor; undefined until the first contribution
  bool parameter = false;  ///< gradients accumulate until the optimizer zeroes them
  int pending = 0;         ///< recorded uses whose backward has not run yet
  void (*on_ready)(void* context,
                   GradientSlot& slot) = nullptr;  ///< called when pending falls to 0 in backward
  void* context = nullptr;
  const RowRange* range = nullptr;  ///< set by Tape::range: where this gradient is
  Tensor* panels = nullptr;         ///< set for parameters in inference: points to Parameter::panels
};

/// A gradient to write to, and how to write: the first contribution assigns, later ones add.
struct GradientTarget {
  Tensor gradient;
  Write write = Write::assign;
};

class Tape {
 public:
  static constexpr std::size_t kMostInputs = 16;  ///< inputs of one node
  static constexpr std::size_t kMostOutputs = 2;  ///< outputs of one node

  /// Activations and nodes are allocated from `arena`. With `recording` false, nothing is recorded
  /// (evaluation).
  explicit Tape(Arena& arena, bool recording = true) : arena_(arena), recording_(recording) {}
  Tape(const Tape&) = delete;
  Tape& operator=(const Tape&) = delete;

  Arena& arena() { return arena_; }
  bool recording() const { return recording_; }
  /// True while the arena is being sized: work that depends on the data must then take the most memory it
  /// ever could.
  bool planning() const { return may_plan_ && !arena_.sealed(); }
  /// Ends planning although the arena is not sealed, for arenas that may keep growing: work then depends on
  /// the data.
  void stop_planning() { may_plan_ = false; }

  Tensor empty(const Shape& shape, DType dtype) { return arena_.empty(shape, dtype); }
  /// For tapes that do not record, in host memory: releases all memory taken since `mark` except x, and moves
  /// x to the start of it, so that the following functions find their memory in the cache. Other tapes return
  /// x itself.
  Tensor keep_only(const Tensor& x, const Arena::Bytes& mark);

  /// The device of the activations; inputs of functions must be on the same device.
  Device device() const { return arena_.device(); }
  /// Returns `tensor` itself if it is in host memory; else a copy in the arena's host memory, made after all
  /// work queued before is done.
  Tensor on_host(const Tensor& tensor);
  /// Returns `tensor`, which is in host memory, or a copy of it on device(). Memory that is not the arena's
  /// may change as soon as this returns. Memory of the arena may change or be released only after waiting for
  /// the device.
  Tensor on_device(const Tensor& tensor);

  /// From now on, functions with parameters note each example's gradient in `gradients` instead of adding to
  /// the parameters' gradients. `gradients` must outlive the recording. A function that does not support this
  /// fails in backward.
  void collect_example_gradients(ExampleGradients& gradients) { examples_.gradients = &gradients; }
  /// Null if examples are not told apart.
  ExampleGradients* example_gradients() const { return examples_.gradients; }
  /// Sets which examples the rows of functions with parameters belong to from now on.
  void set_example_rows(const ExampleRows& rows) { examples_ = rows; }
  const ExampleRows& examples() const { return examples_; }
  /// The same examples with one row each; empty if they are not told apart.
  ExampleRows one_row_each() const {
    return examples_ ? examples_.gradients->one_each(examples_) : examples_;
  }
  /// The examples of a function's `rows` rows; empty if examples are not told apart or none of `parameters`
  /// is a parameter. Throws Error if set_example_rows() was not called or its number of rows does not fit.
  ExampleRows examples_of(const char* function, Index rows,
                          std::initializer_list<const Tensor*> parameters) const;

  /// Allocates an output tensor. It gets a gradient slot if this tape records and any of `inputs` has a slot.
  Tensor output(const Shape& shape, DType dtype, std::span<const Tensor* const> inputs);
  Tensor output(const Shape& shape, DType dtype, std::initializer_list<const Tensor*> inputs) {
    return output(shape, dtype, std::span(inputs.begin(), inputs.size()));
  }
  /// Gives `tensor` a slot, which makes it a leaf with a gradient that can be read after backward (tests,
  /// re-computation).
  void watch(Tensor& tensor);
  /// A handle of the same elements with its own slot, if `tensor` has one. A node recorded from `tensor` to
  /// it then runs when the gradient passes through.
  Tensor tap(const Tensor& tensor);
  /// Rows [begin, end) of x as a view. Its gradient is the same rows of x's gradient. Record a node from x to
  /// each range; backward always runs it, with zeros for rows that no gradient reached. The ranges of x must
  /// cover each row exactly once, and x must have no other use.
  Tensor range(const Tensor& x, Index begin, Index end);

  /// Records how gradients flow from `outputs` to `inputs`. `backward` is called as backward(Tape&) if at
  /// least one output has a gradient. It is never destroyed, so it must be trivially destructible except for
  /// Tensor handles of memory that the arena owns or that lives longer. `name` must outlive the tape. Does
  /// nothing if no output has a slot. Throws Error for more than kMostInputs inputs or kMostOutputs outputs;
  /// a function with more records several nodes.
  template <class Backward>
  void record(const char* name, std::span<const Tensor* const> inputs,
              std::initializer_list<const Tensor*> outputs, Backward backward);
  template <class Backward>
  void record(const char* name, std::initializer_list<const Tensor*> inputs,
              std::initializer_list<const Tensor*> outputs, Backward backward) {
    record(name, std::span(inputs.begin(), inputs.size()), outputs, std::move(backward));
  }

  /// The gradient that has arrived at an output; zeros if none reached this one of several outputs. Throws
  /// Error if the output has no slot.
  Tensor gradient(const Tensor& output);
  /// The target for a function's contribution to the gradient of `input`. Throws Error if `input` has no
  /// slot: ask `if (input.slot)` first.
  GradientTarget into(const Tensor& input);

  /// Adds `dy` to `input`'s gradient, if `input` has a slot. The first contribution is not copied: `input`
  /// takes over the memory of dy, so a function calls this after its last use of dy.
  void pass_gradient(const Tensor& dy, const Tensor& input);

  /// A tensor to start from, and its gradient (same shape and dtype).
  struct Loss {
    Tensor values, seed;
  };
  /// Walks the tape in reverse from the losses. Parameter gradients accumulate.
  void backward(std::span<const Loss> losses);
  void backward(const Tensor& loss, const Tensor& seed) { backward(std::array{Loss{loss, seed}}); }

  /// Name of the first recorded function whose output is not finite, or null; used to report where a NaN
  /// began.
  const char* first_non_finite() const;
  /// Sets the label of functions recorded from now on ("layers.1.moe"), which error messages show.
  void enter(const char* scope) { scope_ = scope; }
  const char* non_finite_scope() const { return non_finite_scope_; }

 private:
  struct Node {
    const char* name;
    const char* scope;
    void (*run)(void* closure, Tape& tape);
    void* closure;
    std::array<GradientSlot*, kMostInputs> inputs;
    std::array<GradientSlot*, kMostOutputs> outputs;
    Tensor first_output;
    Node* previous;
  };

  Node& add(const char* name, std::span<const Tensor* const> inputs,
            std::initializer_list<const Tensor*> outputs);
  GradientSlot* new_slot();
  void settle(GradientSlot* slot);
  Tensor gradient_memory(const Shape& shape, DType dtype);
  Tensor gradient_within(const RowRange& range);
  void recycle(const Node& node);

  Arena& arena_;
  bool recording_, may_plan_ = true;
  ExampleRows examples_;
  Node* last_ = nullptr;
  std::array<Tensor, 16> free_;  // memory of finished gradients, the latest last
  std::size_t free_count_ = 0;
  const char *scope_ = "",
             *walking_ = "before backward()";  // label of what is recorded; name of what is walked
  mutable const char* non_finite_scope_ = "";
};

template <class Backward>
void Tape::record(const char* name, std::span<const Tensor* const> inputs,
                  std::initializer_list<const Tensor*> outputs, Backward backward) {
  bool wanted = false;
  for (const Tensor* output : outputs) wanted = wanted || output->slot;
  if (!wanted) return;
  Node& node = add(name, inputs, outputs);
  // Never destroyed: the arena just reuses its memory. Tensor handles of borrowed memory have no owner to
  // release.
  node.closure = new (arena_.allocate(sizeof(Backward))) Backward(std::move(backward));
  node.run = [](void* closure, Tape& tape) { (*static_cast<Backward*>(closure))(tape); };
}

/// Replaces the tape's example rows until the end of a scope.
class ExampleScope {
 public:
  ExampleScope(Tape& tape, const ExampleRows& rows) : tape_(tape), before_(tape.examples()) {
    tape_.set_example_rows(rows);
  }
  ~ExampleScope() { tape_.set_example_rows(before_); }
  ExampleScope(const ExampleScope&) = delete;
  ExampleScope& operator=(const ExampleScope&) = delete;

 private:
  Tape& tape_;
  ExampleRows before_;
};

}  // namespace conclave
