// A Module is a layer with named parameters and child modules. Building one only describes its parameters; a
// ParameterSet then gives all of a model's parameters their place, one after another, in planned arenas.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "autograd/tape.h"

namespace conclave {

/// How a parameter starts out. Values depend on the seed, the parameter's name and the element's global index
/// alone.
struct Initializer {
  enum class Kind : std::uint8_t { constant, normal, uniform };
  Kind kind = Kind::constant;
  double value = 0.0;  ///< the constant; the normal's standard deviation; the uniform's bound (-value, value)

  static Initializer constant(double value) { return {Kind::constant, value}; }
  static Initializer normal(double deviation) { return {Kind::normal, deviation}; }
  /// U(-1/sqrt(fan_in), 1/sqrt(fan_in)), the default of PyTorch's linear layers.
  static Initializer fan_in(Index fan_in);
  /// N(0, 2/fan_out) (He et al. 2015), with which convolutions before a ReLU keep their gradients' size.
  static Initializer fan_out(Index fan_out);
};

struct Parameter {
  std::string name;  ///< full, "layers.0.attention.qkv.weight", once in a ParameterSet
  Shape shape;       ///< on this rank
  Initializer initializer;
  bool decay = true;  ///< weight decay applies (not to biases and gains)
  bool sharded =
      false;            ///< an expert's: divided over the ranks of an expert-parallel group along dimension 0
  Index first_row = 0;  ///< of this rank's part, where sharded
  Index global_rows = 0;  ///< over all ranks, where sharded
  Tensor value;           ///< its slot points to `slot` below
  GradientSlot slot;
  Tensor panels;  ///< for inference: kernels::pack_weight() of it, from the first product on

  Shape global_shape() const;
};

/// What a module has beside its parameters that training changes, though not by gradients. It is part of the
/// model and the same on every rank.
struct Buffer {
  std::string name;  ///< as a parameter's
  Shape shape;
  double start = 0;  ///< what all of its elements are at first
  Tensor values;
};

/// What a module is given of one example: a text's tokens, or an image's pixels.
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

  /// All parameters below, in the order they were added, with names joined by dots.
  std::vector<std::pair<std::string, Parameter*>> named_parameters() const;
  /// Likewise.
  std::vector<std::pair<std::string, Buffer*>> named_buffers() const;

  /// Those directly below, in the order they were added.
  const std::vector<std::pair<std::string, Module*>>& children() const { return children_; }
  /// Numbers in all parameters below, over all ranks.
  Index parameter_count() const;
  /// Floating point operations of one example's forward pass; `extent` becomes that of what comes out. As
  /// papers do, these are of products of matrices and of convolutions, two for a multiplication with its
  /// addition; windows count as whole at an image's border. What is done to numbers one by one (biases,
  /// normalizations, activations) is not counted. A module that does not say otherwise costs what its
  /// children do, one after another.
  virtual double flops(Extent& extent) const;

 protected:
  Parameter& add_parameter(std::string name, const Shape& shape, Initializer initializer, bool decay = true);
  Buffer& add_buffer(std::string name, const Shape& shape, double start);
  /// `child` must outlive this module (usually its member). Without a name, its parameters keep their own.
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
