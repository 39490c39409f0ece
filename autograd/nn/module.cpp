#include "autograd/nn/module.h"

#include <cmath>

namespace conclave {

Initializer Initializer::fan_in(Index fan_in) {
  return {Kind::uniform, 1.0 / std::sqrt(static_cast<double>(fan_in))};
}

Shape Parameter::global_shape() const {
  Shape global = shape;
  if (sharded) global[0] = global_rows;
  return global;
}

Parameter& Module::add_parameter(std::string name, const Shape& shape, Initializer initializer, bool decay) {
  auto parameter = std::make_unique<Parameter>();
  parameter->shape = shape;
  parameter->initializer = initializer;
  parameter->decay = decay;
  parameters_.emplace_back(std::move(name), std::move(parameter));
  return *parameters_.back().second;
}

void Module::add_module(std::string name, Module& child) { children_.emplace_back(std::move(name), &child); }

std::vector<std::pair<std::string, Parameter*>> Module::named_parameters() const {
  std::vector<std::pair<std::string, Parameter*>> found;
  collect("", found);
  return found;
}

void Module::collect(const std::string& prefix,
                     std::vector<std::pair<std::string, Parameter*>>& found) const {
  for (const auto& [name, parameter] : parameters_) found.emplace_back(prefix + name, parameter.get());
  for (const auto& [name, child] : children_)
    child->collect(name.empty() ? prefix : prefix + name + ".", found);
}

}  // namespace conclave
