// One data set as several sites might hold it: each example goes to one of `parts`, the same one whoever
// asks.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "data/dataset.h"

namespace conclave {

struct PartsOptions {
  std::int64_t parts = 1;
  /// random: each example by itself. label: class c goes to part c mod parts. dirichlet: of each class, parts
  /// get shares drawn from a symmetric Dirichlet(alpha), as is common in studies of federated learning (Hsu,
  /// Qi and Brown 2019, section 3): the smaller alpha, the more unlike the parts are.
  std::string by = "random";
  double alpha = 0.3;
  std::uint64_t seed = 1;
};

/// The part of every example; `salt` tells splits apart.
std::vector<std::int64_t> part_of(const std::vector<TextExample>& examples, const PartsOptions& options,
                                  std::uint32_t salt);

/// Keeps the examples of `part`, in their order, and the images that they have.
void keep_part(ImageDataset& data, const PartsOptions& options, std::int64_t part);

}  // namespace conclave
