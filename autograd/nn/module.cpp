#include "autograd/nn/module.h"

#include <cmath>

namespace conclave {

Initializer Initializer::fan_in(Index fan_in) {
  return {Kind::uniform, 1.0 / std::sqrt(static_cast<double>(fan_in))};
}

Initializer Initializer::fan_out(Index fan_out) {
  return {Kind::normal, std::sqrt(2.0 / static_cast<double>(fan_out))};
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

Buffer& Module::add_buffer(std::string name, const Shape& shape, double start, bool on_host) {
  buffers_.emplace_back(std::move(name), std::make_unique<Buffer>(Buffer{{}, shape, start, {}, on_host}));
  return *buffers_.back().second;
}

void Module::add_module(std::string name, Module& child) { children_.emplace_back(std::move(name), &child); }

std::vector<std::pair<std::string, Parameter*>> Module::named_parameters() const {
  std::vector<std::pair<std::string, Parameter*>> found;
  collect(&Module::parameters_, "", found);
  return found;
}

std::vector<std::pair<std::string, Buffer*>> Module::named_buffers() const {
  std::vector<std::pair<std::string, Buffer*>> found;
  collect(&Module::buffers_, "", found);
  return found;
}

Index Module::parameter_count() const {
  Index count = 0;
  for (const auto& [name, parameter] : named_parameters()) count += parameter->global_shape().numel();
  return count;
}

double Module::flops(Extent& extent) const {
  double sum = 0;
  for (const auto& [name, child] : children_) sum += child->flops(extent);
  return sum;
}

template <class Part>
void Module::collect(Named<Part> Module::*parts, const std::string& prefix,
                     std::vector<std::pair<std::string, Part*>>& found) const {
  for (const auto& [name, part] : this->*parts) found.emplace_back(prefix + name, part.get());
  for (const auto& [name, child] : children_)
    child->collect(parts, name.empty() ? prefix : prefix + name + ".", found);
}

}  // namespace conclave
