#include "recipes/inference/exported_model.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "autograd/nn/range_observer.h"
#include "recipes/models/loaded_model.h"
#include "recipes/settings/recipe.h"

namespace conclave {
namespace {

constexpr std::string_view kScale = "_scale";

struct Known {
  std::string_view end;  // of the name
  const char *axes, *meaning;
};

// The first entry whose `end` fits counts.
constexpr std::array kKnown{
    Known{"token_embedding/weight", "token, width", "a row for each of tokenizer/pieces"},
    Known{"position_embedding/weight", "position, width", "added to the row at that position"},
    Known{"qkv/weight", "out, in", "x weight^T + bias: queries of all heads, then keys, then values"},
    Known{"qkv/bias", "out", "added to the product"},
    Known{"/router/weight", "expert, in", "softmax(x weight^T) are a row's probabilities of the experts"},
    Known{"/router/score/weight", "expert, in", "softmax(x weight^T) are the probabilities of the experts"},
    Known{"/router/selection_bias", "expert",
          "added to probabilities where the best are chosen, not where they weigh"},
    Known{"/router/selection_factor", "expert",
          "times probabilities where the best are chosen, not where they weigh"},
    Known{"wide/bigrams", "bigram",
          "first token * 2^32 + second token, ascending; the largest number is none"},
    Known{"wide/weight", "feature, class",
          "rows of tokens, of wide/bigrams, and of every text; their sum by 10 / sqrt(features) is a score"},
    Known{"norm/weight", "channel", "gain of a normalization"},
    Known{"norm/bias", "channel", "added by a normalization"},
    Known{"/running_mean", "channel", "of batch normalization"},
    Known{"/running_var", "channel", "of batch normalization"},
    Known{"/input/range", "group, end", "lowest and highest input of a product, as it was observed"},
    Known{"/input/rows", "group", "how many inputs were observed"},
    Known{"/input/histogram", "group, bin", "how many inputs were observed, by size"},
    Known{"/weight_factor", "group, out", "learned: of the scale that the weight's range has"},
    Known{"/weight_factor", "out", "learned: of the scale that the weight's range has"},
    Known{"/input_factor", "group", "learned: of the scale that the input's range has"},
};

std::pair<std::string, std::string> axes_and_meaning(const std::string& name, int rank) {
  for (const auto& [end, axes, meaning] : kKnown)
    if (name.ends_with(end) && std::count(axes, axes + std::string_view(axes).size(), ',') + 1 == rank)
      return {axes, meaning};
  const bool experts = name.find("/experts/") != std::string::npos;
  if (rank == (experts ? 3 : 2)) return {experts ? "expert, out, in" : "out, in", "x weight^T + bias"};
  if (rank == (experts ? 2 : 1)) return {experts ? "expert, out" : "out", "added to the product"};
  if (rank == 3) return {"height, width, channel", "a window for each channel"};
  if (rank == 4) return {"out, height, width, in", "a convolution's weight"};
  return {"", ""};
}

struct ScaleAxes {
  std::string names, numbers;  // of the weight's axes
};

// A scale belongs to an output channel. Its axes are the last one if each channel has a window of its own,
// the first two of experts, else the first.
ScaleAxes scale_axes_of(const CheckpointReader& checkpoint, const std::string& weight) {
  const int rank = checkpoint.shape(weight).rank(),
            scales = checkpoint.shape(weight + std::string(kScale)).rank();
  if (scales == 2) return {"expert, out", "0, 1"};
  const bool depthwise = rank == 3;
  return depthwise ? ScaleAxes{"channel", "2"} : ScaleAxes{"out", "0"};
}

TensorNotes notes_of(const CheckpointReader& checkpoint, const std::string& name) {
  const int rank = checkpoint.shape(name).rank();
  if (name.ends_with(kScale) && checkpoint.has(name.substr(0, name.size() - kScale.size()))) {
    const std::string weight = name.substr(0, name.size() - kScale.size());
    return {{"axes", scale_axes_of(checkpoint, weight).names},
            {"meaning", fmt::format("what the integers of {} are multiplied by", exported_name(weight))}};
  }
  const auto [axes, meaning] = axes_and_meaning(name, rank);
  if (axes.empty()) return {};
  TensorNotes notes{{"axes", axes}, {"meaning", meaning}};
  const std::string scale = name + std::string(kScale);
  if (checkpoint.dtype(name) != DType::i8 || !checkpoint.has(scale)) return notes;
  notes.push_back({"quantization", "a number is its integer times the scale of its output channel"});
  notes.push_back({"scale", exported_name(scale)});
  notes.push_back({"scale_axes", scale_axes_of(checkpoint, name).numbers});
  notes.push_back({"zero_point", std::int64_t{0}});
  const std::string range = name.substr(0, name.rfind('/')) + "/input/range";
  if (checkpoint.has(range)) notes.push_back({"input_range", exported_name(range)});
  const std::string factor = name.substr(0, name.rfind('/')) + "/input_factor";
  if (checkpoint.has(factor)) notes.push_back({"input_factor", exported_name(factor)});
  return notes;
}

std::string quantization_of(const QuantizationRecipe& recipe) {
  if (!recipe.enabled) return "none";
  const int highest = (1 << recipe.activation_bits) - 1;
  const bool by_token = recipe.activations == "token";
  return fmt::format(
      "Weights of {0} bits have a scale for each output channel. Inputs of products are integers from 0 to "
      "{1}: round(x / scale) + zero_point, or the nearer end if that is beyond. scale = (highest - lowest) / "
      "{1} and zero_point = round(-lowest / scale) are of {2}, which is made to hold 0{3}",
      recipe.weight_bits, highest,
      by_token
          ? "each row's own range"
          : fmt::format(
                "the range in input_range of the weight. Where it has a range for each expert, an expert "
                "with fewer than {} in input/rows has the lowest and the highest of all of them",
                RangeObserver::kEnoughRows),
      by_token || !recipe.learned ? ""
                                  : ". Once zero_point is known, scale is multiplied by input_factor of the "
                                    "weight, which was learned");
}

}  // namespace

ExportNotes export_notes(const CheckpointReader& checkpoint) {
  const Recipe recipe = parse_recipe(checkpoint.state().recipe, checkpoint.path());
  ExportNotes notes{.recipe_name = recipe.run.name, .quantization = quantization_of(recipe.quantization)};
  const auto metadata = nlohmann::json::parse(checkpoint.state().metadata);
  notes.class_names = metadata.value("class_names", std::vector<std::string>());
  if (const auto tokenizer = tokenizer_of(checkpoint)) {
    for (std::int32_t id = 0; id < tokenizer->vocabulary(); ++id) {
      notes.pieces.push_back(tokenizer->piece(id));
      notes.piece_scores.push_back(tokenizer->score(id));
    }
    notes.tokenizer = tokenizer->bytes();
  }
  for (const std::string& name : model_tensors(checkpoint))
    notes.of_tensors[name] = notes_of(checkpoint, name);
  return notes;
}

}  // namespace conclave
