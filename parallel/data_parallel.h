// Sums gradients over ranks while backward still runs. Consecutive parameters form buckets, and the
// all-reduce of a bucket starts as soon as the last of its gradients is complete. Replicated parameters are
// summed over the world, parameters of experts over the ranks that hold the same experts.
#pragma once

#include <vector>

#include "autograd/nn/parameter_set.h"
#include "parallel/process_grid.h"

namespace conclave {

class GradientReducer {
 public:
  /// Installs hooks in the parameters' gradient slots; both arguments must outlive the reducer.
  /// `bucket_bytes`: a bucket takes parameters up to this size, and at least one. `most_elements`: limit of
  /// one all-reduce; a bucket with a larger parameter takes several.
  GradientReducer(ParameterSet& parameters, const ProcessGrid& grid, std::size_t bucket_bytes,
                  Index most_elements = kMostElements);
  ~GradientReducer();
  GradientReducer(const GradientReducer&) = delete;
  GradientReducer& operator=(const GradientReducer&) = delete;

  /// Call before the backward pass that completes the gradients (that of the last micro-batch of a step).
  /// Other backward passes only accumulate.
  void arm();
  /// Starts the all-reduces not yet started, and waits for all of them.
  void finish();

  std::size_t buckets() const { return buckets_.size(); }
  std::size_t pieces() const;  ///< all-reduces in a step, over all buckets

 private:
  struct Piece {
    Tensor gradients;
    Request request;
  };
  struct Bucket {
    std::vector<Piece> pieces;  // slices of one segment's gradients
    Communicator* group;
    int parameters = 0;
    int waiting = 0;         // parameters whose gradients are not yet complete
    int last_to_finish = 0;  // smallest position in the model, which backward reaches last
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
  std::size_t next_ = 0;  // first bucket not yet started
  bool armed_ = false;
};

}  // namespace conclave
