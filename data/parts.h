// Divides one data set among several simulated sites. Each example belongs to one of `parts`, and every
// process computes the same division.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "data/dataset.h"

namespace conclave {

struct PartsOptions {
  std::int64_t parts = 1;
  /// random: each example goes to a random part. label: class c goes to part c mod parts. dirichlet: each
  /// class is divided among the parts by shares drawn from a symmetric Dirichlet(alpha), as is common in
  /// studies of federated learning (Hsu, Qi and Brown 2019, section 3); the smaller alpha, the more the parts
  /// differ.
  std::string by = "random";
  double alpha = 0.3;
  std::uint64_t seed = 1;
};

/// The part of every example. `salt` selects different random numbers for each split.
std::vector<std::int64_t> part_of(const std::vector<TextExample>& examples, const PartsOptions& options,
                                  std::uint32_t salt);

/// Keeps only the examples of `part`, in their order, and the images that they use.
void keep_part(ImageDataset& data, const PartsOptions& options, std::int64_t part);

}  // namespace conclave
