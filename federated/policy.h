// What of a model a federation shares, parameter by parameter: a site can keep experts and their router rows
// to itself, and the coordinator never sees them. What is shared is packed into one vector, the exchanged
// one, without gaps and in the model's order.
//
//   {"*.moe.experts.*", by_tokens}   of each site as much as tokens were served there by that expert
//   {"*.moe.*[3]", private}          but expert 3 of each layer, with its row of the router, is the site's
//   own
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/tensor.h"

namespace conclave {

enum class Sharing : std::uint8_t { shared, by_tokens, kept_private };
/// "shared", "by_tokens", "private". Throws Error on another text.
Sharing parse_sharing(std::string_view text);
std::string_view to_string(Sharing sharing);

/// For the parameters that `pattern` matches as a whole: "*" stands for any characters, and "[0,4-7]" at its
/// end for those experts. What such a pattern says of experts precedes what others say of all.
struct SharingRule {
  std::string pattern;
  Sharing sharing = Sharing::shared;
};

/// A parameter of the flat model, which has them one after another.
struct FlatParameter {
  std::string name;  ///< "layers.0.moe.experts.up.weight"
  Shape shape;
  /// Where dimension 0 is of experts, as a router's rows are, too: the layer's name, "layers.0.moe"; else "".
  std::string layer = {};
  /// Of a layer with experts of several kinds: which expert a row is of is not known, and `layer` is "".
  bool mixed = false;
};

class SharingPolicy {
 public:
  /// What no rule is of, is shared. Throws Error where a rule matches nothing, two contradict each other,
  /// tokens are to be counted where rows are of no expert, experts are named of which nobody knows which rows
  /// are theirs, or nothing would be shared.
  SharingPolicy(std::span<const FlatParameter> parameters, std::span<const SharingRule> rules);

  struct Expert {
    std::string layer;
    Index number;
    bool operator==(const Expert&) const = default;
  };
  /// Whose tokens a site reports, in this order; the coordinator learns so much of what its data is about.
  const std::vector<Expert>& experts() const { return experts_; }

  /// A run of elements that is exchanged; in order, neighbours differ.
  struct Range {
    std::size_t model, exchanged, size;  ///< where it begins in the model and in the exchanged vector
    std::ptrdiff_t expert;               ///< of experts(), by whose tokens it is weighted; -1: by examples
  };
  const std::vector<Range>& ranges() const { return ranges_; }
  std::size_t model_elements() const { return model_elements_; }
  std::size_t exchanged_elements() const { return exchanged_elements_; }

  /// exchanged [exchanged_elements] from model [model_elements].
  void gather(std::span<const float> model, std::span<float> exchanged) const;
  /// The reverse; what is private stays as it is.
  void scatter(std::span<const float> exchanged, std::span<float> model) const;

 private:
  void add(std::size_t size, Sharing sharing, const Expert& expert);

  std::vector<Expert> experts_;
  std::vector<Range> ranges_;
  std::size_t model_elements_ = 0, exchanged_elements_ = 0;
};

/// Throws Error, which names one, where a parameter, or an expert's rows of it, would be exchanged by `asked`
/// that is private by `own`. Both are of `parameters`.
void check_kept_private(std::span<const FlatParameter> parameters, const SharingPolicy& asked,
                        const SharingPolicy& own);

}  // namespace conclave
