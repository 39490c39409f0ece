#include "recipes/models/loaded_model.h"

#include <fmt/ranges.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/print_line.h"
#include "core/text_line.h"
#include "parallel/checkpoint/checkpoint_reader.h"
#include "recipes/models/integer_state.h"
#include "recipes/models/model_sizes.h"
#include "recipes/models/use_precision.h"
#include "recipes/settings/plugins.h"
#include "recipes/settings/settings_reader.h"

namespace conclave {
namespace {

ImageShape image_shape(const nlohmann::json& metadata) {
  const auto sizes = metadata.value("image_shape", std::vector<std::int64_t>{0, 0, 0});
  return {sizes.at(0), sizes.at(1), sizes.at(2)};
}

// A plug-in is a program, and a checkpoint may be a stranger's.
void expect_asked_for_plugins(const Recipe& recipe, const std::string& checkpoint) {
  if (recipe.run.plugins.empty() || settings::is_override(recipe.origin, "run.plugins")) return;
  throw RecipeError(fmt::format(
      "{}: its model needs the plug-ins {}, which are programs; if you trust them, say where they are: --set "
      "'run.plugins=[\"PATH\", ...]'",
      checkpoint, one_line(fmt::format("{}", fmt::join(recipe.run.plugins, ", ")), 400)));
}

}  // namespace

std::optional<std::string> newest_told(const std::string& directory, Verify verify) {
  std::vector<std::string> warnings;
  auto newest = newest_checkpoint(directory, verify, &warnings);
  for (const std::string& warning : warnings) warn("skipped ", warning);
  return newest;
}

std::string find_checkpoint(const std::string& path, Verify verify) {
  if (!std::filesystem::is_directory(path)) {
    require(!path.ends_with(".toml"),
            "{}: this is a recipe, not a checkpoint; name the folder of its run, run.directory in it", path);
    return path;
  }
  const auto newest = newest_told(path, verify);
  require(newest.has_value(), "{}: no whole checkpoint (step-*.h5) in this folder", path);
  return *newest;
}

std::string find_checkpoint(const std::string& path, Verify verify, Communicator& world) {
  return from_first(world, [&] { return find_checkpoint(path, verify); });
}

std::string find_start(const Recipe& recipe, Communicator& world) {
  if (recipe.train.start_from.empty()) return "";
  return from_first(world, [&] {
    try {
      return CheckpointReader(find_checkpoint(recipe.train.start_from, Verify::model)).path();
    } catch (const Error& error) {
      fail("train.start_from: {}; train that model first, or set it to \"\"", error.what());
    }
  });
}

std::optional<Tokenizer> tokenizer_of(const CheckpointReader& reader) {
  if (reader.state().tokenizer.empty()) return std::nullopt;
  return Tokenizer::from_bytes(reader.state().tokenizer);
}

std::optional<Tokenizer> first_tokenizer(const Recipe& recipe, const std::string& checkpoint,
                                         bool privately) {
  if (!recipe.has_texts()) return std::nullopt;
  auto first = checkpoint.empty() ? std::nullopt : tokenizer_of(CheckpointReader(checkpoint));
  require(first || !privately,
          "{}: it has no tokenizer, and one learned from the training texts would reveal them without noise; "
          "name a model of public texts in train.start_from",
          checkpoint.empty() ? "train.start_from = \"\"" : checkpoint);
  return first;
}

LoadedModel::LoadedModel(const std::string& checkpoint, const ProcessGrid& grid,
                         const std::vector<std::string>& overrides, bool calibrates)
    : checkpoint_(find_checkpoint(checkpoint, Verify::model, grid.world())),
      tokenizer_(tokenizer_of(CheckpointReader(checkpoint_))) {
  const CheckpointReader reader(checkpoint_, grid.world());
  recipe_ = parse_recipe(reader.state().recipe, checkpoint_ + ":/state/recipe", overrides);
  expect_asked_for_plugins(recipe_, checkpoint_);
  load_plugins(recipe_, checkpoint_, &grid.world());
  use_precision(recipe_.run);
  const auto metadata = nlohmann::json::parse(reader.state().metadata);
  class_names_ = metadata.at("class_names").get<std::vector<std::string>>();
  step_ = reader.state().step;
  model_ = std::make_unique<Model>(
      recipe_, model_sizes(recipe_.data, class_names_.size(), tokenizer_, image_shape(metadata)), grid);
  parameters_ =
      std::make_unique<ParameterSet>(*model_, DType::f32, 0, grid.device(), ParameterUse::inference);
  load_model(reader, *parameters_, *model_, calibrates);
  if (Quantization* quantization = model_->quantization()) {
    quantization->calibrates = calibrates;
    quantization->rounds = !calibrates && step_ >= recipe_.quantization.start_step;
    quantization->integers = recipe_.quantization.inference == "integers";
  }
}

}  // namespace conclave
