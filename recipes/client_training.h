// What clients of a simulation do, one after another, on this rank: steps of plain SGD on the few examples
// that each has, from the model as it is. Whatever is needed for that is there once, for all of them.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "autograd/nn/parameter_set.h"
#include "data/dynamic_batcher.h"
#include "recipes/federation.h"
#include "recipes/models/model.h"
#include "recipes/recipe.h"

namespace conclave {

class ClientTraining {
 public:
  /// Of `model`, whose parameters are `parameters`; all that is given must outlive it. Throws Error where the
  /// model or its task is none that clients can train.
  ClientTraining(const SimulationTable& simulation, const Recipe& recipe, Model& model,
                 ParameterSet& parameters, const TokenizedSplit& train, Arena& activations);

  /// The largest batch, so that the arena sees its size.
  void plan();

  struct Result {
    double loss = 0;        ///< sum over the examples of all steps, each before its step
    std::int64_t seen = 0;  ///< examples of all steps
  };
  /// Changes the parameters; gradients are scratch. What comes out depends on these, the client and the round
  /// alone. `examples` [of the client, at least one] by their index in the split. With `proximal` above 0,
  /// `anchor` [elements] is what the model is held to, half of it times the squared distance being part of
  /// the loss (FedProx).
  Result train(std::span<const std::int64_t> examples, std::int64_t client, std::int64_t round,
               double proximal, std::span<const float> anchor);

  /// Of the longest list of examples, so that train() allocates nothing.
  void reserve(std::size_t most) { order_.reserve(most); }

 private:
  double forward_backward(const Batch& batch, const RandomStream& stream, std::int64_t examples);
  void descend(double proximal, std::span<const float> anchor);

  const SimulationTable& simulation_;
  ParameterSet& parameters_;
  Task& task_;
  Arena& activations_;
  DynamicBatcher batcher_;
  std::uint64_t seed_;
  Batch batch_;
  std::vector<std::int64_t> order_;
};

}  // namespace conclave
