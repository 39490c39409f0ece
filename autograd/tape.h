// The tape remembers what a forward pass did, so that backward() can walk it in reverse. A function records
// one node: a closure that reads its outputs' gradients and adds to its inputs'. Nodes, closures and
// gradients live in the step's activation arena; recording and walking allocate nothing. A gradient's memory
// is used again as soon as the function that it came to has passed it on, while it is still in the cache: of
// all gradients, a few are alive at a time.
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

/// Where one tensor's gradient goes. Parameters own theirs for good; activations' live in the arena for one
/// step.
struct GradientSlot {
  Tensor gradient;         ///< same shape and dtype as the tensor; undefined until something flows
  bool parameter = false;  ///< gradients accumulate until the optimizer zeroes them
  int pending = 0;         ///< recorded uses whose backward has not run yet
  void (*on_ready)(void* context,
                   GradientSlot& slot) = nullptr;  ///< called when pending falls to 0 in backward
  void* context = nullptr;
  const RowRange* range = nullptr;  ///< of Tape::range's tensors: in whose gradient theirs is
  Tensor* panels = nullptr;         ///< of a parameter for inference: Parameter::panels
};

/// A gradient to write to, and how: the first contribution assigns, later ones add.
struct GradientTarget {
  Tensor gradient;
  Write write = Write::assign;
};

class Tape {
 public:
  static constexpr std::size_t kMostInputs = 16;  ///< of one node

  /// Activations and nodes are taken from `arena`. `recording` false: nothing is remembered (evaluation).
  explicit Tape(Arena& arena, bool recording = true) : arena_(arena), recording_(recording) {}
  Tape(const Tape&) = delete;
  Tape& operator=(const Tape&) = delete;

  Arena& arena() { return arena_; }
  bool recording() const { return recording_; }
  /// True while the arena is being sized: work that depends on the data then takes the most it ever could.
  bool planning() const { return may_plan_ && !arena_.sealed(); }
  /// For an arena that may go on growing: the work is done as the data has it.
  void stop_planning() { may_plan_ = false; }

  Tensor empty(const Shape& shape, DType dtype) { return arena_.empty(shape, dtype); }
  /// Where nothing is recorded, in host memory: gives back all that was taken since `mark` but x, which moves
  /// to the front of it, so that what follows finds its memory in the cache. Else x itself.
  Tensor keep_only(const Tensor& x, const Arena::Bytes& mark);

  /// Where its activations are; the inputs of functions must be there, too.
  Device device() const { return arena_.device(); }
  /// `tensor` itself where it is in host memory; else its copy there, in the arena, once all that was queued
  /// before is done.
  Tensor on_host(const Tensor& tensor);
  /// `tensor`, which is in host memory, itself or as a copy on device(). Unless it is the arena's own, it may
  /// change as soon as this returns. What is the arena's may change, or be given back, once the device was
  /// waited for.
  Tensor on_device(const Tensor& tensor);

  /// From now on, functions tell examples' gradients apart, which must outlive the tape's recording, rather
  /// than add to those of parameters. A function that cannot fails in backward.
  void tell_examples_apart(ExampleGradients& gradients) { examples_.gradients = &gradients; }
  /// Null: as usual.
  ExampleGradients* example_gradients() const { return examples_.gradients; }
  /// Which rows functions with parameters are given from now on.
  void rows_are_of(const ExampleRows& rows) { examples_ = rows; }
  const ExampleRows& examples() const { return examples_; }
  /// The same examples, with one row each; nothing where they are not told apart.
  ExampleRows one_row_each() const {
    return examples_ ? examples_.gradients->one_each(examples_) : examples_;
  }
  /// Of a function's `rows` rows with these parameters, if examples are told apart and any of these is one.
  /// Throws Error where rows_are_of() said nothing, or that of other numbers of rows.
  ExampleRows examples_of(const char* function, Index rows,
                          std::initializer_list<const Tensor*> parameters) const;

  /// An output tensor; it gets a gradient slot if this tape records and any of `inputs` has one.
  Tensor output(const Shape& shape, DType dtype, std::span<const Tensor* const> inputs);
  Tensor output(const Shape& shape, DType dtype, std::initializer_list<const Tensor*> inputs) {
    return output(shape, dtype, std::span(inputs.begin(), inputs.size()));
  }
  /// Gives `tensor` a slot, making it a leaf whose gradient can be asked for after backward (tests,
  /// re-computation).
  void watch(Tensor& tensor);
  /// A handle of the same elements with a slot of its own, where `tensor` has one: what comes back through it
  /// is seen on the way, by a node from `tensor` to it.
  Tensor tap(const Tensor& tensor);
  /// Rows [begin, end) of x as a view, whose gradient is those rows of x's gradient. Each range wants a node
  /// from x to it, which backward always runs: rows that no gradient flows into are zeros. x must have no
  /// other use than ranges that together are all its rows, each once.
  Tensor range(const Tensor& x, Index begin, Index end);

  /// Remembers how gradients flow from `outputs` to `inputs`. `backward` is called as backward(Tape&) when at
  /// least one output has a gradient; it must be trivially destructible but for Tensor handles of arena or
  /// longer-lived memory. `name` must outlive the tape. Does nothing where no output has a slot.
  template <class Backward>
  void record(const char* name, std::span<const Tensor* const> inputs,
              std::initializer_list<const Tensor*> outputs, Backward backward);
  template <class Backward>
  void record(const char* name, std::initializer_list<const Tensor*> inputs,
              std::initializer_list<const Tensor*> outputs, Backward backward) {
    record(name, std::span(inputs.begin(), inputs.size()), outputs, std::move(backward));
  }

  /// The gradient that has arrived at an output; zeros where nothing flowed into this one of several outputs.
  Tensor gradient(const Tensor& output);
  /// Where a function's backward adds its contribution to `input`, which must have a slot.
  GradientTarget into(const Tensor& input);

  /// Adds `dy` itself to `input`'s gradient, where it wants one. The first contribution is not copied:
  /// `input` takes the memory over, so a function calls this last of all that it does with dy.
  void hand_on(const Tensor& dy, const Tensor& input);

  /// A tensor to start from and the gradient it starts with (same shape and dtype).
  struct Loss {
    Tensor values, seed;
  };
  /// Walks the tape in reverse from the losses. Parameter gradients accumulate.
  void backward(std::span<const Loss> losses);
  void backward(const Tensor& loss, const Tensor& seed) { backward(std::array{Loss{loss, seed}}); }

  /// Name of the first recorded function whose output is not finite, or null; for saying where a NaN began.
  const char* first_non_finite() const;
  /// A label that functions recorded from now on carry ("layers.1.moe"); shown when something goes wrong in
  /// them.
  void enter(const char* scope) { scope_ = scope; }
  const char* non_finite_scope() const { return non_finite_scope_; }

 private:
  struct Node {
    const char* name;
    const char* scope;
    void (*run)(void* closure, Tape& tape);
    void* closure;
    std::array<GradientSlot*, kMostInputs> inputs;
    std::array<GradientSlot*, 2> outputs;
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
  std::array<Tensor, 16> free_;  // memory of gradients that are done with, the latest last
  std::size_t free_count_ = 0;
  const char *scope_ = "", *walking_ = "";  // what is recorded, or walked
  mutable const char* non_finite_scope_ = "";
};

template <class Backward>
void Tape::record(const char* name, std::span<const Tensor* const> inputs,
                  std::initializer_list<const Tensor*> outputs, Backward backward) {
  bool wanted = false;
  for (const Tensor* output : outputs) wanted = wanted || output->slot;
  if (!wanted) return;
  Node& node = add(name, inputs, outputs);
  // Never destroyed: the arena forgets it. Tensor handles of borrowed memory have no owner to release.
  node.closure = new (arena_.allocate(sizeof(Backward))) Backward(std::move(backward));
  node.run = [](void* closure, Tape& tape) { (*static_cast<Backward*>(closure))(tape); };
}

/// Until the end of a scope, functions are given rows of other examples.
class ExampleScope {
 public:
  ExampleScope(Tape& tape, const ExampleRows& rows) : tape_(tape), before_(tape.examples()) {
    tape_.rows_are_of(rows);
  }
  ~ExampleScope() { tape_.rows_are_of(before_); }
  ExampleScope(const ExampleScope&) = delete;
  ExampleScope& operator=(const ExampleScope&) = delete;

 private:
  Tape& tape_;
  ExampleRows before_;
};

}  // namespace conclave
