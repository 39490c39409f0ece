// A question to the service and its answer, whatever they come in and go out as: what its three layers, which
// know nothing else of each other, hand on. Inputs make queries, an engine answers them, outputs write
// answers.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "data/image.h"
#include "recipes/caption_options.h"
#include "recipes/sampler_options.h"

namespace conclave::service {

enum class TaskKind : std::uint8_t { classify, caption, generate, embed };
/// By their numbers; paths are /v1/NAME.
inline constexpr std::array<std::string_view, 4> kTaskNames{"classify", "caption", "generate", "embed"};
inline std::string_view name_of(TaskKind task) { return kTaskNames[static_cast<std::size_t>(task)]; }

/// Why a query gets no answer, for whoever asked: the status by which HTTP says so, and a code for programs.
class Refusal : public Error {
 public:
  Refusal(int status, std::string code, const std::string& message)
      : Error(message), status(status), code(std::move(code)) {}

  int status;
  std::string code;
};

/// In the model's own terms: tokens, and pixels of the shape that it was trained on.
struct Query {
  TaskKind task = TaskKind::classify;
  std::vector<std::int32_t> tokens = {};  ///< of the text, none without
  bool truncated = false;                 ///< the text has more tokens than the model takes
  std::vector<std::uint8_t> pixels = {};  ///< of the image, none without
  std::int64_t top = 5;                   ///< classes to tell
  bool experts = false;                   ///< tell which were used, too
  CaptionOptions caption = {};
  SamplerOptions sampling = {};
  std::int64_t count = 1;  ///< images to draw
};

struct Answer {
  std::vector<float> probabilities = {};  ///< [classes]
  std::vector<float> embedding = {};      ///< [width]
  std::vector<std::int32_t> tokens = {};  ///< of the caption
  std::string caption = {};
  double log_probability = 0;  ///< of the caption
  std::vector<Image> images = {};
  /// Of each MoE layer's experts, how many rows each received, [layers x experts]; empty unless asked for.
  std::vector<std::int64_t> experts = {};
};

/// What a model is asked in, and can do; of what outlives it.
struct ModelFacts {
  std::string name = {};  ///< of its checkpoint
  std::vector<std::string> class_names = {};
  std::vector<std::string> layer_names = {};  ///< of MoE layers
  std::int64_t experts = 0;                   ///< of each
  bool texts = false, images = false;         ///< which of the two it classifies
  std::int64_t max_length = 0;                ///< tokens of a text
  std::array<bool, kTaskNames.size()> tasks{};
  bool can(TaskKind task) const { return tasks[static_cast<std::size_t>(task)]; }
  /// Of those it can, divided by commas.
  std::string task_names() const {
    std::string names;
    for (std::size_t task = 0; task < tasks.size(); ++task)
      if (tasks[task]) names.append(names.empty() ? "" : ", ").append(kTaskNames[task]);
    return names;
  }
};

}  // namespace conclave::service
