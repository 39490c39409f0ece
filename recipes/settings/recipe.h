// A recipe: plain structs with defaults that a TOML file maps onto field by field. What each field means, its
// unit and its limits stand once, in recipes/settings/recipe_fields.cpp; the reader, `conclave recipe show`
// and the error messages all use that list.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "recipes/settings/data_sources.h"
#include "recipes/settings/task_kind.h"

namespace conclave {

class Communicator;

struct RunRecipe {
  std::string name = "run";
  std::string directory = "runs/default";
  std::int64_t seed = 1;
  std::int64_t threads = 0;
  std::string precision = "f32";
  std::int64_t log_every = 10;
  std::int64_t trace_step = 0;
  std::vector<std::string> plugins;
};

struct DataRecipe {
  std::string source = "wordnet";
  std::string classes = "noun";
  bool synset_words = false;
  std::string path;
  std::string train, validation, test;
  std::string text_column = "text", label_column = "label";
  std::string domain, domain_column;
  std::string client_column;
  std::string inputs = "both";
  std::string task = "cola";
  bool skip_bad = false;
  std::int64_t parts = 1;
  std::int64_t part = 0;
  std::string parts_by = "random";
  double parts_alpha = 0.3;
  std::int64_t parts_seed = 1;
  std::int64_t vocabulary = 16000;
  std::int64_t max_length = 128;

  /// Examples may have an image and a text; `inputs` selects one of them, or both. These functions throw
  /// Error if there is no such source.
  bool may_have_both() const { return data_source(source).has_both(); }
  bool has_images() const { return data_source(source).images && !(may_have_both() && inputs == "text"); }
  bool has_texts() const { return data_source(source).texts && !(may_have_both() && inputs == "image"); }
  /// The key that may single out texts of a domain, "domain" or "domain_column".
  std::string_view domain_key() const {
    return data_source(source).reads("domain_column") ? "domain_column" : "domain";
  }
  /// The domain's name in figures and messages; "" without a domain.
  const std::string& domain_name() const { return domain_key() == "domain_column" ? domain_column : domain; }
};

struct ImageRecipe {
  std::int64_t size = 0;
  std::int64_t stem = 16;
  bool scattering = false;
  std::vector<std::string> blocks = {"k3 x3 c24 s2 se relu", "k3 x4 c32 s1 se hs", "k5 x4 c48 s2 se hs",
                                     "k5 x4 c64 s1 se hs"};
  std::string norm = "group";
  bool depthwise = true;
  std::string tokens = "mean";
  std::int64_t shift = 0;
  bool flip = false;
  double erase = 0.0;
};

/// The model's tasks, each by its share of the steps; 0: not trained.
struct TasksRecipe {
  double classify = 1.0;
  double caption = 0.0;
  double generate = 0.0;

  double weight(TaskKind task) const {
    switch (task) {
      case TaskKind::classify:
        return classify;
      case TaskKind::caption:
        return caption;
      case TaskKind::generate:
        return generate;
      case TaskKind::embed:
        break;
    }
    return 0;
  }
  /// The tasks with a weight above 0, in the order of TaskKind.
  std::vector<TaskKind> trained() const {
    std::vector<TaskKind> tasks;
    for (const TaskTraits& task : kAllTasks)
      if (task.trained() && weight(task.kind) > 0) tasks.push_back(task.kind);
    return tasks;
  }
  /// Some trained task has this trait: trains(&TaskTraits::draws).
  template <class Trait>
  bool trains(const Trait& trait) const {
    return std::ranges::any_of(trained(), [&](TaskKind task) { return std::invoke(trait, traits_of(task)); });
  }
  /// Some task learns from pairs of an image and a caption.
  bool read_captions() const { return trains(&TaskTraits::captions); }
};

/// How images are generated.
struct GenerateRecipe {
  std::int64_t patch = 4;
  double text_dropout = 0.1;
};

struct ModelRecipe {
  std::int64_t hidden = 128;
  std::int64_t embedding = 0;
  std::int64_t layers = 2;
  bool share_layers = false;
  std::int64_t heads = 4;
  std::int64_t ffn = 512;
  double dropout = 0.1;
  double embedding_dropout = 0.1;
  double token_dropout = 0.0;
  double text_dropout = 0.0;
  std::int64_t bigrams = 0;
  double bigram_weight = 2.5;
  std::string fusion = "joint";
  double image_weight = 0.5;
};

struct MoeRecipe {
  std::int64_t every = 1;
  std::int64_t experts = 8;
  std::string router = "linear";
  std::int64_t router_heads = 4;
  double router_noise = 0.0;
  double route_cache_mib = 0.0;
  std::int64_t top_k = 2;
  std::string gate = "top_k";
  double top_p = 1.0;
  std::int64_t k_min = 1;
  std::int64_t shared_experts = 0;
  std::string expert = "feed_forward";
  std::string modality_experts = "shared";
  std::string balancer = "bias";
  std::vector<std::string> options = {};
  double aux_coefficient = 0.01;
  double bias_rate = 0.001;
  double grad_norm_rate = 0.02;
  std::int64_t grad_norm_rounds = 4;
  bool balance_inference = false;
  double grad_norm_alpha = 0.5;
  std::string grad_norm_moves = "both";
  double z_coefficient = 0.0;
  double entropy_coefficient = 0.0;
  std::int64_t domain_expert = -1;
  double domain_prior = 0.2;
  double domain_steps = 0.5;
  double capacity_factor = 1.5;
};

struct TrainRecipe {
  static constexpr std::int64_t kMostAccumulate = 65536;

  std::string start_from;
  std::int64_t epochs = 5;
  std::int64_t steps = 0;
  std::int64_t batch_tokens = 8192;
  std::int64_t accumulate = 1;
  double learning_rate = 1e-3;
  double warmup = 0.05;
  std::string optimizer = "adamw";
  std::string schedule = "cosine";
  double final_learning_rate = 0.0;
  double weight_decay = 0.01;
  double beta1 = 0.9, beta2 = 0.98, epsilon = 1e-8;
  double clip_norm = 1.0;
  double label_smoothing = 0.1;
  double masked_weight = 0.0;
  double ema = 0.0;
  std::int64_t evaluate_every = 0;
};

/// Differential privacy of the training examples.
struct PrivacyRecipe {
  std::string unit = "none";
  double clip_norm = 1.0;
  double noise_multiplier = 0.0;
  double epsilon = 0.0;
  double delta = 1e-5;
  std::int64_t batch = 512;
  double rate = 0.0;
  std::string ledger = {};

  bool is_on() const { return unit != "none"; }
  bool of_clients() const { return unit == "client"; }
};

/// How the trained model is to compute products with integers.
struct QuantizationRecipe {
  bool enabled = false;
  std::vector<std::string> layers = {"linear", "experts", "convolutions"};
  std::int64_t weight_bits = 8;
  std::int64_t activation_bits = 7;
  std::string activations = "token";
  std::string observer = "moving_average";
  double momentum = 0.01;
  double percentile = 99.99;
  bool learned = false;
  std::int64_t start_step = 0;
  std::string inference = "integers";
};

struct ParallelRecipe {
  std::int64_t expert_parallel = 0;
  std::int64_t bucket_kib = 4096;
  std::int64_t dispatch_chunks = 0;
};

struct CheckpointRecipe {
  std::int64_t every = 100;
  std::int64_t keep = 2;
  bool asynchronous = true;
};

struct Recipe {
  RunRecipe run;
  DataRecipe data;
  TasksRecipe tasks;
  ImageRecipe image;
  GenerateRecipe generate;
  ModelRecipe model;
  MoeRecipe moe;
  TrainRecipe train;
  PrivacyRecipe privacy;
  QuantizationRecipe quantization;
  ParallelRecipe parallel;
  CheckpointRecipe checkpoint;

  /// Some task reads or writes texts.
  bool has_texts() const {
    return tasks.trains([&](const TaskTraits& task) { return task.captions || data.has_texts(); });
  }
  /// Some task is shown images. A task that draws is not.
  bool shows_images() const {
    return tasks.trains(
        [&](const TaskTraits& task) { return !task.draws && (task.captions || data.has_images()); });
  }

  /// Where each key was given, for messages: "moe.experts" -> "recipes/quick.toml:7" or
  /// "--set moe.experts=16". A key left to its default is absent.
  std::map<std::string, std::string, std::less<>> origin;
};

/// A mistake in a recipe; its message names file, line, key, what is allowed and the nearest valid key. Exit
/// status 2.
class RecipeError : public Error {
 public:
  using Error::Error;
};

/// Throws RecipeError where moe.balancer cannot be combined with other keys, and Error if no such kind is
/// known. check_recipe() does the same for kinds that are known before the recipe's plug-ins are loaded.
void check_balancer(const Recipe& recipe, const std::string& name);

/// Reads `path` and applies `overrides` ("moe.experts=16") in order; throws RecipeError. With a `world`, it
/// is collective, and every rank gets what rank 0 reads.
Recipe read_recipe(const std::string& path, const std::vector<std::string>& overrides = {},
                   Communicator* world = nullptr);
/// Parses a recipe's text; `name` stands for the file in messages.
Recipe parse_recipe(const std::string& text, const std::string& name,
                    const std::vector<std::string>& overrides = {});
/// Checks every field's limits and the relations between fields (heads divide hidden, top_k <= experts, ...);
/// both readers call it. `name` stands for the file of keys left to their defaults.
void check_recipe(const Recipe& recipe, const std::string& name);
/// Throws RecipeError if a model of this recipe can be used but not trained. Called before training.
void check_trained(const Recipe& recipe, const std::string& name);
/// Throws RecipeError if keys have no effect together, such as a privacy budget with privacy.unit = "none".
/// Called by read_recipe() only, because its files are written by hand.
void check_meant(const Recipe& recipe, const std::string& name);
/// Checks what only `ranks`, the number of MPI ranks, decides: the expert-parallel size (0: all ranks) must
/// divide `ranks` and moe.experts. Called once the ranks are known.
void check_expert_parallel(const Recipe& recipe, const std::string& name, int ranks);
/// "moe.top_k = 1 (2 there)" for each key that affects training and differs from `before`.
std::vector<std::string> changed_keys(const Recipe& before, const Recipe& now);
/// The complete recipe as TOML that reads back to the same values; with `documented`, a comment above each
/// key.
std::string to_toml(const Recipe& recipe, bool documented = false);

}  // namespace conclave
