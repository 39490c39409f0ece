// Which parameters of a model a federation shares. A site can keep experts and their router rows private; the
// coordinator never sees those. The shared parameters are packed into one vector, the exchanged vector,
// without gaps and in the model's order.
//
//   {"*.moe.experts.*", by_tokens}   a site's weight is the number of tokens that the expert served there
//   {"*.moe.*[3]", private}          but each site keeps its own expert 3 of each layer, with its router row
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

/// A rule for the parameters whose whole name matches `pattern`: "*" stands for any characters, and "[0,4-7]"
/// at the end selects experts. A rule that selects experts takes precedence over one that does not.
struct SharingRule {
  std::string pattern;
  Sharing sharing = Sharing::shared;

  bool operator==(const SharingRule&) const = default;
};

/// A parameter of the flat model, in which parameters are stored one after another.
struct FlatParameter {
  std::string name;  ///< "layers.0.moe.experts.up.weight"
  Shape shape;
  /// If dimension 0 counts experts, as a router's rows do, too: the layer's name, "layers.0.moe"; else "".
  std::string layer = {};
  /// The layer has experts of several kinds: it is unknown which expert a row belongs to, and `layer` is "".
  bool mixed = false;
};

class SharingPolicy {
 public:
  /// Parameters without a rule are shared. Throws Error if a rule matches no parameter, or selects an expert
  /// that does not exist; if two rules contradict each other; if tokens are to be counted for rows that are
  /// not experts' rows; if experts are selected of a `mixed` parameter; or if nothing would be shared.
  SharingPolicy(std::span<const FlatParameter> parameters, std::span<const SharingRule> rules);

  struct Expert {
    std::string layer;
    Index number;
    bool operator==(const Expert&) const = default;
  };
  /// The experts whose token counts a site reports, in this order. The counts tell the coordinator something
  /// about the site's data.
  const std::vector<Expert>& experts() const { return experts_; }

  /// A run of elements that is exchanged. Ranges are in order; adjacent elements that are weighted alike are
  /// in one range.
  struct Range {
    std::size_t model, exchanged, size;  ///< its beginning in the model and in the exchanged vector
    std::ptrdiff_t expert;  ///< index into experts(): weighted by that expert's tokens; -1: by examples
  };
  const std::vector<Range>& ranges() const { return ranges_; }
  std::size_t model_elements() const { return model_elements_; }
  std::size_t exchanged_elements() const { return exchanged_elements_; }

  /// Packs the shared elements: exchanged [exchanged_elements] from model [model_elements].
  void gather(std::span<const float> model, std::span<float> exchanged) const;

 private:
  void add(std::size_t size, Sharing sharing, const Expert& expert);

  std::vector<Expert> experts_;
  std::vector<Range> ranges_;
  std::size_t model_elements_ = 0, exchanged_elements_ = 0;
};

/// Throws Error, naming the first one, if a parameter or an expert's rows of it are exchanged under `asked`
/// but private under `own`. Both policies are for `parameters`.
void check_kept_private(std::span<const FlatParameter> parameters, const SharingPolicy& asked,
                        const SharingPolicy& own);

}  // namespace conclave
