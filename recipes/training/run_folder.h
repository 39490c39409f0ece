// A run's folder, and who has it: one process at a time, and one run's files. Earlier files that a run does
// not continue are set aside, because later commands would take them for this run's.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "core/durable_file.h"
#include "parallel/communicator.h"
#include "recipes/metrics/metrics_writer.h"

namespace conclave {

/// All functions are collective over the ranks of `world`, except metrics(). What fails on rank 0, which
/// alone looks at the folder, throws the same Error on all ranks.
class RunFolder {
 public:
  /// Locks the folder if it exists, so that a run which fails on a mistake leaves no folder behind. Waits a
  /// moment for a killed run to end. Throws Error if another process has it. `world` must outlive the object.
  RunFolder(std::string directory, Communicator& world);

  const std::string& directory() const { return directory_; }
  /// The checkpoint to resume from: for "auto" the newest in this folder with intact checksums, or "" if
  /// there is none; for another folder, the newest such in that; for a file, that file. "" for "".
  std::string find(const std::string& resume);
  /// Throws Error, which names the file and says what the caller may do, if the folder has a checkpoint.
  void expect_no_checkpoints(const std::string& advice);
  /// Makes the folder if it is missing, and locks it.
  void lock();
  /// lock(); then moves what a run that goes on from the checkpoint `resumed` at `step`, or with "" begins,
  /// does not continue into the folder "earlier" (or "earlier-2", ...). Returns what was moved, in words, or
  /// "".
  std::string take(const std::string& resumed, std::int64_t step);
  /// Of a folder that was taken: writes metrics there after dropping those of later steps than that of
  /// take(). Null on other ranks than 0. Throws Error if the files cannot be made.
  std::unique_ptr<MetricsWriter> metrics(const std::string& host,
                                         std::function<void(const std::string&)> warn) const;

 private:
  void lock(bool is_to_be);

  std::string directory_;
  Communicator& world_;
  std::unique_ptr<DirectoryLock> lock_;  // held by rank 0
  std::int64_t first_step_ = 0;          // that this run has metrics of
};

}  // namespace conclave
