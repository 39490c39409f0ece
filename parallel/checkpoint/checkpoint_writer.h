// Saves while training continues: save() copies this rank's part into a staging buffer and returns; a
// background thread with its own communicator does the rest. A synchronous save writes from the tensors
// themselves if they are in host memory. A file appears under its final name only once all of it is on disk.
// A save that fails (disk full, quota, permissions) fails on all ranks, leaves the older checkpoints as they
// are, and does not stop training.
//
// Why files are not written with collective HDF5 throughout: in parallel HDF5 every rank takes part in every
// change of metadata, and nothing guarantees that the other ranks return when the disk fills up under one of
// them; HDF5 1.10 cannot even close such a file. Therefore rank 0 alone lays out the file (all groups,
// attributes, checksums, and the place of every dataset) and reserves all its blocks in the file system,
// where running out of space is an Error on one rank. Then all ranks open the file through MPI-IO and write
// their rows independently, without changing metadata; a rank whose write fails still joins the others in
// closing the file. Between the phases the ranks agree on success by polling with sleeps, so that a slow disk
// costs training no processor time.
//
// Every writer gives its temporary files unique names. Open MPI 4 guards a file opened by several ranks with
// a semaphore that is global to the machine and named after the file without its directory. With a shared
// name, jobs that save the same step into different directories would wait for each other, and a rank killed
// while it opens the file would block every later job that saves this step until the machine restarts.
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
  /// Called on rank 0 at the end of each save; from the background thread if asynchronous. Must not throw.
  using Report = std::function<void(const SaveOutcome&)>;

  /// Collective over `world` (MPI). `directory` must be shared by all ranks; it is created when needed.
  /// `keep`: how many checkpoints to keep, 0 for all. Writers of one process must not save at the same time.
  /// `passed` is called while a save writes from the entries' tensors, after each part of them that was read:
  /// it may give back their memory (core/mapped_vector.h).
  CheckpointWriter(std::string directory, Communicator& world, int keep, bool asynchronous,
                   Report report = {}, std::function<void()> passed = {});
  /// Waits for a save under way.
  ~CheckpointWriter();
  CheckpointWriter(const CheckpointWriter&) = delete;
  CheckpointWriter& operator=(const CheckpointWriter&) = delete;

  /// Agrees on which rank writes which rows and allocates the staging buffer, as the first save() would;
  /// returns the buffer's size in bytes. For start-up, so that memory is planned. Collective; throws Error as
  /// save() does.
  std::size_t prepare(std::span<const TensorEntry> entries);

  /// Collective. Waits for the previous save, copies the entries, and returns at once (asynchronous) or after
  /// the save (not asynchronous). The entries may change as soon as it returns. `state` is taken from rank 0,
  /// but `step` must be the same on every rank. Throws Error on all ranks if the entries are malformed or
  /// inconsistent; later failures, which are not the caller's mistake, are reported in the SaveOutcome.
  void save(std::span<const TensorEntry> entries, const CheckpointState& state);

  /// Waits for the save under way, if any. Returns the outcome of the last save; empty if there was none.
  const std::optional<SaveOutcome>& wait();

 private:
  void prepare(std::span<const TensorEntry> entries, std::int64_t step);
  Device device_of(std::span<const TensorEntry> entries) const;
  bool stages(std::span<const TensorEntry> entries) const;
  SaveOutcome write();
  /// If the save fails, sets outcome.message to the reason.
  void write_or_explain(SaveOutcome& outcome);
  void lay_out(const std::string& path) const;
  std::string write_parts(const std::string& path);
  void gather_checksums();
  /// Calls work(first, rows, bytes) for runs of rows of the layout's part `p`, and passed_() after each.
  /// `first` is relative to the part, and `bytes` are those of the rows.
  template <class Work>
  void for_pieces(std::size_t p, const Work& work) const;
  void retire_old() const;
  void remove_temporaries() const;
  std::string temporary_of(const std::string& path) const { return path + "." + mark_ + ".tmp"; }

  bool agreed(const std::string& error, SaveOutcome& outcome);
  void reduce_politely(const Tensor& values, Reduction reduction);

  std::string directory_;
  std::unique_ptr<Communicator>
      group_;         // used by the training thread between saves, by the background thread during one
  std::string mark_;  // unique to this writer, in the names of its temporary files
  MPI_Comm handle_;   // group_'s MPI handle, for HDF5
  int keep_;
  bool asynchronous_;
  Report report_;
  std::function<void()> passed_;

  std::optional<std::uint64_t> signature_;
  CheckpointLayout layout_;
  Tensor staging_;                         // undefined as long as no save needs it
  std::vector<const std::byte*> sources_;  // where each of the layout's parts is read from during a save
  std::vector<Xxh3Digest> checksums_;      // of the whole file; allocated before a save begins
  CheckpointState state_;
  std::future<SaveOutcome> under_way_;
  std::optional<SaveOutcome> last_;
};

}  // namespace conclave
