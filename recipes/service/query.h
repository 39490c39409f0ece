// A query to the service and its answer, independent of the formats on the wire. These types are the only
// interface between the service's three layers: inputs make queries, an engine answers them, outputs write
// the answers.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "data/image.h"
#include "recipes/inference/caption_options.h"
#include "recipes/inference/sampler_options.h"
#include "recipes/settings/task_kind.h"

namespace conclave::service {

/// Why a query gets no answer, for the client: a message for people, an HTTP status, and a code for programs.
class Refusal : public Error {
 public:
  Refusal(int status, std::string code, const std::string& message)
      : Error(message), status(status), code(std::move(code)) {}

  int status;
  std::string code;
};

/// The status of a request whose client has gone before it was answered, as nginx logs it; it is never sent.
constexpr int kClientGone = 499;
inline Refusal client_gone() {
  return {kClientGone, "client_gone", "the client closed its connection before it was answered"};
}

/// A query in the model's terms: tokens, and pixels of the shape that the model was trained on.
struct Query {
  TaskKind task = TaskKind::classify;
  std::vector<std::int32_t> tokens = {};  ///< of the text; empty without a text
  bool truncated = false;                 ///< the text has more tokens than the model takes
  std::vector<std::uint8_t> pixels = {};  ///< of the image; empty without an image
  std::int64_t top = 5;                   ///< number of classes in the answer
  bool experts = false;                   ///< report which experts were used
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
  /// Number of rows that each expert of each MoE layer received, [layers x experts]; empty unless requested.
  std::vector<std::int64_t> experts = {};
};

/// What a model accepts and which tasks it serves; a copy, independent of the model's lifetime.
struct ModelFacts {
  std::string name = {};  ///< the model's name in answers
  std::vector<std::string> class_names = {};
  std::vector<std::string> layer_names = {};  ///< of MoE layers
  std::int64_t experts = 0;                   ///< experts in each MoE layer
  bool texts = false, images = false;         ///< which of the two it classifies
  std::int64_t max_length = 0;                ///< most tokens of a text
  std::array<bool, kTaskNames.size()> tasks{};
  bool can(TaskKind task) const { return tasks[static_cast<std::size_t>(task)]; }
  /// The names of the tasks served, separated by commas.
  std::string task_names() const {
    std::string names;
    for (std::size_t task = 0; task < tasks.size(); ++task)
      if (tasks[task]) names.append(names.empty() ? "" : ", ").append(kTaskNames[task]);
    return names;
  }
};

}  // namespace conclave::service
