// Sums gradients over the ranks while backward still runs: consecutive parameters form buckets, and a
// bucket's all-reduce starts as soon as the last of its gradients is complete. Replicated parameters are
// summed over the world, an expert's over the ranks that hold it.
#pragma once

#include <vector>

#include "autograd/nn/parameter_set.h"
#include "parallel/process_grid.h"

namespace conclave {

class GradientReducer {
 public:
  /// Hooks itself to the parameters' slots; both arguments must outlive it. `bucket_bytes`: where a bucket is
  /// full. `most_elements`: of one all-reduce; a bucket takes several where a parameter has more.
  GradientReducer(ParameterSet& parameters, const ProcessGrid& grid, std::size_t bucket_bytes,
                  Index most_elements = kMostElements);
  ~GradientReducer();
  GradientReducer(const GradientReducer&) = delete;
  GradientReducer& operator=(const GradientReducer&) = delete;

  /// Before the backward pass whose end completes the gradients (the last micro-batch of a step). Without it,
  /// backward passes only accumulate.
  void arm();
  /// Starts what is left and waits for all.
  void finish();

  std::size_t buckets() const { return buckets_.size(); }
  std::size_t pieces() const;  ///< of all buckets: all-reduces in a step

 private:
  struct Piece {
    Tensor gradients;
    Request request;
  };
  struct Bucket {
    std::vector<Piece> pieces;  // of a slice of a segment
    Communicator* group;
    int parameters = 0;
    int waiting = 0;         // parameters whose gradient is not complete
    int last_to_finish = 0;  // smallest place in the model: backward reaches it last
  };
  struct Hook {
    GradientReducer* reducer;
    std::size_t bucket;
  };

  void ready(std::size_t bucket);
  void start_ready();

  ParameterSet& parameters_;
  std::vector<Bucket> buckets_;  // in the order in which every rank starts them
  std::vector<Hook> hooks_;
  std::size_t next_ = 0;  // first bucket not started
  bool armed_ = false;
};

}  // namespace conclave
