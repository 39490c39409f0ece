// An engine that is a trained model: of one process, or, its experts divided among them, of several, the
// first of which has the service and tells the others what to compute. Batches are packed, without padding.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "recipes/caption_writer.h"
#include "recipes/image_sampler.h"
#include "recipes/loaded_model.h"
#include "recipes/predictor.h"
#include "recipes/service/batch_queue.h"
#include "recipes/service/engine.h"
#include "recipes/service/inputs.h"

namespace conclave::service {

class ModelEngine : public Engine {
 public:
  /// Collective. `name`: what answers call it. `tasks`: those to serve, by name; none: all that the model
  /// can. Throws Error, with the reason, for one that it cannot. All memory of batches of at most `rows` rows
  /// and `jobs` queries is taken now.
  ModelEngine(LoadedModel& model, const ProcessGrid& grid, const std::string& name,
              const std::vector<std::string>& tasks, const BatchLimits& limits);
  ~ModelEngine() override;

  const ModelFacts& facts() const override { return facts_; }
  InputShape input_shape() const;
  /// Bytes of activations planned for classes and embeddings.
  std::size_t planned() const { return planned_; }

  void prepare(Job& job) const override;
  void finish(Job& job) const override;
  /// On rank 0. A step is a token of captions, or one of the sampler's.
  void step(EngineBatch& batch) override;
  /// On the others: takes part in rank 0's batches until its engine is destroyed.
  void follow();

 private:
  struct Round;
  void choose_tasks(const std::vector<std::string>& wanted);
  void plan(const BatchLimits& limits);
  void plan_step(const Query& query, Index count);
  void warm(const Query& query, Index count);
  Round& round_of(TaskKind task) { return takes_steps(task) ? *in_steps_ : *at_once_; }
  Round& begin_round(std::span<Job* const> jobs);
  Round& share_round(const Round& mine);
  bool compute_step(Round& round);
  void compute_scores(Round& round);
  bool compute_captions(Round& round);
  bool compute_images(Round& round);
  void hand_out(const Round& round, std::span<Job* const> jobs);
  void count_experts(Round& round, bool done);

  LoadedModel& model_;
  const ProcessGrid& grid_;
  ModelFacts facts_;
  std::optional<Predictor> predictor_;
  std::optional<CaptionWriter> captions_;
  std::optional<ImageSampler> images_;
  std::vector<std::pair<std::string, MoeLayer*>> layers_;
  std::vector<PeerRows> others_;  // ranks
  std::size_t planned_ = 0;
  std::unique_ptr<Round> at_once_, in_steps_;  // as their tasks are answered
};

}  // namespace conclave::service
