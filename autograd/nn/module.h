// A Module is a layer with named parameters and child modules. Its constructor only describes its parameters;
// a ParameterSet then allocates all parameters of a model, one after another, in planned arenas.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "autograd/tape.h"

namespace conclave {

/// How a parameter is initialized. Values depend only on the seed, the parameter's name and the element's
/// global index.
struct Initializer {
  enum class Kind : std::uint8_t { constant, normal, uniform };
  Kind kind = Kind::constant;
  double value = 0.0;  ///< the constant; the normal's standard deviation; the uniform's bound (-value, value)

  static Initializer constant(double value) { return {Kind::constant, value}; }
  static Initializer normal(double deviation) { return {Kind::normal, deviation}; }
  /// U(-1/sqrt(fan_in), 1/sqrt(fan_in)), the default of PyTorch's linear layers.
  static Initializer fan_in(Index fan_in);
  /// N(0, 2/fan_out) (He et al. 2015); keeps the size of gradients through convolutions before a ReLU.
  static Initializer fan_out(Index fan_out);
};

struct Parameter {
  std::string name;  ///< full name, "layers.0.attention.qkv.weight"; unique in a ParameterSet
  Shape shape;       ///< on this rank
  Initializer initializer;
  bool decay = true;      ///< whether weight decay applies (not for biases and gains)
  bool sharded = false;   ///< divided over an expert-parallel group along dimension 0
  Index first_row = 0;    ///< if sharded: global number of this rank's first row
  Index global_rows = 0;  ///< if sharded: rows over all ranks
  Tensor value;           ///< its slot points to `slot` below
  GradientSlot slot;
  Tensor panels;  ///< for inference: kernels::pack_weight() of the value; filled by the first product

  Shape global_shape() const;
};

/// A tensor of a module that training changes, though not by gradients. It is part of the model and the same
/// on every rank.
struct Buffer {
  std::string name;  ///< full name, as of a parameter
  Shape shape;
  double start = 0;  ///< initial value of all elements
  Tensor values;
  /// Stays in host memory if the model is on a device, for what only the host reads. All other buffers are
  /// taken to depend on the weights: a moving average of the weights has one of these, too.
  bool on_host = false;
};

/// The size of one example at a module's input: a text's tokens, or an image's pixels.
struct Extent {
  Index height = 1, width = 1;
  Index rows() const { return height * width; }
};

class Module {
 public:
  Module() = default;
  virtual ~Module() = default;
  Module(const Module&) = delete;
  Module& operator=(const Module&) = delete;

  /// All parameters of this module and its descendants, in the order they were added, with names joined by
  /// dots.
  std::vector<std::pair<std::string, Parameter*>> named_parameters() const;
  /// All buffers of this module and its descendants, in the same order and with names of the same form.
  std::vector<std::pair<std::string, Buffer*>> named_buffers() const;

  /// The direct children, in the order they were added.
  const std::vector<std::pair<std::string, Module*>>& children() const { return children_; }
  /// Number of elements in all parameters of this module and its descendants, over all ranks.
  Index parameter_count() const;
  /// Floating point operations of one example's forward pass; `extent` becomes the size of the output. As in
  /// papers, only matrix products and convolutions count, with two operations for a multiplication and its
  /// addition; at an image's border, windows count as whole. Element-wise work (biases, normalizations,
  /// activations) is not counted. The default is the sum over the children, applied one after another.
  virtual double flops(Extent& extent) const;

 protected:
  Parameter& add_parameter(std::string name, const Shape& shape, Initializer initializer, bool decay = true);
  Buffer& add_buffer(std::string name, const Shape& shape, double start, bool on_host = false);
  /// `child` must outlive this module (usually it is a member). With an empty name, the child's parameters
  /// keep their own names.
  void add_module(std::string name, Module& child);

 private:
  template <class Part>
  using Named = std::vector<std::pair<std::string, std::unique_ptr<Part>>>;
  template <class Part>
  void collect(Named<Part> Module::*parts, const std::string& prefix,
               std::vector<std::pair<std::string, Part*>>& found) const;

  Named<Parameter> parameters_;
  Named<Buffer> buffers_;
  std::vector<std::pair<std::string, Module*>> children_;
};

}  // namespace conclave
