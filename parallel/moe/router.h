// Routers score a layer's experts. What a score depends on differs: a token alone, a token among those of its
// sequence, or the sequence as a whole, which then has one decision for all its tokens. A new kind is one
// subclass and one registration, as for experts.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "autograd/nn/layers.h"
#include "core/plugin.h"
#include "parallel/moe/route_cache.h"

namespace conclave {

struct RouterOptions {
  Index hidden = 0, experts = 0;
  Index heads = 4;   ///< of self-attention, where the router has any
  double noise = 0;  ///< standard deviation of what is added to scores in training
};

/// What one decision is for, and so what it depends on.
enum class RouterScope : std::uint8_t { token, token_in_sequence, sequence };

class Router : public Module {
 public:
  explicit Router(const RouterOptions& options) : options_(options) {}

  virtual RouterScope scope() const = 0;
  /// x [tokens, hidden], offsets [sequences + 1] i32 -> [decisions, experts]: one row per token or, for scope
  /// sequence, per sequence.
  virtual Tensor scores(Tape& tape, const Tensor& x, const Tensor& offsets) = 0;

  /// scores(), with noise where it trains; the same on any number of ranks. In inference, sequences that
  /// `cache` has seen before are not computed again; null for none. The scores are the same to the bit.
  /// Throws Error where the scope is token.
  Tensor decisions(Tape& tape, ForwardContext& context, const Tensor& x, const Tensor& offsets,
                   RouteCache* cache = nullptr);
  /// Rows that belong to decisions, of any dtype in host memory where the tape does not record, as rows of
  /// `tokens` tokens: repeated for scope sequence, as they are for the others.
  Tensor for_tokens(Tape& tape, const Tensor& decisions, const Tensor& offsets, Index tokens) const;

 protected:
  RouterOptions options_;

 private:
  std::uint64_t version(Arena& arena);
  Tensor cached_scores(Tape& tape, const Tensor& x, const Tensor& offsets, RouteCache& cache);

  std::vector<const Parameter*> weights_;  // all of them, from the first look-up on
};

using RouterFactory = std::function<std::unique_ptr<Router>(const RouterOptions&)>;

/// Makes `name` known to recipes (moe.router); static objects of this type register a kind before main. There
/// are:
///   linear           W x, per token (Shazeer et al. 2017, eq. 3)
///   attention        self-attention over the sequence, the mean over it, W: one decision per sequence
///   attention_token  the same without the mean
struct RouterRegistration {
  RouterRegistration(const std::string& name, RouterFactory factory, const char* mark = conclave_plugin_abi);
};

/// At namespace scope: CONCLAVE_REGISTER_ROUTER("mine", MyRouter); for `struct MyRouter : Router`.
#define CONCLAVE_REGISTER_ROUTER(name, Kind)                                                    \
  static const ::conclave::RouterRegistration CONCLAVE_UNIQUE_NAME(conclave_router_) {          \
    name, [](const ::conclave::RouterOptions& options) -> std::unique_ptr<::conclave::Router> { \
      return std::make_unique<Kind>(options);                                                   \
    }                                                                                           \
  }

/// Throws Error, listing the kinds there are, on an unknown name.
std::unique_ptr<Router> make_router(const std::string& name, const RouterOptions& options);
std::vector<std::string> router_kinds();
/// Throws that Error.
void expect_router_kind(const std::string& name);

}  // namespace conclave
