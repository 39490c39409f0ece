#include "autograd/tape.h"

#include <algorithm>

#include "core/kernels/activation.h"
#include "core/kernels/reduction.h"
#include "core/timeline.h"

namespace conclave {

GradientSlot* Tape::new_slot() { return new (arena_.allocate(sizeof(GradientSlot))) GradientSlot(); }

Tensor Tape::output(const Shape& shape, DType dtype, std::span<const Tensor* const> inputs) {
  Tensor result = arena_.empty(shape, dtype);
  bool wanted = false;
  for (const Tensor* input : inputs) wanted = wanted || input->slot;
  if (recording_ && wanted) result.slot = new_slot();
  return result;
}

Tensor Tape::on_host(const Tensor& tensor) {
  if (tensor.device() == Device::cpu) return tensor;
  const Tensor copy = arena_.empty_on_host(tensor.shape(), tensor.dtype());
  copy.copy_from(tensor);
  return copy;
}

Tensor Tape::on_device(const Tensor& tensor) {
  if (!tensor.defined() || tensor.device() == device()) return tensor;
  Tensor from = tensor;
  if (!arena_.holds_on_host(tensor)) {
    from = arena_.empty_on_host(tensor.shape(), tensor.dtype());
    from.copy_from(tensor);
  }
  const Tensor copy = arena_.empty(tensor.shape(), tensor.dtype());
  copy.queue_copy_from(from);
  return copy;
}

Tensor Tape::keep_only(const Tensor& x, const Arena::Bytes& mark) {
  if (recording_ || device() != Device::cpu) return x;
  arena_.release(mark);
  const Tensor kept = arena_.empty(x.shape(), x.dtype());  // may overlap x, which is at a higher address
  std::memmove(kept.raw(), x.raw(), x.bytes());
  return kept;
}

ExampleRows Tape::examples_of(const char* function, Index rows,
                              std::initializer_list<const Tensor*> parameters) const {
  const bool any = std::ranges::any_of(
      parameters, [](const Tensor* parameter) { return parameter->slot && parameter->slot->parameter; });
  if (!recording_ || !examples_ || !any) return {};
  require(examples_.segments.count() >= 0,
          "{}: the examples of its rows are not known; call Tape::set_example_rows first", function);
  ExampleRows found = examples_;
  const Index units = found.segments.offsets.back();
  found.segments.each = units > 0 ? rows / units : 0;
  require(found.segments.rows() == rows,
          "{}: it has {} rows, but the examples have {}, or a multiple of that", function, rows, units);
  return found;
}

void Tape::watch(Tensor& tensor) { tensor.slot = new_slot(); }

Tensor Tape::tap(const Tensor& tensor) {
  Tensor tap = tensor;
  tap.slot = nullptr;
  if (recording_ && tensor.slot) watch(tap);
  return tap;
}

Tensor Tape::range(const Tensor& x, Index begin, Index end) {
  Tensor rows = x.rows(begin, end);
  if (!recording_ || !x.slot) return rows;
  watch(rows);
  rows.slot->range = new (arena_.allocate(sizeof(RowRange))) RowRange{x, begin, end};
  return rows;
}

Tape::Node& Tape::add(const char* name, std::span<const Tensor* const> inputs,
                      std::initializer_list<const Tensor*> outputs) {
  require(inputs.size() <= kMostInputs,
          "{}: it records {} inputs, but a node has at most {}; record several nodes", name, inputs.size(),
          kMostInputs);
  require(outputs.size() <= kMostOutputs,
          "{}: it records {} outputs, but a node has at most {}; record several nodes", name, outputs.size(),
          kMostOutputs);
  Node* node = new (arena_.allocate(sizeof(Node))) Node{};
  node->name = name;
  node->scope = scope_;
  std::size_t i = 0;
  for (const Tensor* input : inputs) {
    node->inputs[i++] = input->slot;
    if (input->slot) ++input->slot->pending;
  }
  i = 0;
  for (const Tensor* output : outputs) node->outputs[i++] = output->slot;
  node->first_output = **outputs.begin();
  node->previous = last_;
  last_ = node;
  if (Timeline* timeline = Timeline::recording()) timeline->follow(name, "forward", scope_);
  return *node;
}

// A reshaped view may share its tensor's slot: it has the same elements in the same order. The gradient has
// the shape of the handle that first asked for it, and is reshaped for the others.
Tensor Tape::gradient(const Tensor& output) {
  require(output.slot != nullptr,
          "{}: Tape::gradient() was asked for the gradient of a tensor that has none; pass an output that "
          "Tape::output() made and Tape::record() was given",
          walking_);
  GradientSlot& slot = *output.slot;
  if (!slot.gradient.defined()) {
    slot.gradient = gradient_memory(output.shape(), output.dtype());
    slot.gradient.zero();
  }
  return slot.gradient.reshape(output.shape());
}

GradientTarget Tape::into(const Tensor& input) {
  require(input.slot != nullptr,
          "{}: Tape::into() was asked to write the gradient of an input that wants none; call it only "
          "if (input.slot)",
          walking_);
  GradientSlot& slot = *input.slot;
  require(!slot.parameter || !example_gradients(),
          "{}: it sums the gradients of all examples and has no gradients per example", walking_);
  if (slot.gradient.defined()) return {slot.gradient.reshape(input.shape()), Write::accumulate};
  slot.gradient = slot.range ? gradient_within(*slot.range).reshape(input.shape())
                             : gradient_memory(input.shape(), input.dtype());
  return {slot.gradient, Write::assign};
}

void Tape::pass_gradient(const Tensor& dy, const Tensor& input) {
  if (!input.slot) return;
  GradientSlot& slot = *input.slot;
  if (slot.gradient.defined() || slot.range) {
    const auto [dx, write] = into(input);
    kernels::scale(dy, 1.0, dx.reshape(dy.shape()), write);
  } else {
    slot.gradient = dy;
    slot.gradient.slot = nullptr;
  }
}

// Takes the most recently freed memory that is large enough but at most twice as large. Planning always takes
// new memory: which sizes can share memory depends on the data, and sizes of later steps differ.
Tensor Tape::gradient_memory(const Shape& shape, DType dtype) {
  const std::size_t bytes = static_cast<std::size_t>(shape.numel()) * size_of(dtype);
  for (std::size_t i = planning() ? 0 : free_count_; i-- > 0;) {
    const Tensor free = free_[i];
    if (free.bytes() < bytes || free.bytes() > 2 * bytes) continue;
    std::move(free_.begin() + static_cast<std::ptrdiff_t>(i) + 1,
              free_.begin() + static_cast<std::ptrdiff_t>(free_count_),
              free_.begin() + static_cast<std::ptrdiff_t>(i));
    --free_count_;
    return Tensor::borrow(free.raw(), shape, dtype, free.device());
  }
  return arena_.empty(shape, dtype);
}

// The first range that asks allocates the gradient for all of them.
Tensor Tape::gradient_within(const RowRange& range) {
  Tensor& gradient = range.whole.slot->gradient;
  if (!gradient.defined()) gradient = gradient_memory(range.whole.shape(), range.whole.dtype());
  return gradient.rows(range.begin, range.end);
}

void Tape::recycle(const Node& node) {
  for (GradientSlot* slot : node.outputs) {
    if (!slot || !slot->gradient.defined() || slot->parameter) continue;
    const Tensor gradient = std::exchange(slot->gradient, Tensor());
    if (slot->range) continue;
    const bool handed_on = std::ranges::any_of(node.inputs, [&](const GradientSlot* input) {
      return input && input->gradient.defined() && input->gradient.raw() == gradient.raw();
    });
    if (handed_on) continue;
    if (free_count_ == free_.size()) {
      std::move(free_.begin() + 1, free_.end(), free_.begin());
      --free_count_;
    }
    free_[free_count_++] = gradient;
  }
}

void Tape::settle(GradientSlot* slot) {
  if (slot && --slot->pending == 0 && slot->on_ready) slot->on_ready(slot->context, *slot);
}

void Tape::backward(std::span<const Loss> losses) {
  for (const auto& [loss, seed] : losses) {
    require(loss.slot != nullptr, "backward: the loss does not depend on anything that wants a gradient");
    require(seed.shape() == loss.shape() && seed.dtype() == loss.dtype(), "backward: seed {} {}, loss {} {}",
            name_of(seed.dtype()), seed.shape(), name_of(loss.dtype()), loss.shape());
  }
  // Clear the gradients that an earlier walk over this recording left in the activations' slots.
  for (Node* node = last_; node; node = node->previous) {
    for (GradientSlot* slot : node->outputs)
      if (slot) slot->gradient = Tensor();
    for (GradientSlot* slot : node->inputs)
      if (slot && !slot->parameter) slot->gradient = Tensor();
  }
  for (const auto& [loss, seed] : losses) {
    const auto [gradient, write] = into(loss);
    kernels::scale(seed, 1.0, gradient, write);
  }
  for (Node* node = last_; node; node = node->previous) {
    bool reached = false;
    for (GradientSlot* slot : node->outputs) {
      if (slot && slot->range && !slot->gradient.defined()) {
        slot->gradient = gradient_within(*slot->range);
        slot->gradient.zero();
      }
      reached = reached || (slot && slot->gradient.defined());
    }
    walking_ = node->name;
    if (reached) {
      const Timeline::Scope timed(node->name, "backward", node->scope);
      if (Timeline* timeline = Timeline::recording()) timeline->restart();  // the node may record others
      node->run(node->closure, *this);
    }
    recycle(*node);
    for (GradientSlot* slot : node->inputs) settle(slot);
  }
  // Restore the counts of pending uses as recorded, for another walk.
  for (Node* node = last_; node; node = node->previous)
    for (GradientSlot* slot : node->inputs)
      if (slot && !slot->parameter) ++slot->pending;
}

const char* Tape::first_non_finite() const {
  const Node* first = nullptr;
  for (const Node* node = last_; node; node = node->previous) {
    const Tensor& output = node->first_output;
    const bool floating = output.dtype() == DType::f32 || output.dtype() == DType::f64;
    if (floating && !kernels::all_finite(output)) first = node;
  }
  if (!first) return nullptr;
  non_finite_scope_ = first->scope;
  return first->name;
}

}  // namespace conclave
