// Passes an exception of a parallel loop's thread to the thread that began the loop.
#pragma once

#include <exception>

namespace conclave::secure_aggregation {

class FirstError {
 public:
  template <class F>
  void guard(F f) noexcept {
    try {
      f();
    } catch (...) {
#pragma omp critical(secure_aggregation_first_error)
      if (!error_) error_ = std::current_exception();
    }
  }
  void rethrow() const {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  std::exception_ptr error_;
};

}  // namespace conclave::secure_aggregation
