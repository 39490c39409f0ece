// The engine of a trained model, in one process or in several that share its experts. Rank 0 runs the service
// and sends the other ranks what to compute. Batches are packed, without padding.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "recipes/inference/caption_writer.h"
#include "recipes/inference/image_sampler.h"
#include "recipes/inference/predictor.h"
#include "recipes/models/loaded_model.h"
#include "recipes/service/batch_queue.h"
#include "recipes/service/engine.h"
#include "recipes/service/inputs.h"

namespace conclave::service {

class ModelEngine : public Engine {
 public:
  /// Collective. `name`: the model's name in answers. `tasks`: names of the tasks to serve; empty: all that
  /// the model can do. Throws Error, with the reason, for a task that it cannot do. Allocates the memory of
  /// batches of at most limits.rows rows and limits.jobs queries.
  ModelEngine(LoadedModel& model, const ProcessGrid& grid, const std::string& name,
              const std::vector<std::string>& tasks, const BatchLimits& limits);
  ~ModelEngine() override;

  const ModelFacts& facts() const override { return facts_; }
  InputShape input_shape() const;
  /// Bytes of activation memory planned for classify and embed.
  std::size_t planned() const { return planned_; }

  void prepare(Job& job) const override;
  void finish(Job& job) const override;
  /// On rank 0. A step of captions writes one token of each; a step of images is one step of the sampler.
  void step(EngineBatch& batch) override;
  /// On the other ranks: takes part in rank 0's batches until rank 0's engine is destroyed.
  void follow();

 private:
  struct Round;
  void choose_tasks(const std::vector<std::string>& wanted);
  void plan(const BatchLimits& limits);
  void warm(const Query& query, Index count);
  Round& round_of(TaskKind task) { return takes_steps(task) ? *in_steps_ : *at_once_; }
  Round& begin_round(std::span<Job* const> jobs);
  Round& share_round(const Round& mine);
  bool compute_step(Round& round);
  void compute_scores(Round& round);
  bool compute_captions(Round& round);
  bool compute_images(Round& round);
  void hand_out(const Round& round, std::span<Job* const> jobs);
  void count_experts(Round& round, bool done, bool everywhere);

  LoadedModel& model_;
  const ProcessGrid& grid_;
  ModelFacts facts_;
  std::optional<Predictor> predictor_;
  std::optional<CaptionWriter> captions_;
  std::optional<ImageSampler> images_;
  std::vector<std::pair<std::string, MoeLayer*>> layers_;
  std::vector<PeerRows> others_;  // all ranks but 0
  std::size_t planned_ = 0;
  std::unique_ptr<Round> at_once_, in_steps_;  // for single-step and for multi-step tasks
};

}  // namespace conclave::service
