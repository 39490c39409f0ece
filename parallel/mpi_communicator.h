// The Communicator between CPUs: MPI. Every return code is checked, and a group of one rank makes no MPI
// calls for data. Buffers for counts and displacements of an all-to-all are allocated with the communicator,
// so that a training step allocates nothing here.
#pragma once

#define OMPI_SKIP_MPICXX 1  // MPI's C interface only; the C++ one left the standard in 2012
#include <mpi.h>

#include <array>
#include <vector>

#include "parallel/communicator.h"

namespace conclave {

class MpiCommunicator;

/// MPI's lifetime in this process: initialized in the constructor, with support for calls from several
/// threads, and finalized in the destructor. Works without mpirun too, as a world of one rank. Only one per
/// process.
///
/// A rank that dies alone leaves the other ranks waiting for it. Therefore a session that is destroyed while
/// an exception propagates aborts the whole job. To report the exception first, catch it while the session
/// lives:
///
///     MpiSession session;
///     try { ... } catch (const std::exception& error) { print(error.what()); session.abort(1); }
class MpiSession {
 public:
  /// Throws Error where MPI cannot start, was started before, or does not allow several threads.
  MpiSession();
  ~MpiSession();
  MpiSession(const MpiSession&) = delete;
  MpiSession& operator=(const MpiSession&) = delete;

  /// A new communicator of all ranks. Destroy it before the session. Collective.
  std::unique_ptr<MpiCommunicator> world() const;

  /// Ends every rank, including this one, with `exit_code`. Flushes the standard streams and destroys
  /// nothing.
  [[noreturn]] static void abort(int exit_code) noexcept;

 private:
  int exceptions_at_start_;
};

class MpiCommunicator final : public Communicator {
 public:
  /// Takes over `handle` and frees it.
  explicit MpiCommunicator(MPI_Comm handle);
  ~MpiCommunicator() override;
  MpiCommunicator(const MpiCommunicator&) = delete;
  MpiCommunicator& operator=(const MpiCommunicator&) = delete;

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  MPI_Comm handle() const { return handle_; }

  // Tensors are in CPU memory. All-gather and all-to-all take at most 2^31 - 1 elements over all ranks, each
  // block of an exchange at most 2^31 - 1, a started all-reduce at most kMostElements; other operations take
  // any number.
  void barrier() override;
  void all_reduce(const Tensor& values, Reduction reduction) override;
  Request start_all_reduce(const Tensor& values, Reduction reduction) override;
  void broadcast(const Tensor& values, int root) override;
  void all_gather(const Tensor& mine, const Tensor& gathered) override;
  void all_to_all(const Tensor& send, std::span<const Index> send_rows, const Tensor& receive,
                  std::span<const Index> receive_rows) override;
  Request start_exchange(const Tensor& send, std::span<const PeerRows> leaving, const Tensor& receive,
                         std::span<const PeerRows> arriving) override;
  std::unique_ptr<Communicator> split(int colour) override;

  using Communicator::all_gather;
  using Communicator::broadcast;

 private:
  static constexpr int kExchanges = 8;  // under way at once; a dispatcher uses up to one per chunk

  struct Exchange {
    std::vector<MPI_Request> messages;
    bool busy = false;
  };

  bool finish(void*& native, int slot, bool block) override;
  void check_messages(const Tensor& tensor, std::span<const PeerRows> blocks, bool sending) const;
  void add_messages(Exchange& exchange, const Tensor& tensor, std::span<const PeerRows> blocks,
                    bool sending) const;

  MPI_Comm handle_;
  int rank_ = 0;
  int size_ = 1;
  struct {
    std::vector<int> send_counts, send_offsets, receive_counts, receive_offsets;  // in elements, by rank
  } all_to_all_;
  std::array<Exchange, kExchanges> exchanges_;
};

}  // namespace conclave
