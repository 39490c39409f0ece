#include "data/parts.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/random.h"

namespace conclave {
namespace {

// RandomStream::tensor of the streams for shares, where RandomStream::step is the class. Streams for examples
// have tensor 0 and the split's salt as step.
constexpr std::uint32_t kShares = 0xffffffffu;

// Logarithm of a Gamma(alpha, 1) variate. It is computed as a logarithm because the variate may underflow for
// small alpha. Method: Marsaglia and Tsang 2000 for alpha + 1, times U^(1 / alpha).
double log_gamma_variate(double alpha, const RandomStream& stream, std::uint64_t& drawn) {
  const double d = alpha + 1 - 1.0 / 3, c = 1 / std::sqrt(9 * d);
  const double boost = std::log(1 - stream.uniform(drawn++)) / alpha;
  while (true) {
    // normal(i) uses the uniforms 2i and 2i + 1.
    drawn += drawn % 2;
    const double x = stream.normal(drawn / 2);
    drawn += 2;
    const double v = std::pow(1 + c * x, 3), u = 1 - stream.uniform(drawn++);
    if (v > 0 && std::log(u) < 0.5 * x * x + d - d * v + d * std::log(v)) return std::log(d * v) + boost;
  }
}

// Cumulative sums of the parts' shares of class `label`.
std::vector<double> cumulative_shares(const PartsOptions& options, std::int32_t label) {
  const RandomStream stream{options.seed, static_cast<std::uint32_t>(label), kShares};
  std::vector<double> shares(static_cast<std::size_t>(options.parts));
  std::uint64_t drawn = 0;
  for (double& share : shares) share = log_gamma_variate(options.alpha, stream, drawn);
  const double largest = *std::ranges::max_element(shares);
  for (double& share : shares) share = std::exp(share - largest);
  std::partial_sum(shares.begin(), shares.end(), shares.begin());
  for (double& share : shares) share /= shares.back();
  return shares;
}

void keep(ImageSplit& split, const std::vector<std::int64_t>& parts, std::int64_t part) {
  const std::size_t image_bytes = static_cast<std::size_t>(split.images.shape.size());
  const auto images = static_cast<std::size_t>(split.images.size());
  std::vector<std::int32_t> new_rows(images, -1);
  std::size_t kept = 0;
  std::int32_t kept_images = 0;
  for (std::size_t i = 0; i < split.examples.size(); ++i) {
    if (parts[i] != part) continue;
    if (!split.images.rows.empty()) {
      std::int32_t row = split.images.rows[i];
      if (row >= 0) {
        std::int32_t& moved = new_rows[static_cast<std::size_t>(row)];
        if (moved < 0) moved = kept_images++;
        row = moved;
      }
      split.images.rows[kept] = row;
    }
    if (kept != i) split.examples[kept] = std::move(split.examples[i]);
    ++kept;
  }
  split.examples.resize(kept);
  if (!split.images.rows.empty()) split.images.rows.resize(kept);
  std::vector<std::uint8_t> pixels(static_cast<std::size_t>(kept_images) * image_bytes);
  for (std::size_t row = 0; row < images; ++row)
    if (new_rows[row] >= 0)
      std::copy_n(split.images.pixels.begin() + static_cast<std::ptrdiff_t>(row * image_bytes), image_bytes,
                  pixels.begin() +
                      static_cast<std::ptrdiff_t>(static_cast<std::size_t>(new_rows[row]) * image_bytes));
  split.images.pixels = std::move(pixels);
}

}  // namespace

std::vector<std::int64_t> part_of(const std::vector<TextExample>& examples, const PartsOptions& options,
                                  std::uint32_t salt) {
  require(options.by == "random" || options.by == "label" || options.by == "dirichlet",
          "unknown way to divide a data set: \"{}\"; choose random, label or dirichlet", options.by);
  const RandomStream stream{options.seed, salt, 0};
  std::vector<std::vector<double>> shares;  // by label, computed when needed
  std::vector<std::int64_t> parts;
  parts.reserve(examples.size());
  for (std::size_t i = 0; i < examples.size(); ++i) {
    const std::int32_t label = examples[i].label;
    if (options.by == "label") {
      parts.push_back(label % options.parts);
    } else if (options.by == "random") {
      parts.push_back(static_cast<std::int64_t>(stream.below(static_cast<std::uint64_t>(options.parts), i)));
    } else {
      while (shares.size() <= static_cast<std::size_t>(label))
        shares.push_back(cumulative_shares(options, static_cast<std::int32_t>(shares.size())));
      const auto& of_class = shares[static_cast<std::size_t>(label)];
      parts.push_back(std::ranges::upper_bound(of_class, stream.uniform(i)) - of_class.begin());
    }
  }
  return parts;
}

void keep_part(ImageDataset& data, const PartsOptions& options, std::int64_t part) {
  std::uint32_t salt = 0;
  for (ImageSplit* split : {&data.train, &data.validation, &data.test})
    keep(*split, part_of(split->examples, options, salt++), part);
}

}  // namespace conclave
