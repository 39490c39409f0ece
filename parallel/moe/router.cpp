#include "parallel/moe/router.h"

#include <algorithm>
#include <cstring>

#include "core/kernels/routing.h"
#include "core/registry.h"
#include "core/xxh3.h"

namespace conclave {
namespace {

class LinearRouter final : public Router {
 public:
  explicit LinearRouter(const RouterOptions& options)
      : Router(options),
        weight_(add_parameter("weight", {options.experts, options.hidden},
                              Initializer::fan_in(options.hidden))) {}

  RouterScope scope() const override { return RouterScope::token; }
  Tensor scores(Tape& tape, const Tensor& x, const Tensor& /*offsets*/) override {
    return functions::linear(tape, x, weight_.value, Tensor());
  }
  double flops(Extent& extent) const override {
    return 2 * static_cast<double>(extent.rows() * weight_.shape.numel());
  }

 private:
  Parameter& weight_;
};

class AttentionRouter final : public Router {
 public:
  AttentionRouter(const RouterOptions& options, RouterScope scope)
      : Router(options),
        scope_(scope),
        attention_(options.hidden, options.heads),
        score_(options.hidden, options.experts, false) {
    add_module("attention", attention_);
    add_module("score", score_);
  }

  RouterScope scope() const override { return scope_; }
  Tensor scores(Tape& tape, const Tensor& x, const Tensor& offsets) override {
    if (scope_ != RouterScope::sequence) return score_(tape, attention_(tape, x, offsets));
    const Tensor mean = attention_.mean(tape, x, offsets);
    const ExampleScope scope(tape, tape.one_row_each());
    return score_(tape, mean);
  }
  double flops(Extent& extent) const override {
    const double attention =
        scope_ == RouterScope::sequence ? attention_.mean_flops(extent) : attention_.flops(extent);
    return attention + score_.flops(extent);
  }

 private:
  RouterScope scope_;
  MultiHeadAttention attention_;
  Linear score_;
};

RouterFactory attention(RouterScope scope) {
  return [scope](const RouterOptions& options) { return std::make_unique<AttentionRouter>(options, scope); };
}

// A static inside a function, so that registrations in other files' initializers find it constructed.
Registry<RouterFactory>& router_registry() {
  static Registry<RouterFactory> kinds(
      "router", "routers",
      {{"linear", [](const RouterOptions& options) { return std::make_unique<LinearRouter>(options); }},
       {"attention", attention(RouterScope::sequence)},
       {"attention_token", attention(RouterScope::token_in_sequence)}});
  return kinds;
}

}  // namespace

// A hash of the bytes of the weights, so that code that changes weights need not announce it. It is computed
// in pieces by several threads, at the speed of memory: 1 MiB for a hidden size of 256.
std::uint64_t Router::version(Arena& arena) {
  constexpr std::size_t kPiece = 64 * 1024;
  struct Piece {
    const std::byte* from;
    std::size_t bytes;
  };
  if (weights_.empty())
    for (const auto& [name, parameter] : named_parameters()) weights_.push_back(parameter);
  Index count = 0;
  for (const Parameter* weight : weights_)
    count += static_cast<Index>((weight->value.bytes() + kPiece - 1) / kPiece);
  const ArenaScope scope(arena);
  const auto pieces = arena.array<Piece>(count);
  const auto hashes = arena.array<std::uint64_t>(count);
  auto next = pieces.begin();
  for (const Parameter* weight : weights_)
    for (std::size_t at = 0; at < weight->value.bytes(); at += kPiece)
      *next++ = {static_cast<const std::byte*>(weight->value.raw()) + at,
                 std::min(kPiece, weight->value.bytes() - at)};
#pragma omp parallel for schedule(static) if (count > 1)
  for (Index i = 0; i < count; ++i) {
    const Piece& piece = pieces[static_cast<std::size_t>(i)];
    hashes[static_cast<std::size_t>(i)] = xxh3_64(piece.from, piece.bytes);
  }
  return xxh3_64(hashes.data(), hashes.size_bytes());
}

// Sequences that are not in the cache are computed together, as a smaller batch.
Tensor Router::cached_scores(Tape& tape, const Tensor& x, const Tensor& offsets, RouteCache& cache) {
  require(scope() != RouterScope::token && x.dtype() == DType::f32,
          "route cache: it serves f32 routers that see more than one token");
  require(
      x.device() == Device::cpu,
      "moe.route_cache_mib: keys are of rows in host memory, and these are on a CUDA device, which scores "
      "them sooner than they are copied; set it to 0");
  const std::uint64_t weights = version(tape.arena());
  const Index sequences = offsets.numel() - 1;
  const auto bounds = offsets.span<std::int32_t>();
  const auto rows_of = [&](std::size_t s) -> std::pair<Index, Index> {
    const auto number = static_cast<Index>(s);
    if (scope() == RouterScope::sequence) return {number, number + 1};
    return {bounds[s], bounds[s + 1]};
  };
  const Tensor decisions =
      tape.empty({scope() == RouterScope::sequence ? sequences : x.size(0), options_.experts}, x.dtype());
  const auto scores_of = [&](std::size_t s) {
    const auto [first, last] = rows_of(s);
    return decisions.span<float>().subspan(static_cast<std::size_t>(first * options_.experts),
                                           static_cast<std::size_t>((last - first) * options_.experts));
  };
  const Tensor packed = tape.empty(x.shape(), x.dtype()),
               packed_offsets = tape.empty({sequences + 1}, DType::i32),
               missing = tape.empty({sequences}, DType::i32);
  const auto ends = packed_offsets.span<std::int32_t>(), number = missing.span<std::int32_t>();
  const auto keys = tape.arena().array<RouteCache::Key>(sequences);
#pragma omp parallel for schedule(static) if (x.numel() > kernels::kParallelElements)
  for (std::size_t s = 0; s < keys.size(); ++s)
    keys[s] = RouteCache::key(weights, x.rows(bounds[s], bounds[s + 1]));
  std::size_t count = 0;
  ends[0] = 0;
  for (std::size_t s = 0; s < keys.size(); ++s) {
    const Index begin = bounds[s], end = bounds[s + 1];
    if (begin == end) {
      std::ranges::fill(scores_of(s), 0.0f);
      continue;
    }
    // Planning assumes an empty cache.
    if (!tape.planning() && cache.find(keys[s], scores_of(s))) continue;
    packed.rows(ends[count], ends[count] + end - begin).copy_from(x.rows(begin, end));
    number[count] = static_cast<std::int32_t>(s);
    ends[count + 1] = ends[count] + static_cast<std::int32_t>(end - begin);
    ++count;
  }
  if (count == 0) return decisions;
  const Tensor computed =
      scores(tape, packed.rows(0, ends[count]), packed_offsets.rows(0, static_cast<Index>(count) + 1));
  const float* result = computed.data<float>();
  for (std::size_t i = 0; i < count; ++i) {
    const auto s = static_cast<std::size_t>(number[i]);
    const auto kept = scores_of(s);
    std::copy_n(result, kept.size(), kept.begin());
    result += kept.size();
    if (!tape.planning()) cache.insert(keys[s], kept);
  }
  return decisions;
}

Tensor Router::decisions(Tape& tape, ForwardContext& context, const Tensor& x, const Tensor& offsets,
                         RouteCache* cache) {
  const bool per_sequence = scope() == RouterScope::sequence;
  const Tensor decisions =
      cache && !context.training ? cached_scores(tape, x, offsets, *cache) : scores(tape, x, offsets);
  kernels::expect("router", "its scores", decisions,
                  {per_sequence ? offsets.numel() - 1 : x.size(0), options_.experts}, x.dtype());
  if (!context.training || options_.noise <= 0) return decisions;
  const Index first = (per_sequence ? context.first_sequence : context.first_token) * options_.experts;
  const Tensor noise = tape.empty(decisions.shape(), decisions.dtype());
  kernels::normal_noise(context.next_stream(), first, options_.noise, noise);
  return functions::add(tape, decisions, noise);
}

Tensor Router::for_tokens(Tape& tape, const Tensor& decisions, const Tensor& offsets, Index tokens) const {
  if (scope() != RouterScope::sequence) return decisions;
  if (!tape.recording() && tape.device() == Device::cpu) {
    const auto bounds = offsets.span<std::int32_t>();
    const Tensor repeated = tape.empty({tokens, decisions.size(1)}, decisions.dtype());
    const std::size_t bytes =
        decisions.bytes() / static_cast<std::size_t>(std::max<Index>(decisions.size(0), 1));
    const auto* from = static_cast<const std::byte*>(decisions.raw());
    auto* to = static_cast<std::byte*>(repeated.raw());
    for (std::size_t s = 0; s + 1 < bounds.size(); ++s, from += bytes)
      for (std::int32_t token = bounds[s]; token < bounds[s + 1]; ++token, to += bytes)
        std::memcpy(to, from, bytes);
    return repeated;
  }
  const Tensor sequence_of = tape.empty({tokens}, DType::i32);
  kernels::segment_numbers(offsets, sequence_of);
  return functions::embedding(tape, sequence_of, decisions);
}

RouterRegistration::RouterRegistration(const std::string& name, RouterFactory factory, const char*) {
  register_kind([=](const std::string& plugin) { router_registry().add(name, factory, plugin); });
}

void expect_router_kind(const std::string& name) { router_registry().find(name); }

std::vector<std::string> router_kinds() { return router_registry().names(); }

std::unique_ptr<Router> make_router(const std::string& name, const RouterOptions& options) {
  return router_registry().make(name, options);
}

}  // namespace conclave
