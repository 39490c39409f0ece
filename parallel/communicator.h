// The collective operations of a group of processes. Implementations: Open MPI (mpi_communicator.h) for host
// memory; NCCL (nccl_communicator.h) or pinned memory (staged_communicator.h) for tensors on CUDA devices.
// All tensors must be contiguous. Every member of the group calls the same operations in the same order, from
// one thread at a time. A failed call throws Error, naming the operation.
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

/// The most elements in one MPI reduction or broadcast, because MPI's counts are ints. all_reduce() and
/// broadcast() cut longer tensors into pieces of this size; callers of start_all_reduce() must do so
/// themselves. For the limits of the other operations see mpi_communicator.h.
inline constexpr Index kMostElements = Index{1} << 30;

enum class Reduction : std::uint8_t { sum, max, min };

/// Consecutive rows of a tensor that go to, or come from, another rank.
struct PeerRows {
  int rank = 0;
  Index first = 0, rows = 0;
};

/// An operation under way on a Communicator. The communicator and the tensors of the operation must outlive
/// the request. Waiting twice is harmless; destroying a request under way waits. The engine's own handle is
/// stored inline, so starting an operation allocates nothing of ours.
class Request {
 public:
  Request() = default;
  /// For engines: `native` is the engine's handle, and finish() gets `slot` back.
  Request(Communicator& owner, void* native, int slot = -1) : owner_(&owner), native_(native), slot_(slot) {}
  Request(Request&& other) noexcept;
  Request& operator=(Request&& other) noexcept;
  ~Request();

  void wait();
  /// Lets the engine make progress; returns true once the operation is complete.
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
  /// Where tensors may be in addition to host memory; Device::cpu means host memory only.
  virtual Device device() const { return Device::cpu; }
  /// The communicator that moves tensors in host memory.
  virtual const Communicator& host() const { return *this; }

  virtual void barrier() = 0;
  /// Takes the memory and connections that operations on the device need, before memory is planned; without
  /// this, the first of them does. Collective.
  virtual void prepare() {}
  /// Whether operations that were started advance only during calls of test() and wait().
  virtual bool needs_calls() const { return true; }
  /// In place, over f32, f64, i32, i64 or u8 elements.
  virtual void all_reduce(const Tensor& values, Reduction reduction = Reduction::sum) = 0;
  /// The same without waiting; at most kMostElements.
  virtual Request start_all_reduce(const Tensor& values, Reduction reduction = Reduction::sum) = 0;
  /// From `root` to all; any dtype.
  virtual void broadcast(const Tensor& values, int root) = 0;
  /// Any dtype. `gathered` holds every rank's `mine`, in order of rank.
  virtual void all_gather(const Tensor& mine, const Tensor& gathered) = 0;
  /// Rows (dimension 0) of `send` go to the ranks, send_rows[r] to rank r in order; rows from rank r arrive
  /// in order of rank in `receive`, receive_rows[r] of them. Both tensors have the same row size and dtype.
  virtual void all_to_all(const Tensor& send, std::span<const Index> send_rows, const Tensor& receive,
                          std::span<const Index> receive_rows) = 0;
  /// Exchanges rows with other ranks without waiting. Each PeerRows block names the rank, and the place of
  /// its rows in `send` or `receive`. This rank's `leaving` blocks for another rank arrive, in order, in that
  /// rank's `arriving` blocks for this one, which must have the same numbers of rows. The lists of blocks are
  /// read before this returns. At most 8 exchanges may be under way at once on one communicator.
  virtual Request start_exchange(const Tensor& send, std::span<const PeerRows> leaving, const Tensor& receive,
                                 std::span<const PeerRows> arriving) = 0;
  /// Ranks with the same colour form a new group, ordered by their rank in this group. Collective.
  virtual std::unique_ptr<Communicator> split(int colour) = 0;

  // Conveniences on top, for set-up and control; these may allocate.
  Index sum(Index value);
  Index max(Index value);
  double sum(double value);
  double max(double value);
  /// Returns rank `root`'s `text` on every rank.
  std::string broadcast(const std::string& text, int root);
  /// Returns every rank's text, in order of rank.
  std::vector<std::string> all_gather(const std::string& text);

 protected:
  friend class Request;
  /// Advances an operation that this communicator started; if `block`, until it is complete. Returns true
  /// once it is complete. Engines whose operations complete at once return Request{} and need not override
  /// this.
  virtual bool finish(void*& native, int slot, bool block);
};

/// Calls `make` on rank 0 and returns its result on every rank. For values that may differ between ranks,
/// such as the contents of a file. If `make` throws a Failure, every rank throws a Failure with that message.
/// Collective.
template <class Failure = Error>
std::string from_first(Communicator& group, const std::function<std::string()>& make) {
  std::string made, problem;
  if (group.rank() == 0) {
    try {
      made = make();
    } catch (const Failure& failure) {  // the other ranks wait in the broadcast below
      problem = failure.what();
    }
  }
  problem = group.broadcast(problem, 0);
  if (!problem.empty()) throw Failure(problem);
  return group.broadcast(made, 0);
}

}  // namespace conclave
