// Routers score a layer's experts. A score depends on a token alone, on a token within its sequence, or on
// the sequence as a whole; in the last case there is one decision for all tokens of the sequence. A new kind
// is one subclass and one registration, as for experts.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "autograd/nn/layers.h"
#include "core/own_options.h"
#include "core/plugin.h"
#include "parallel/moe/route_cache.h"

namespace conclave {

struct RouterOptions {
  Index hidden = 0, experts = 0;
  Index heads = 4;      ///< heads of the router's self-attention, if it has any
  double noise = 0;     ///< standard deviation of the noise added to scores in training
  OwnOptions own = {};  ///< moe.options, for kinds of plug-ins; read them in the constructor
};

/// What one decision is for, and so what it depends on.
enum class RouterScope : std::uint8_t { token, token_in_sequence, sequence };

class Router : public Module {
 public:
  explicit Router(const RouterOptions& options) : options_(options) {}

  virtual RouterScope scope() const = 0;
  /// x [tokens, hidden], offsets [sequences + 1] i32 -> [decisions, experts]: one row per token, or, for
  /// scope sequence, one row per sequence.
  virtual Tensor scores(Tape& tape, const Tensor& x, const Tensor& offsets) = 0;

  /// scores(), plus noise in training; the result does not depend on the number of ranks. In inference with a
  /// `cache` (may be null), sequences seen before are looked up instead of computed, with scores equal to the
  /// bit. Throws Error if it would look up in a cache, but the scope is token, or x is not f32 in host
  /// memory.
  Tensor decisions(Tape& tape, ForwardContext& context, const Tensor& x, const Tensor& offsets,
                   RouteCache* cache = nullptr);
  /// Expands rows that belong to decisions to rows that belong to `tokens` tokens: for scope sequence,
  /// repeats each row for all tokens of its sequence; for other scopes, returns `decisions` itself. Any dtype
  /// is allowed if the tape does not record and the rows are in host memory.
  Tensor for_tokens(Tape& tape, const Tensor& decisions, const Tensor& offsets, Index tokens) const;

 protected:
  RouterOptions options_;

 private:
  std::uint64_t version(Arena& arena);
  Tensor cached_scores(Tape& tape, const Tensor& x, const Tensor& offsets, RouteCache& cache);

  std::vector<const Parameter*> weights_;  // all parameters; filled by the first look-up
};

using RouterFactory = std::function<std::unique_ptr<Router>(const RouterOptions&)>;

/// Makes `name` known to recipes (moe.router). Static objects of this type register a kind before main. The
/// built-in kinds are:
///   linear           W x, per token (Shazeer et al. 2017, eq. 3)
///   attention        self-attention over the sequence, the mean over it, then W: one decision per sequence
///   attention_token  the same without the mean: one decision per token
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

/// Throws Error, listing the known kinds, if `name` is unknown.
std::unique_ptr<Router> make_router(const std::string& name, const RouterOptions& options);
std::vector<std::string> router_kinds();
/// Throws Error, listing the known kinds, if `name` is unknown.
void expect_router_kind(const std::string& name);

}  // namespace conclave
