// All parameters of a model, end to end in one arena, and their gradients likewise in another: the optimizer
// runs over a few flat arrays, and a bucket of the gradient all-reduce is a slice. The order is replicated
// parameters, then expert parameters; within each, those without weight decay first. Within a part,
// parameters stand in reverse order of the model, which is about the order in which backward finishes them.
// The model's buffers lie behind its parameters.
#pragma once

#include <vector>

#include "autograd/nn/module.h"
#include "core/replay.h"

namespace conclave {

/// For inference, parameters have no gradients, and stay as they are from the first pass on, which packs the
/// weights of products once for all. Packed, they take no more memory than gradients do in training.
enum class ParameterUse : std::uint8_t { training, inference };

class ParameterSet {
 public:
  /// One flat stretch of parameters that are treated alike.
  struct Segment {
    Tensor values, gradients;  ///< [elements]; for inference, gradients are undefined
    bool decay = true;
    bool sharded = false;
  };

  /// Takes place on `device` for all parameters and buffers of `model` and initializes them. `model` must
  /// outlive the set.
  ParameterSet(Module& model, DType dtype, std::uint64_t seed, Device device = Device::cpu,
               ParameterUse use = ParameterUse::training);

  const std::vector<Parameter*>& parameters() const { return parameters_; }
  const std::vector<Buffer*>& buffers() const { return buffers_; }
  const std::vector<Segment>& segments() const { return segments_; }
  Arena& values() { return values_; }
  Arena& gradients() { return gradients_; }
  Index elements() const;
  Device device() const { return values_.device(); }

  /// Before the first micro-batch of a step.
  void zero_gradients();

  /// The part of a flat array laid out like segment `segment` (a moment, an average) that belongs to
  /// `parameter`, in its shape.
  Tensor part(std::size_t segment, const Tensor& flat, const Parameter& parameter) const;
  std::size_t segment_of(const Parameter& parameter) const;

 private:
  Arena values_, gradients_;
  std::vector<Parameter*> parameters_;
  std::vector<Buffer*> buffers_;
  std::vector<Segment> segments_;
  Replay zeros_;  // in all gradients
};

/// Fills `parameter.value` as its initializer says.
void initialize(const Parameter& parameter, std::uint64_t seed);

}  // namespace conclave
