// A small model divided among the ranks of a group, for tests of checkpoints. Each value identifies its
// tensor and element, so a test can check that a load put the right values in the right places.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "parallel/checkpoint/checkpoint_reader.h"
#include "parallel/checkpoint/checkpoint_writer.h"
#include "tests/ranks/test_world.h"

namespace conclave {

inline constexpr Index kExperts = 8;

/// A fresh directory that all ranks share, removed with the object. Collective over the test's world.
class SharedDirectory {
 public:
  SharedDirectory();
  ~SharedDirectory();
  SharedDirectory(const SharedDirectory&) = delete;
  SharedDirectory& operator=(const SharedDirectory&) = delete;
  const std::string& path() const { return path_; }
  std::vector<std::string> files() const;  ///< names, sorted

 private:
  std::string path_;
};

/// The tensors that rank `group.rank()` holds, in expert-parallel groups of `expert_parallel` ranks.
/// `filled`: with values made from `seed`; otherwise with zeros.
std::vector<TensorEntry> test_entries(Communicator& group, int expert_parallel, bool filled, int seed = 1);
bool holds_values(const std::vector<TensorEntry>& entries, int seed = 1);
bool holds_zeros(const std::vector<TensorEntry>& entries);

CheckpointState test_state(std::int64_t step);
std::string read_file(const std::string& path);
void write_file(const std::string& path, const std::string& bytes);

/// Saves test_entries synchronously on the first `ranks` of the world; returns the path. Collective.
std::string save_on(int ranks, int expert_parallel, const std::string& directory, std::int64_t step,
                    int keep = 0);

}  // namespace conclave
