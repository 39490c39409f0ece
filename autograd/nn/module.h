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

  Shape global_shape() const;
};

class Module {
 public:
  Module() = default;
  virtual ~Module() = default;
  Module(const Module&) = delete;
  Module& operator=(const Module&) = delete;

  /// All parameters below, in the order they were added, with names joined by dots.
  std::vector<std::pair<std::string, Parameter*>> named_parameters() const;

 protected:
  Parameter& add_parameter(std::string name, const Shape& shape, Initializer initializer, bool decay = true);
  /// `child` must outlive this module (usually its member). Without a name, its parameters keep their own.
  void add_module(std::string name, Module& child);

 private:
  void collect(const std::string& prefix, std::vector<std::pair<std::string, Parameter*>>& found) const;

  std::vector<std::pair<std::string, std::unique_ptr<Parameter>>> parameters_;
  std::vector<std::pair<std::string, Module*>> children_;
};

}  // namespace conclave
