// Training of a simulation's clients, one after another, on this rank: steps of plain SGD on each client's
// few examples, starting from the current model. All clients use the same buffers.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "autograd/nn/parameter_set.h"
#include "data/dynamic_batcher.h"
#include "recipes/models/model.h"
#include "recipes/settings/federation.h"
#include "recipes/settings/recipe.h"

namespace conclave {

class ClientTraining {
 public:
  /// Trains `model` with its `parameters`; all arguments must outlive the object. Throws Error if the
  /// training split is empty.
  /// `seed`: of all that is random in the training; with privacy, one that nobody knows.
  ClientTraining(const SimulationTable& simulation, const Recipe& recipe, Model& model,
                 ParameterSet& parameters, const TokenizedSplit& train, Arena& activations,
                 std::uint64_t seed);

  /// Computes the largest batches, so that the arena sees their size.
  void plan();

  struct Result {
    double loss = 0;        ///< sum over the examples of all steps, each before its step
    std::int64_t seen = 0;  ///< examples of all steps
  };
  /// Trains the parameters on one client's `examples`, at least one, by their index in the split. Gradients
  /// are scratch memory. The result depends only on the parameters, the client and the round. With `proximal`
  /// above 0, the loss includes half of it times the squared distance from `anchor` [elements] (FedProx).
  Result train(std::span<const std::int64_t> examples, std::int64_t client, std::int64_t round,
               double proximal, std::span<const float> anchor);

  /// Reserves room for the longest list of examples, so that train() allocates nothing.
  void reserve(std::size_t most) { order_.reserve(most); }

 private:
  double forward_backward(const Batch& batch, const RandomStream& stream);
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
