#include "parallel/moe/router.h"

#define XXH_INLINE_ALL  // for this processor
#include <xxhash.h>

#include "parallel/moe/registry.h"

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
    Tensor attended = attention_(tape, x, offsets);
    if (scope_ == RouterScope::sequence) attended = functions::segment_mean(tape, attended, offsets);
    return score_(tape, attended);
  }

 private:
  RouterScope scope_;
  MultiHeadAttention attention_;
  Linear score_;
};

RouterFactory attention(RouterScope scope) {
  return [scope](const RouterOptions& options) { return std::make_unique<AttentionRouter>(options, scope); };
}

// A function's static, so that registrations in other files' initializers find it constructed.
Registry<RouterFactory>& registry() {
  static Registry<RouterFactory> kinds(
      "router", "routers",
      {{"linear", [](const RouterOptions& options) { return std::make_unique<LinearRouter>(options); }},
       {"attention", attention(RouterScope::sequence)},
       {"attention_token", attention(RouterScope::token_in_sequence)}});
  return kinds;
}

}  // namespace

// Of the weights' bytes, so that nobody who changes them needs to say so; read at the memory's speed, 1 MiB
// for a hidden size of 256.
std::uint64_t Router::version() const {
  std::uint64_t version = 0;
  for (const auto& [name, parameter] : named_parameters())
    version = XXH3_64bits_withSeed(
        parameter->value.raw(),
        static_cast<std::size_t>(parameter->value.numel()) * size_of(parameter->value.dtype()), version + 1);
  return version;
}

// What is missing is computed together, as sequences of a smaller batch.
Tensor Router::cached_scores(Tape& tape, const Tensor& x, const Tensor& offsets, RouteCache& cache) {
  require(scope() != RouterScope::token && x.dtype() == DType::f32,
          "route cache: it serves f32 routers that see more than one token");
  const std::uint64_t weights = version();
  const Index sequences = offsets.numel() - 1;
  const auto bounds = offsets.span<std::int32_t>();
  const auto rows_of = [&](Index s) -> std::pair<Index, Index> {
    if (scope() == RouterScope::sequence) return {s, s + 1};
    return {bounds[static_cast<std::size_t>(s)], bounds[static_cast<std::size_t>(s) + 1]};
  };
  const Tensor decisions =
      tape.empty({scope() == RouterScope::sequence ? sequences : x.size(0), options_.experts}, x.dtype());
  const Tensor packed = tape.empty(x.shape(), x.dtype()),
               packed_offsets = tape.empty({sequences + 1}, DType::i32),
               missing = tape.empty({sequences}, DType::i32);
  const auto ends = packed_offsets.span<std::int32_t>(), number = missing.span<std::int32_t>();
  const auto keys = tape.arena().array<RouteCache::Key>(sequences);
  std::size_t count = 0;
  ends[0] = 0;
  for (Index s = 0; s < sequences; ++s) {
    const Index begin = bounds[static_cast<std::size_t>(s)], end = bounds[static_cast<std::size_t>(s) + 1];
    const auto [first, last] = rows_of(s);
    const Tensor features = x.rows(begin, end), found = decisions.rows(first, last);
    RouteCache::Key& key = keys[static_cast<std::size_t>(s)];
    key = RouteCache::key(weights, features);
    if (begin == end) {
      found.zero();
      continue;
    }
    // Memory is planned as if nothing were there.
    if (!tape.planning() && cache.find(key, found.span<float>())) continue;
    packed.rows(ends[count], ends[count] + end - begin).copy_from(features);
    number[count] = static_cast<std::int32_t>(s);
    ends[count + 1] = ends[count] + static_cast<std::int32_t>(end - begin);
    ++count;
  }
  if (count == 0) return decisions;
  const Tensor computed =
      scores(tape, packed.rows(0, ends[count]), packed_offsets.rows(0, static_cast<Index>(count) + 1));
  Index row = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const auto [first, last] = rows_of(number[i]);
    const Tensor result = computed.rows(row, row + last - first);
    row += last - first;
    decisions.rows(first, last).copy_from(result);
    if (!tape.planning()) cache.insert(keys[static_cast<std::size_t>(number[i])], result.span<float>());
  }
  return decisions;
}

Tensor Router::operator()(Tape& tape, ForwardContext& context, const Tensor& x, const Tensor& offsets,
                          RouteCache* cache) {
  const bool per_sequence = scope() == RouterScope::sequence;
  Tensor decisions =
      cache && !context.training ? cached_scores(tape, x, offsets, *cache) : scores(tape, x, offsets);
  const Index sequences = offsets.numel() - 1;
  kernels::expect("router", "its scores", decisions, {per_sequence ? sequences : x.size(0), options_.experts},
                  x.dtype());
  if (context.training && options_.noise > 0) {
    const RandomStream stream = context.next_stream();
    const auto first = static_cast<std::uint64_t>(
        (per_sequence ? context.first_sequence : context.first_token) * options_.experts);
    const Tensor noise = tape.empty(decisions.shape(), decisions.dtype());
    for_floating(noise.dtype(), "router noise", [&]<class T>(T) {
      T* values = noise.data<T>();
      for (Index i = 0; i < noise.numel(); ++i)
        values[i] = static_cast<T>(options_.noise * stream.normal(first + static_cast<std::uint64_t>(i)));
    });
    decisions = functions::add(tape, decisions, noise);
  }
  if (!per_sequence) return decisions;
  const Tensor sequence_of = tape.empty({x.size(0)}, DType::i32);
  const auto bounds = offsets.span<std::int32_t>();
  for (Index s = 0; s < sequences; ++s)
    sequence_of.rows(bounds[static_cast<std::size_t>(s)], bounds[static_cast<std::size_t>(s) + 1])
        .fill(static_cast<double>(s));
  return functions::embedding(tape, sequence_of, decisions);
}

RouterRegistration::RouterRegistration(const std::string& name, RouterFactory factory, const char*) {
  register_kind([=](const std::string& plugin) { registry().add(name, factory, plugin); });
}

void expect_router_kind(const std::string& name) { registry().find(name); }

std::vector<std::string> router_kinds() { return registry().names(); }

std::unique_ptr<Router> make_router(const std::string& name, const RouterOptions& options) {
  return registry().make(name, options);
}

}  // namespace conclave
