#include "autograd/nn/parameter_set.h"

#include <algorithm>

#include "core/random.h"

namespace conclave {
namespace {

// FNV-1a hash: a random stream number per parameter that does not change when other parameters are added.
std::uint32_t stream_of(const std::string& name) {
  std::uint32_t hash = 2166136261u;
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 16777619u;
  return hash;
}

// Every parameter starts on its own cache line; padding elements stay zero, with zero gradient.
template <class Part>
Index padded(const Part& part) {
  return (part.shape.numel() + 15) / 16 * 16;
}

// The part of `flat` at the place that `values` has within `whole`.
Tensor part_of(const Tensor& flat, const Tensor& whole, const Tensor& values) {
  const auto offset =
      static_cast<const std::byte*>(values.raw()) - static_cast<const std::byte*>(whole.raw());
  const Index begin = static_cast<Index>(offset) / static_cast<Index>(size_of(flat.dtype()));
  return flat.slice(0, begin, begin + values.numel()).reshape(values.shape());
}

}  // namespace

void initialize(const Parameter& parameter, std::uint64_t seed) {
  const auto& [kind, value] = parameter.initializer;
  if (kind == Initializer::Kind::constant) return parameter.value.fill(value);
  const RandomStream stream{seed, 0, stream_of(parameter.name)};
  const Tensor& values = parameter.value;
  const bool on_host = values.device() == Device::cpu;
  const Tensor drawn = on_host ? values : Tensor::empty(values.shape(), values.dtype());
  const Index first = parameter.first_row * (values.numel() / std::max<Index>(values.size(0), 1));
  for_floating(values.dtype(), "initialize", [&]<class T>(T) {
    T* to = drawn.data<T>();
    const Index total = drawn.numel();
#pragma omp parallel for schedule(static) if (total > kernels::kParallelElements)
    for (Index i = 0; i < total; ++i) {
      const auto index = static_cast<std::uint64_t>(first + i);
      to[i] = static_cast<T>(value * (kind == Initializer::Kind::normal ? stream.normal(index)
                                                                        : 2.0 * stream.uniform(index) - 1.0));
    }
  });
  if (!on_host) values.copy_from(drawn);
}

ParameterSet::ParameterSet(Module& model, DType dtype, std::uint64_t seed, Device device, ParameterUse use)
    : values_("parameters", 0, device), gradients_("gradients", 0, device), zeros_(device) {
  for (const auto& [name, parameter] : model.named_parameters()) {
    parameter->name = name;
    parameters_.push_back(parameter);
  }
  for (const auto& [name, buffer] : model.named_buffers()) {
    buffer->name = name;
    buffers_.push_back(buffer);
  }
  struct Part {
    std::vector<Parameter*> members;
    Index elements = 0;
  };
  std::vector<Part> parts;
  std::size_t bytes = 0;
  for (const bool sharded : {false, true}) {
    for (const bool decay : {false, true}) {
      Part part;
      std::ranges::copy_if(parameters_, std::back_inserter(part.members), [&](const Parameter* parameter) {
        return parameter->sharded == sharded && parameter->decay == decay;
      });
      std::ranges::reverse(part.members);
      for (const Parameter* parameter : part.members) part.elements += padded(*parameter);
      if (part.members.empty()) continue;  // a part without elements stays: other ranks may hold its experts
      bytes += Arena::room_for({part.elements}, dtype);
      parts.push_back(std::move(part));
    }
  }
  const bool training = use == ParameterUse::training;
  gradients_.seal_for(training ? bytes : 0);
  const auto in_arena = [&](const Buffer& buffer) { return device == Device::cpu || !buffer.on_host; };
  Index of_weights = 0;
  for (const Buffer* buffer : buffers_) {
    if (!buffer->on_host)
      of_weights += padded(*buffer);
    else if (in_arena(*buffer))
      bytes += Arena::room_for(buffer->shape, dtype);
  }
  if (of_weights > 0) bytes += Arena::room_for({of_weights}, dtype);
  values_.seal_for(bytes);
  for (const auto& [members, elements] : parts) {
    segments_.push_back({values_.zeros({elements}, dtype),
                         training ? gradients_.zeros({elements}, dtype) : Tensor(), members.front()->decay,
                         members.front()->sharded});
    const Segment& segment = segments_.back();
    Index begin = 0;
    for (Parameter* parameter : members) {
      const Index end = begin + parameter->shape.numel();
      parameter->value = segment.values.slice(0, begin, end).reshape(parameter->shape);
      parameter->slot.gradient =
          training ? segment.gradients.slice(0, begin, end).reshape(parameter->shape) : Tensor();
      parameter->panels = Tensor();
      parameter->slot.panels = training ? nullptr : &parameter->panels;
      parameter->slot.parameter = true;
      parameter->value.slot = &parameter->slot;
      begin += padded(*parameter);
      initialize(*parameter, seed);
    }
  }
  if (of_weights > 0) buffers_of_weights_ = values_.zeros({of_weights}, dtype);
  Index begin = 0;
  for (Buffer* buffer : buffers_) {
    if (!buffer->on_host) {
      const Index end = begin + buffer->shape.numel();
      buffer->values = buffers_of_weights_.slice(0, begin, end).reshape(buffer->shape);
      begin += padded(*buffer);
    } else {
      buffer->values =
          in_arena(*buffer) ? values_.empty(buffer->shape, dtype) : Tensor::empty(buffer->shape, dtype);
    }
    buffer->values.fill(buffer->start);
  }
}

Index ParameterSet::elements() const {
  Index total = 0;
  for (const Parameter* parameter : parameters_) total += parameter->shape.numel();
  return total;
}

void ParameterSet::zero_gradients() {
  zeros_.run([this] {
    for (const Segment& segment : segments_) segment.gradients.zero();
  });
  for (Parameter* parameter : parameters_) parameter->slot.pending = 0;
}

std::size_t ParameterSet::segment_of(const Parameter& parameter) const {
  const auto found = std::ranges::find_if(segments_, [&](const Segment& segment) {
    return segment.sharded == parameter.sharded && segment.decay == parameter.decay;
  });
  require(found != segments_.end(), "parameter {} is not in this set", parameter.name);
  return static_cast<std::size_t>(found - segments_.begin());
}

Tensor ParameterSet::part(std::size_t segment, const Tensor& flat, const Parameter& parameter) const {
  return part_of(flat, segments_[segment].values, parameter.value);
}

Tensor ParameterSet::part(const Tensor& flat, const Buffer& buffer) const {
  return part_of(flat, buffers_of_weights_, buffer.values);
}

}  // namespace conclave
