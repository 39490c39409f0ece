// What a group of processes can do together. Implementations: Open MPI (mpi_communicator.h), and NCCL beside
// it for tensors on CUDA devices (nccl_communicator.h). All tensors are contiguous. Every member of the group
// calls the same operations in the same order, from one thread at a time. A failed call throws Error, naming
// the operation.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/tensor.h"

namespace conclave {

class Communicator;

/// MPI's counts are ints: what is longer goes in pieces of so many elements, start_all_reduce()'s by its
/// caller.
inline constexpr Index kMostElements = Index{1} << 30;

enum class Reduction : std::uint8_t { sum, max, min };

/// Consecutive rows of a tensor that go to, or come from, another rank.
struct PeerRows {
  int rank = 0;
  Index first = 0, rows = 0;
};

/// An operation under way on a Communicator, which must outlive it, as must the tensors it reads and writes.
/// Waiting twice is harmless; destroying one under way waits. It holds the engine's own handle inline, so
/// that starting an operation allocates nothing of ours.
class Request {
 public:
  Request() = default;
  /// For engines: `native` is the engine's handle, `slot` a number the engine gets back on completion.
  Request(Communicator& owner, void* native, int slot = -1) : owner_(&owner), native_(native), slot_(slot) {}
  Request(Request&& other) noexcept;
  Request& operator=(Request&& other) noexcept;
  ~Request();

  void wait();
  /// Lets the engine make progress; true once complete.
  bool test();

 private:
  bool finish(bool block);

  Communicator* owner_ = nullptr;  // null: nothing under way
  void* native_ = nullptr;
  int slot_ = -1;
};

class Communicator {
 public:
  virtual ~Communicator() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;
  /// Where the tensors of an operation may be beside host memory; Device::cpu: nowhere else.
  virtual Device device() const { return Device::cpu; }
  /// The one that tensors in host memory go by.
  virtual const Communicator& host() const { return *this; }

  virtual void barrier() = 0;
  /// In place, over f32, f64, i32, i64 or u8 elements.
  virtual void all_reduce(const Tensor& values, Reduction reduction = Reduction::sum) = 0;
  /// Of at most kMostElements.
  virtual Request start_all_reduce(const Tensor& values, Reduction reduction = Reduction::sum) = 0;
  /// From `root` to all; any dtype.
  virtual void broadcast(const Tensor& values, int root) = 0;
  /// Any dtype. `gathered` holds size() times `mine`, by rank.
  virtual void all_gather(const Tensor& mine, const Tensor& gathered) = 0;
  /// Rows (dimension 0) of `send` go to the ranks, send_rows[r] to rank r in order; rows from rank r arrive
  /// in order of rank in `receive`, receive_rows[r] of them. Both tensors have the same row size and dtype.
  virtual void all_to_all(const Tensor& send, std::span<const Index> send_rows, const Tensor& receive,
                          std::span<const Index> receive_rows) = 0;
  /// The same without waiting, between other ranks only, and from and to wherever the blocks say: a rank's
  /// blocks for another arrive, in order, in that one's blocks for it, which have the same numbers of rows.
  /// The blocks are read before this returns. At most 8 may be under way at once on one communicator.
  virtual Request start_exchange(const Tensor& send, std::span<const PeerRows> leaving, const Tensor& receive,
                                 std::span<const PeerRows> arriving) = 0;
  /// Ranks with the same colour form a new group, ordered by their rank here.
  virtual std::unique_ptr<Communicator> split(int colour) = 0;

  // Conveniences on top, for set-up and control; these may allocate.
  Index sum(Index value);
  Index max(Index value);
  double sum(double value);
  double max(double value);
  /// The bytes of `text` on rank `root`, on every rank.
  std::string broadcast(const std::string& text, int root);
  /// Every rank's text, by rank.
  std::vector<std::string> all_gather(const std::string& text);

 protected:
  friend class Request;
  /// Advances an operation this communicator started, to its end where `block`; true once it is complete.
  /// Engines whose operations are complete when started return Request{} and need not override it.
  virtual bool finish(void*& native, int slot, bool block);
};

/// What `make` returns on rank 0, on every rank: of what may differ between them, such as a file, one is
/// told. Where it throws a Failure there, every rank throws one of the same message. Collective.
template <class Failure = Error>
std::string from_first(Communicator& group, const std::function<std::string()>& make) {
  std::string made, problem;
  if (group.rank() == 0) {
    try {
      made = make();
    } catch (const Failure& failure) {  // the others wait, so they must hear of it
      problem = failure.what();
    }
  }
  problem = group.broadcast(problem, 0);
  if (!problem.empty()) throw Failure(problem);
  return group.broadcast(made, 0);
}

}  // namespace conclave
