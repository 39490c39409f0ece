// A trained model as a checkpoint holds it, ready to use: the recipe it was trained by, its tokenizer, class
// names and weights, on however many ranks now run.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "autograd/nn/parameter_set.h"
#include "data/tokenizer.h"
#include "parallel/process_grid.h"
#include "recipes/models/model.h"

namespace conclave {

class CheckpointReader;

/// newest_checkpoint(); what that skips is told on standard error.
std::optional<std::string> newest_told(const std::string& directory, bool verified = false);
/// Path of a checkpoint file given itself, or a folder (its newest_told()); throws Error where there is none.
std::string find_checkpoint(const std::string& path);
/// What rank 0 finds, on every rank: a run that is still training saves new ones. Collective.
std::string find_checkpoint(const std::string& path, Communicator& world);
/// That of train.start_from, "" where that is empty. Collective; throws Error, which says what to do.
std::string find_start(const Recipe& recipe, Communicator& world);

/// None where the checkpoint's model was trained on images alone.
std::optional<Tokenizer> tokenizer_of(const CheckpointReader& reader);
/// Of what a model begins with, none where that is nothing ("") or the recipe has no texts. `privately`:
/// throws Error where texts would have none, as one that is then learned from them has no noise.
std::optional<Tokenizer> first_tokenizer(const Recipe& recipe, const std::string& checkpoint, bool privately);

class LoadedModel {
 public:
  /// Collective. `checkpoint` is a file or a folder. Throws Error where there is none, it is damaged, or was
  /// made by a model of another shape.
  /// Its plug-ins are loaded, and its precision is that of this process. `overrides`
  /// ("moe.route_cache_mib=64") change its recipe. `calibrates`: it need not have been quantized, and its
  /// quantizers observe what comes.
  LoadedModel(const std::string& checkpoint, const ProcessGrid& grid,
              const std::vector<std::string>& overrides, bool calibrates = false);

  const std::string& checkpoint() const { return checkpoint_; }  ///< the file
  const Recipe& recipe() const { return recipe_; }
  /// None where it was trained on images alone.
  const std::optional<Tokenizer>& tokenizer() const { return tokenizer_; }
  const std::vector<std::string>& class_names() const { return class_names_; }
  std::int64_t step() const { return step_; }
  Model& model() { return *model_; }
  const ParameterSet& parameters() const { return *parameters_; }

 private:
  std::string checkpoint_;
  Recipe recipe_;
  std::vector<std::string> class_names_;
  std::optional<Tokenizer> tokenizer_;
  std::int64_t step_ = 0;
  std::unique_ptr<Model> model_;
  std::unique_ptr<ParameterSet> parameters_;
};

}  // namespace conclave
