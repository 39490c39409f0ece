#include "recipes/training/training_log.h"

#include <fmt/format.h>

#include <utility>

#include "core/print_line.h"
#include "recipes/evaluation/expert_table.h"
#include "recipes/settings/recipe_text.h"
#include "recipes/training/step_sums.h"

namespace conclave {

void warn_unsaved(std::int64_t step, const std::string& why) {
  warn("step ", std::to_string(step), " was not saved: ", why);
}

TrainingLog::TrainingLog(const Recipe& recipe, Model& model, Communicator& world,
                         const ProgressOptions& progress)
    : recipe_(recipe), model_(model), first_(world.rank() == 0), progress_(progress) {
  for (const auto& [name, layer] : model.moe_layers()) layers_.push_back(name);
}

void TrainingLog::say(const std::string& text) {
  if (first_) progress_.message(text);
}

void TrainingLog::describe(const Task& task, const Corpus& corpus, const TaskSplits& splits,
                           std::int64_t batches, double padding) {
  const bool texts = !splits.train.tokens.empty(), images = splits.train.images.size() > 0;
  const std::string tokens =
      texts ? fmt::format("{} tokens of {} ", splits.train.tokens.size(), corpus.tokenizer->vocabulary())
            : "";
  const ImageShape& image = splits.train.images.shape;
  const std::string pixels = images ? fmt::format("images of {} x {} pixels in {} channels ", image.height,
                                                  image.width, image.channels)
                                    : "";
  say(fmt::format(
      "data{}: {} training, {} validation, {} test {} in {} classes; {}{}in {} batches, padding {:.2f}%",
      model_.tasks().size() == 1 ? "" : fmt::format(" to {}", task.name()), splits.train.size(),
      splits.validation.size(), splits.test.size(), images ? texts ? "texts with images" : "images" : "texts",
      corpus.class_names.size(), tokens, pixels, batches, 100 * padding));
  const std::int64_t longest = recipe_.data.max_length, all = splits.train.size();
  std::int64_t full = 0;
  for (std::int64_t i = 0; texts && i < all; ++i) full += std::ssize(splits.train.sequence(i)) >= longest;
  if (100 * full >= all && full > 0)
    say(fmt::format("{} of {} training texts fill data.max_length = {} tokens; what was longer was cut", full,
                    all, longest));
  if (splits.validation.size() == 0 || splits.test.size() == 0)
    say(fmt::format("warning: no {} examples, and nothing to measure on them",
                    splits.validation.size() > 0 ? "test"
                    : splits.test.size() > 0     ? "validation"
                                                 : "validation and no test"));
  if (traits_of(task.kind()).classes && corpus.class_names.size() == 1)
    say(fmt::format("warning: \"{}\" is the only class; there is nothing to tell apart",
                    recipe_text::readable(corpus.class_names[0])));
}

void TrainingLog::write_metrics(const RunFolder& folder, const std::string& host) {
  metrics_ = folder.metrics(host, [this](const std::string& text) { say("warning: " + text); });
}

void TrainingLog::forget_metrics_from(std::int64_t step) {
  if (metrics_) metrics_->truncate_from(step);
}

void TrainingLog::forget_evaluation(std::int64_t step, const std::string& split) {
  if (metrics_) metrics_->drop_evaluation(step, split);
}

void TrainingLog::steps(const StepReport& report, std::span<const Metric> metrics) {
  if (!first_) return;
  progress_.show(report);
  metrics_->write(report.step, metrics);
}

void TrainingLog::say_evaluation(const std::string& name, bool details, const Evaluation& result) {
  std::string figures;
  if (result.accuracy) figures += fmt::format("accuracy {:.4f}  ", *result.accuracy);
  if (result.macro_f1) figures += fmt::format("macro F1 {:.4f}  ", *result.macro_f1);
  for (const auto& [measure, value] : result.measures)
    if (measure != "accuracy") figures += fmt::format("{} {:.4f}  ", measure, value);
  say(fmt::format("{}: {}loss {:.4f}  utilization {:.3f} (per batch {:.3f})  ({} {}, {:.1f} s)", name,
                  figures, result.loss, result.utilization, result.batch_utilization, result.sequences,
                  recipe_.data.has_texts() ? "texts" : "images", result.seconds));
  if (recipe_.moe.top_p < 1) {
    std::string shares;
    double tokens = 0;
    for (const Index count : result.experts_per_token) tokens += static_cast<double>(count);
    for (std::size_t k = 1; k < result.experts_per_token.size() && tokens > 0; ++k)
      shares += fmt::format("{}{} to {:.1f}%", k == 1 ? "" : ", ", k,
                            100 * static_cast<double>(result.experts_per_token[k]) / tokens);
    say(fmt::format("{}: {:.3f} experts per token ({})", name, result.mean_experts(), shares));
  }
  if (result.image_weight)
    say(fmt::format("{}: modality weights: image {:.2f}, text {:.2f}", name, *result.image_weight,
                    1 - *result.image_weight));
  for (std::size_t l = 0; l < result.image_share.size() && details; ++l)
    say(fmt::format("{}: {}: {}", name, layers_[l], describe_image_share(result.image_share[l])));
  for (std::size_t l = 0; l < result.domain.size(); ++l)
    say(fmt::format(
        "{}: {}: {}", name, layers_[l],
        describe_domain(result.domain[l], recipe_.data.domain_name(), recipe_.moe.domain_expert)));
}

void TrainingLog::evaluation(const std::string& task, const std::string& split, const Evaluation& result,
                             std::int64_t step) {
  const std::size_t tasks = model_.tasks().size();
  say_evaluation(tasks == 1 ? split : fmt::format("{} {}", task, split), split == "test", result);
  if (!metrics_) return;
  const std::string prefix = metric_prefix(task, tasks) + split + "/";
  std::vector<std::pair<std::string, double>> values{{prefix + "loss", result.loss},
                                                     {prefix + "utilization", result.utilization},
                                                     {prefix + "batch_utilization", result.batch_utilization},
                                                     {prefix + "experts_per_token", result.mean_experts()},
                                                     {prefix + "route_hit_rate", result.route_hit_rate}};
  if (result.accuracy) values.emplace_back(prefix + "accuracy", *result.accuracy);
  if (result.macro_f1) values.emplace_back(prefix + "macro_f1", *result.macro_f1);
  for (const auto& [measure, value] : result.measures)
    if (measure != "accuracy") values.emplace_back(prefix + measure, value);
  if (!result.domain.empty())
    values.emplace_back(prefix + "domain_ratio", mean_ratio(result.domain, recipe_.moe.domain_expert));
  for (std::size_t l = 0; l < result.domain.size(); ++l)
    values.emplace_back(prefix + layers_[l] + "/domain_ratio",
                        result.domain[l].ratio(result.domain[l].expert(recipe_.moe.domain_expert)));
  if (result.image_weight)
    values.emplace_back(metric_prefix(task, tasks) + "modality/image", *result.image_weight);
  std::vector<std::string> share_names;
  for (std::size_t l = 0; l < result.image_share.size(); ++l)
    share_names.push_back(prefix + layers_[l] + "/image_share");
  std::vector<Metric> metrics;
  for (const auto& [metric_name, value] : values) metrics.emplace_back(metric_name, value);
  for (std::size_t l = 0; l < share_names.size(); ++l)
    metrics.emplace_back(share_names[l], result.image_share[l]);
  metrics_->write(step, metrics);
}

}  // namespace conclave
