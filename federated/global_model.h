// The model that a federation trains, as its coordinator has it: a checkpoint, and of that the numbers that
// sites change as one flat vector. The coordinator needs no data and builds no model; it knows tensors by
// name.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "federated/policy.h"
#include "parallel/checkpoint/checkpoint.h"
#include "parallel/checkpoint/checkpoint_reader.h"
#include "parallel/checkpoint/checkpoint_writer.h"

namespace conclave {

/// How a checkpoint's trained tensors ("model/...", f32) lie end to end in a flat vector: by name.
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
/// Throws Error where there is none.
ModelLayout layout_of(const CheckpointReader& reader);

/// The same, as rules of sharing speak of it: "layers.0.moe.experts.up.weight". Experts' tensors, and their
/// rows of a router, are by expert, but in layers with experts of several kinds: of those each kind has
/// tensors of its own, and which kind has the lower numbers is the recipe's to say.
std::vector<FlatParameter> flat_parameters(const ModelLayout& layout);

/// "control/layers/0/..." of "model/layers/0/...": that tensor's part of a control variate.
std::string control_name(const std::string& model);

class GlobalModel {
 public:
  /// The checkpoint `path` with its state; of its tensors those of the model.
  explicit GlobalModel(const std::string& path);

  const ModelLayout& layout() const { return layout_; }
  std::span<float> values() const { return values_.span<float>(); }
  /// Has a control variate (strategies/scaffold.h), too: of zeros, or where `goes_on` and there is one, the
  /// checkpoint's.
  void add_control(const CheckpointReader& reader, bool goes_on);
  bool has_control() const { return control_.defined(); }
  std::span<float> control() const { return control_.span<float>(); }  ///< laid out as values()
  /// What a checkpoint of it consists of.
  const std::vector<TensorEntry>& entries() const { return entries_; }
  CheckpointState& state() { return state_; }

 private:
  ModelLayout layout_;
  CheckpointState state_;
  Tensor values_, control_;
  std::vector<TensorEntry> entries_;
};

}  // namespace conclave
