// One task of a Trainer: its data, and what evaluates it.
#pragma once

#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "recipes/corpus/training_batches.h"
#include "recipes/training/trainer.h"

namespace conclave {

/// Batches on which the selection for inference is calibrated before the last evaluation, and before others.
inline constexpr Index kCalibrationBatches = 64, kFewCalibrationBatches = kCalibrationBatches / 4;

struct Trainer::TrainedTask {
  Task* task;
  const TaskSplits* splits;
  double share;  // in the micro-batches
  std::int64_t batches_per_epoch;
  std::unique_ptr<Prefetcher> batches;
  std::unique_ptr<DynamicBatcher> drawn = {};  // in place of `batches`, if examples are drawn one by one
  std::unique_ptr<Evaluator> validation = {}, test = {};
  std::uint64_t checksum = checksum_of(splits->train);

  // By what a resumed run recognizes its data.
  nlohmann::json data_mark() const {
    return {{"examples", splits->train.size()}, {"xxh3", fmt::format("{:016x}", checksum)}};
  }
};

}  // namespace conclave
