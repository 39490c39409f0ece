// The optimizer over a ParameterSet: AdamW on each flat segment, and global-norm clipping.
#pragma once

#include <vector>

#include "autograd/nn/parameter_set.h"
#include "core/replay.h"

namespace conclave {

struct OptimizerOptions {
  double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8;
  double weight_decay = 0.01;
  bool adaptive = true;  ///< false: plain gradient steps, see AdamWOptions
  double ema = 0;        ///< decay of the moving average of parameters and their buffers; 0: no average
};

class AdamW {
 public:
  /// `parameters` must outlive the optimizer.
  AdamW(ParameterSet& parameters, OptimizerOptions options);

  /// One update; gradients are multiplied by gradient_scale first. `step` counts from 1.
  void update(std::int64_t step, double learning_rate, double gradient_scale);

  Arena& state() { return state_; }
  bool has_average() const { return options_.ema > 0; }
  /// Exchanges the parameters, and the buffers that go with them, with their moving averages; calling it
  /// again undoes it.
  void swap_average();
  /// Clears the state of all past updates; the next update must be number 1.
  void restart();
  /// Restarts the moving average from the current parameters and buffers.
  void restart_average();

  /// The optimizer's state of one parameter, in its shape, for a checkpoint.
  Tensor first_moment(const Parameter& parameter) const { return part(first_, parameter); }
  Tensor second_moment(const Parameter& parameter) const { return part(second_, parameter); }
  Tensor average(const Parameter& parameter) const { return part(average_, parameter); }
  Tensor average(const Buffer& buffer) const { return parameters_.part(buffer_average_, buffer); }

 private:
  Tensor part(const std::vector<Tensor>& flat, const Parameter& parameter) const;

  ParameterSet& parameters_;
  OptimizerOptions options_;
  Arena state_;
  std::vector<Tensor> first_, second_, average_;  // one flat tensor per segment
  Tensor buffer_average_;  // laid out as ParameterSet::buffers_of_weights(); undefined without one
  Tensor numbers_;         // scalars of the step, for all segments
  Replay updates_;
};

/// The factor that scales a gradient of norm `norm` down to `clip_norm`; 1 if the norm is no larger or
/// clip_norm is 0.
double clip_scale(double norm, double clip_norm);

}  // namespace conclave
