// Saves while training goes on: save() copies what this rank has to write into a staging buffer and returns;
// a background thread, with a communicator of its own, does the rest. A file is there under its final name
// only when all of it is on disk, and a save that fails (disk full, quota, permissions) fails on all ranks
// alike, leaves the older checkpoints as they are, and does not stop training.
//
// How it is written, and why not with collective HDF5 throughout: in parallel HDF5 every rank takes part in
// every change of metadata, and nothing says that the others return when the disk fills up under one of them;
// HDF5 1.10 cannot even close such a file. Therefore rank 0 alone lays out the file (all groups, attributes,
// checksums, and the place of every dataset) and takes all its blocks from the file system, where running out
// of space is one rank's Error. Then all ranks open it through MPI-IO and write their rows independently,
// touching no metadata; a rank whose write fails still meets the others in closing the file. Between the
// phases ranks agree on success by polling, not spinning: a slow disk costs training no processor time.
//
// Every writer gives its temporaries names of its own. Open MPI 4 guards a file opened by several ranks with
// a semaphore of the machine that is named after the file, without its directory: under one name, jobs that
// save the same step into different directories wait for each other, and a rank killed while it opens the
// file would stop, for as long as the machine is up, every later job that saves this step.
#pragma once

#include <functional>
#include <future>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "core/durable_file.h"
#include "parallel/checkpoint/checkpoint.h"
#include "parallel/checkpoint/checkpoint_layout.h"
#include "parallel/checkpoint/hdf5_file.h"
#include "parallel/mpi_communicator.h"

namespace conclave {

class CheckpointWriter {
 public:
  /// Called on rank 0 for each save as it ends, from the background thread if asynchronous. Must not throw.
  using Report = std::function<void(const SaveOutcome&)>;

  /// Collective over `world` (MPI). `directory` must be one that all ranks share; it is made when needed.
  /// `keep`: how many checkpoints stay, 0 for all. Writers of one process must not save at the same time.
  CheckpointWriter(std::string directory, Communicator& world, int keep, bool asynchronous,
                   Report report = {});
  /// Waits for the save under way.
  ~CheckpointWriter();
  CheckpointWriter(const CheckpointWriter&) = delete;
  CheckpointWriter& operator=(const CheckpointWriter&) = delete;

  /// Agrees on who writes what and takes the staging buffer, as the first save() would; returns its bytes.
  /// For start-up, so that memory is planned. Collective; throws Error as save() does.
  std::size_t prepare(std::span<const TensorEntry> entries);

  /// Collective. Waits for the save before it, copies, and returns (asynchronous) or finishes (not). The
  /// entries may change as soon as it returns. `state` is taken from rank 0, but `step` must be everyone's.
  /// Throws Error, on all ranks, where the entries are malformed or do not go together; what fails later, and
  /// is not the caller's mistake, is in the SaveOutcome.
  void save(std::span<const TensorEntry> entries, const CheckpointState& state);

  /// Waits, and gives the staging buffer back until the next save: for who has little memory and much time.
  void release();

  /// Waits for the save under way, if any. Returns what became of the last one; nothing where none was begun.
  const std::optional<SaveOutcome>& wait();

 private:
  void prepare(std::span<const TensorEntry> entries, std::int64_t step);
  SaveOutcome write();
  /// Leaves the reason in outcome.message where it failed.
  void write_or_explain(SaveOutcome& outcome);
  void lay_out(const std::string& path) const;
  std::string write_parts(const std::string& path);
  void gather_checksums();
  void retire_old() const;
  void remove_temporaries() const;
  std::string temporary_of(const std::string& path) const { return path + "." + mark_ + ".tmp"; }

  bool agreed(const std::string& error, SaveOutcome& outcome);
  void reduce_politely(const Tensor& values, Reduction reduction);

  std::string directory_;
  std::unique_ptr<Communicator>
      group_;         // the training thread's between saves, the background thread's in one
  std::string mark_;  // in the names of this writer's temporaries, and of no other's
  MPI_Comm handle_;   // group_'s, for HDF5
  int keep_;
  bool asynchronous_;
  Report report_;

  std::optional<std::uint64_t> signature_;
  CheckpointLayout layout_;
  Tensor staging_;
  std::vector<Xxh3Digest> checksums_;  // of the whole file; its memory is taken before a save begins
  CheckpointState state_;
  std::future<SaveOutcome> under_way_;
  std::optional<SaveOutcome> last_;
};

}  // namespace conclave
