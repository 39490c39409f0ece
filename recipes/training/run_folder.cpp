#include "recipes/training/run_folder.h"

#include <fmt/format.h>

#include <filesystem>
#include <utility>

#include "parallel/checkpoint/checkpoint.h"
#include "recipes/models/loaded_model.h"

namespace conclave {
namespace {

constexpr double kEndOfKilledRun = 3;  // seconds

}  // namespace

RunFolder::RunFolder(std::string directory, Communicator& world)
    : directory_(std::move(directory)), world_(world) {
  lock(false);
}

void RunFolder::lock(bool is_to_be) {
  from_first(world_, [&] {
    if (!lock_ && (is_to_be || std::filesystem::exists(directory_)))
      lock_ = std::make_unique<DirectoryLock>(directory_, kEndOfKilledRun);
    return std::string();
  });
}

void RunFolder::lock() { lock(true); }

std::string RunFolder::find(const std::string& resume) {
  if (resume.empty()) return "";
  if (resume != "auto") return find_checkpoint(resume, Verify::everything, world_);
  // Verified, which reads the file once more, so that a damaged checkpoint does not end the job at every
  // restart.
  return from_first(world_, [&] { return newest_told(directory_, Verify::everything).value_or(""); });
}

void RunFolder::expect_no_checkpoints(const std::string& advice) {
  from_first(world_, [&] {
    const auto files = list_checkpoints(directory_);
    require(files.empty(), "{} is there already{}", files.empty() ? "" : files.back().path, advice);
    return std::string();
  });
}

std::string RunFolder::take(const std::string& resumed, std::int64_t step) {
  lock(true);
  first_step_ = resumed.empty() || step == 0 ? 0 : step + 1;
  return from_first(world_, [&]() -> std::string {
    std::error_code ignored;
    const bool goes_on =
        !resumed.empty() &&
        std::filesystem::equivalent(std::filesystem::absolute(resumed).parent_path(), directory_, ignored);
    const auto with_metrics = [&](const std::string& folder) {
      (goes_on ? copy_metrics : move_metrics)(directory_, folder);
    };
    // Metrics without checkpoints are kept by a resumed run: somebody may have copied them for it.
    const bool always = resumed.empty() && has_metrics(directory_);
    const SetAside aside = set_aside_checkpoints(directory_, goes_on ? step : -1, with_metrics, always);
    if (aside.folder.empty()) return "";
    return fmt::format("{} that this run does not go on from are now in {}",
                       aside.checkpoints > 0 ? fmt::format("{} checkpoints", aside.checkpoints) : "metrics",
                       aside.folder);
  });
}

std::unique_ptr<MetricsWriter> RunFolder::metrics(const std::string& host,
                                                  std::function<void(const std::string&)> warn) const {
  if (world_.rank() != 0) return nullptr;
  auto writer = std::make_unique<MetricsWriter>(MetricsOptions{
      .directory = directory_, .host = host, .clock = seconds_since_1970, .warn = std::move(warn)});
  writer->truncate_from(first_step_);
  return writer;
}

}  // namespace conclave
