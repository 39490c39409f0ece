// The model that a federation trains, as the coordinator has it: a checkpoint, and in memory one flat vector
// of the numbers that sites change. The coordinator needs no data and builds no model; it knows tensors by
// name.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/mapped_vector.h"
#include "federated/policy.h"
#include "parallel/checkpoint/checkpoint.h"
#include "parallel/checkpoint/checkpoint_reader.h"
#include "parallel/checkpoint/checkpoint_writer.h"

namespace conclave {

/// How a checkpoint's trained tensors ("model/...", f32) are laid out in the flat vector: one after another,
/// in the order of their names.
struct ModelLayout {
  struct Part {
    std::string name;
    Shape shape;  ///< global
    bool sharded = false;
    std::size_t offset = 0;
  };
  std::vector<Part> parts;
  std::size_t elements = 0;
};
/// Throws Error if the checkpoint has no such tensor.
ModelLayout layout_of(const CheckpointReader& reader);

/// The parameters under the names that sharing rules use, for example "layers.0.moe.experts.up.weight".
/// Tensors of experts, and a router's rows for them, can be shared expert by expert. Layers with experts of
/// several kinds are an exception: each kind has tensors of its own, and only the recipe says which expert
/// numbers a kind has, so these parameters are marked as `mixed`.
std::vector<FlatParameter> flat_parameters(const ModelLayout& layout);

/// Name of a tensor's control variate: "control/layers/0/..." for "model/layers/0/...".
std::string control_name(const std::string& model);

/// A second vector beside the model (strategies/scaffold.h). `zero` where a federation begins; `stored`:
/// those of its tensors that the checkpoint has are read from there.
enum class ControlVariate : std::uint8_t { none, zero, stored };

class GlobalModel {
 public:
  /// Reads the checkpoint `path`: its state and the model's tensors. The vectors are mapped from files in
  /// `folder` (core/mapped_vector.h).
  GlobalModel(const std::string& path, ControlVariate control, const std::string& folder);

  const ModelLayout& layout() const { return layout_; }
  /// The model, followed by its control variate, if it has one, in the same layout.
  std::span<float> vectors() const { return vectors_->values(); }
  std::size_t bytes() const { return layout_.elements * sizeof(float); }  ///< of the model alone
  /// Gives back the memory of vectors(), which stay in their file.
  void give_back() const { vectors_->give_back(); }
  /// The tensors that a checkpoint of this model consists of.
  const std::vector<TensorEntry>& entries() const { return entries_; }
  CheckpointState& state() { return state_; }

 private:
  ModelLayout layout_;
  CheckpointState state_;
  std::optional<MappedVector> vectors_;
  std::vector<TensorEntry> entries_;
};

}  // namespace conclave
