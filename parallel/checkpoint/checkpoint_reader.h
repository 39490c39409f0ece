// Loads a checkpoint on any number of ranks: each rank opens the file by itself and reads the rows it holds.
// All data returned have passed their checksums. Every Error names the file, and the tensor if it is about
// one.
#pragma once

#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "parallel/checkpoint/checkpoint.h"
#include "parallel/checkpoint/hdf5_file.h"
#include "parallel/communicator.h"

namespace conclave {

class CheckpointReader {
 public:
  /// Throws Error unless `path` is a complete checkpoint of this schema version with intact state. Opening is
  /// not collective. With a group, load() succeeds or fails on all of its ranks together.
  explicit CheckpointReader(std::string path) : CheckpointReader(std::move(path), nullptr) {}
  CheckpointReader(std::string path, Communicator& group) : CheckpointReader(std::move(path), &group) {}
  ~CheckpointReader();
  CheckpointReader(const CheckpointReader&) = delete;
  CheckpointReader& operator=(const CheckpointReader&) = delete;

  const std::string& path() const { return path_; }
  const CheckpointState& state() const { return state_; }
  std::vector<std::string> names() const;  ///< sorted
  bool has(const std::string& name) const { return tensors_.contains(name); }
  Shape shape(const std::string& name) const { return info(name).shape; }  ///< global
  DType dtype(const std::string& name) const { return info(name).dtype; }
  /// Whether the rows were divided over ranks when written, which gives each row its own checksum.
  bool sharded(const std::string& name) const { return info(name).checksums.size() != 1; }

  /// Reads into entry.values, which must have the file's dtype and lie within its shape. Throws Error; if the
  /// file is damaged, part of entry.values may have been overwritten.
  void read(const TensorEntry& entry) const;
  /// Reads the whole tensor into heap memory.
  Tensor read(const std::string& name) const;

  /// Throws Error unless the file has all entries, with their shapes and dtypes. Reads nothing. Collective
  /// over the group, if there is one: all of its ranks throw, or none.
  void expect(std::span<const TensorEntry> entries) const;
  /// Reads and verifies all entries before it copies any of them: after an Error, no entry on any rank of the
  /// group has changed. Collective over the group, if there is one. Temporarily needs as much memory again as
  /// the entries.
  void load(std::span<const TensorEntry> entries) const;

  /// Reads every tensor whose name begins with `prefix`, and compares its checksums; throws Error at the
  /// first mismatch.
  void verify(std::string_view prefix = "") const;

 private:
  struct Info {
    DType dtype;
    Shape shape;
    std::vector<Xxh3Digest> checksums;  // one, or one per row
  };

  CheckpointReader(std::string path, Communicator* group);
  void open();
  Info describe(const std::string& name, std::uint64_t file_bytes) const;
  std::string read_state(const std::string& name, std::uint64_t file_bytes) const;
  const Info& info(const std::string& name) const;
  void check(const TensorEntry& entry) const;
  /// Throws Error on all ranks of the group if `error` is not "" on one of them.
  void throw_together(const std::string& error) const;

  std::string path_;
  Communicator* group_;
  std::optional<Hdf5Id> file_;
  CheckpointState state_;
  std::map<std::string, Info> tensors_;
};

}  // namespace conclave
