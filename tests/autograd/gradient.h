// What tests of derivatives share.
#pragma once

#include <vector>

#include "autograd/functions/functions.h"
#include "autograd/gradcheck.h"
#include "tests/core/values.h"

namespace conclave {

/// For constants that a function remembers for its backward pass: a tape never releases what it keeps, so
/// neither do we.
inline Tensor kept(const Tensor& tensor) {
  static std::vector<Tensor> owners;
  owners.push_back(tensor);
  return Tensor::borrow(tensor.raw(), tensor.shape(), tensor.dtype());
}

inline Tensor kept_ids(const std::vector<std::int32_t>& values) {
  return kept(Tensor::of<std::int32_t>({static_cast<Index>(values.size())}, values));
}

using Inputs = std::span<const Tensor>;

/// How far a function's backward is from its numerical derivative, over all of its inputs.
inline double gradient_error(const std::function<Tensor(Tape&, Inputs)>& function,
                             std::vector<Tensor> inputs) {
  return gradcheck(function, std::move(inputs)).worst;
}

inline constexpr double kGradientTolerance = 1e-6;

}  // namespace conclave
