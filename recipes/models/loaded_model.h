// A trained model from a checkpoint, ready to use: its recipe, tokenizer, class names and weights, on any
// number of ranks.
#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "autograd/nn/parameter_set.h"
#include "data/tokenizer.h"
#include "parallel/checkpoint/checkpoint.h"
#include "parallel/process_grid.h"
#include "recipes/models/model.h"

namespace conclave {

class CheckpointReader;

/// newest_checkpoint(), with a warning on standard error for each checkpoint that it skips.
std::optional<std::string> newest_told(const std::string& directory, Verify verify);
/// `path` if it is a file, which is not looked at; else the newest checkpoint in the folder that passes.
/// Throws Error if none does. `verify`: what the caller needs of it.
std::string find_checkpoint(const std::string& path, Verify verify);
/// Every rank gets what rank 0 finds, because a run that is still training saves new ones. Collective.
std::string find_checkpoint(const std::string& path, Verify verify, Communicator& world);
/// The checkpoint that train.start_from names; "" where that is empty. Collective; throws Error, which says
/// what to do.
std::string find_start(const Recipe& recipe, Communicator& world);

/// None if the checkpoint's model was trained on images alone.
std::optional<Tokenizer> tokenizer_of(const CheckpointReader& reader);
/// The tokenizer of the start checkpoint; none if `checkpoint` is "" or the recipe has no texts. `privately`:
/// throws Error if a recipe with texts gets none, because a tokenizer learned from the training texts has no
/// noise.
std::optional<Tokenizer> first_tokenizer(const Recipe& recipe, const std::string& checkpoint, bool privately);

class LoadedModel {
 public:
  /// Collective. `checkpoint` is a file or a folder. Throws Error if there is none, if it is damaged, or if
  /// its model has another shape, and RecipeError if it needs plug-ins and `overrides` do not name them
  /// ("run.plugins=libmine.so"); they are then loaded. Sets this process's precision. `overrides` change the
  /// recipe. `calibrates`: the model need not have been quantized, and its quantizers observe their inputs.
  LoadedModel(const std::string& checkpoint, const ProcessGrid& grid,
              const std::vector<std::string>& overrides, bool calibrates = false);

  const std::string& checkpoint() const { return checkpoint_; }  ///< the file
  const Recipe& recipe() const { return recipe_; }
  /// None if the model was trained on images alone.
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
