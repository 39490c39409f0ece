#include "recipes/loaded_model.h"

#include <filesystem>
#include <nlohmann/json.hpp>

#include "parallel/checkpoint/checkpoint_reader.h"
#include "recipes/model_state.h"
#include "recipes/plugins.h"
#include "recipes/use_precision.h"

namespace conclave {
namespace {

Tokenizer tokenizer_of(const CheckpointReader& reader) {
  return Tokenizer::from_bytes(reader.state().tokenizer);
}

}  // namespace

std::string find_checkpoint(const std::string& path) {
  if (!std::filesystem::is_directory(path)) return path;
  const auto newest = newest_checkpoint(path);
  require(newest.has_value(), "{}: no good checkpoint (step-*.h5) in this folder", path);
  return *newest;
}

LoadedModel::LoadedModel(const std::string& checkpoint, const ProcessGrid& grid,
                         const std::vector<std::string>& overrides)
    : tokenizer_(tokenizer_of(CheckpointReader(checkpoint))) {
  const CheckpointReader reader(checkpoint, grid.world());
  recipe_ = parse_recipe(reader.state().recipe, checkpoint + ":/state/recipe", overrides);
  load_plugins(recipe_, checkpoint, &grid.world());
  use_precision(recipe_.run, grid.device());
  const auto metadata = nlohmann::json::parse(reader.state().metadata);
  class_names_ = metadata.at("class_names").get<std::vector<std::string>>();
  step_ = reader.state().step;
  model_ = std::make_unique<TextClassifier>(
      recipe_.model, recipe_.moe,
      TextClassifier::Sizes{tokenizer_.vocabulary(), recipe_.data.max_length,
                            static_cast<Index>(class_names_.size()), tokenizer_.unknown()},
      grid, recipe_.parallel.dispatch_chunks);
  parameters_ = std::make_unique<ParameterSet>(*model_, DType::f32, 0, grid.device());
  reader.load(model_entries(*parameters_, *model_));
}

}  // namespace conclave
