// All parameters of a model end to end in one arena, and all gradients in the same layout in another: the
// optimizer runs over a few flat arrays, and a bucket of the gradient all-reduce is a slice. Replicated
// parameters come first, then expert parameters; within each of these, parameters without weight decay come
// first. Within each part, parameters are in reverse order of the model, which is roughly the order in which
// backward completes their gradients. The model's buffers follow after its parameters, end to end, too, so
// that a moving average of the parameters can have theirs.
#pragma once

#include <vector>

#include "autograd/nn/module.h"
#include "core/replay.h"

namespace conclave {

/// In inference, parameters have no gradients and must not change after the first pass, because that pass
/// packs the weights of products once for all passes. Packed weights take no more memory than gradients do in
/// training.
enum class ParameterUse : std::uint8_t { training, inference };

class ParameterSet {
 public:
  /// A flat array of parameters that are treated alike.
  struct Segment {
    Tensor values, gradients;  ///< [elements]; in inference, gradients are undefined
    bool decay = true;
    bool sharded = false;
  };

  /// Allocates all parameters and buffers of `model` on `device` and initializes them; buffers with `on_host`
  /// are always in host memory. `model` must outlive the set.
  ParameterSet(Module& model, DType dtype, std::uint64_t seed, Device device = Device::cpu,
               ParameterUse use = ParameterUse::training);

  const std::vector<Parameter*>& parameters() const { return parameters_; }
  const std::vector<Buffer*>& buffers() const { return buffers_; }
  const std::vector<Segment>& segments() const { return segments_; }
  /// The buffers that go with the weights, which are all without `on_host`: [elements]; undefined without
  /// such buffers.
  const Tensor& buffers_of_weights() const { return buffers_of_weights_; }
  /// The part of `flat`, which has the layout of buffers_of_weights(), that belongs to such a buffer.
  Tensor part(const Tensor& flat, const Buffer& buffer) const;
  Arena& values() { return values_; }
  Arena& gradients() { return gradients_; }
  Index elements() const;
  Device device() const { return values_.device(); }

  /// Zeroes all gradients; call it before the first micro-batch of a step.
  void zero_gradients();

  /// The part of `flat` that belongs to `parameter`, in the parameter's shape. `flat` (a moment, an average)
  /// has the layout of segment number `segment`.
  Tensor part(std::size_t segment, const Tensor& flat, const Parameter& parameter) const;
  std::size_t segment_of(const Parameter& parameter) const;

 private:
  Arena values_, gradients_;
  std::vector<Parameter*> parameters_;
  std::vector<Buffer*> buffers_;
  std::vector<Segment> segments_;
  Tensor buffers_of_weights_;
  Replay zeros_;  // captured zeroing of all gradients
};

/// Fills `parameter.value` according to its initializer.
void initialize(const Parameter& parameter, std::uint64_t seed);

}  // namespace conclave
