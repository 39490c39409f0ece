#include "parallel/moe/moe_layer.h"

#include <algorithm>
#include <functional>

#include "core/clock.h"
#include "core/kernels/activation.h"
#include "core/kernels/permutation.h"
#include "core/kernels/reduction.h"
#include "parallel/moe/expert_choice.h"

namespace conclave {
namespace {

// Adds the time from construction to destruction.
class Timed {
 public:
  explicit Timed(double& seconds) : seconds_(seconds) { seconds_ -= now(); }
  ~Timed() { seconds_ += now(); }
  Timed(const Timed&) = delete;
  Timed& operator=(const Timed&) = delete;

 private:
  double& seconds_;
};

ExpertOptions expert_options(const MoeOptions& options, const ProcessGrid& grid) {
  const Index count = options.experts / grid.expert_parallel();
  return {.hidden = options.hidden,
          .ffn = options.ffn,
          .first = count * grid.expert_group().rank(),
          .count = count,
          .total = options.experts,
          .quantization = options.quantization,
          .own = options.own};
}

BalancerOptions balancing_options(const MoeOptions& options) {
  BalancerOptions balancing = options.balancing;
  balancing.own = options.own;
  return balancing;
}

bool keeps(const Tape& tape, const DispatchPlan& plan, Index round) {
  return tape.planning() && round + 1 == plan.rounds;
}

// The next round writes to the same host memory, from which a device may still have to copy this round's
// tables (Tape::on_device).
void wait_before_release(const Tape& tape) { synchronize(tape.device()); }

}  // namespace

MoeLayer::MoeLayer(const MoeOptions& options, const ProcessGrid& grid)
    : options_(options),
      grid_(grid),
      router_(make_router(options.router, {options.hidden, options.experts, options.router_heads,
                                           options.router_noise, options.own})),
      experts_(expert_shares(options.expert, options.experts), expert_options(options, grid)),
      balancer_(make_balancer(options.balancer, options.experts, balancing_options(options))),
      dispatcher_(grid.expert_group(), options.experts, options.capacity_factor,
                  experts_.wants_sequences() || options.collects_example_gradients, options.dispatch_chunks) {
  require(options.top_k >= 1 && options.top_k <= options.experts, "moe: top_k {} of {} experts",
          options.top_k, options.experts);
  require(options.gate == "top_k" || options.gate == "expert_choice",
          "no gate is named '{}'; choose top_k or expert_choice", options.gate);
  for (const auto& [name, parameter] : experts_.named_parameters())
    expert_values_.push_back(&parameter->value);
  add_module("router", *router_);
  if (options.route_cache_mib > 0) {
    require(router_->scope() != RouterScope::token,
            "moe.route_cache_mib = {}: router \"{}\" scores each token on its own, in no more time than a "
            "look-up takes; set it to 0, or moe.router to attention or attention_token",
            options.route_cache_mib, options.router);
    route_cache_.emplace(static_cast<std::size_t>(options.route_cache_mib * (1 << 20)), options.experts,
                         router_->scope() == RouterScope::sequence ? 1 : options.longest_sequence);
  }
  add_module("experts", experts_);
  if (options.shared_experts > 0) {
    shared_.emplace(options.hidden, options.ffn * options.shared_experts);
    add_module("shared", *shared_);
  }
  const auto experts = static_cast<std::size_t>(options.experts);
  statistics_.load.assign(experts, 0);
  statistics_.used.assign(experts, 0);
  statistics_.loss.assign(experts, 0);
  statistics_.weight.assign(experts, 0);
}

bool MoeLayer::row_by_row() const {
  return router_->scope() == RouterScope::token && options_.gate == "top_k" && !options_.balance_inference &&
         !experts_.wants_sequences();
}

double MoeLayer::flops(Extent& extent) const {
  Extent decisions = extent;
  const double shared = shared_ ? shared_->flops(extent) : 0;
  return router_->flops(decisions) + static_cast<double>(options_.top_k) * experts_.flops(extent) + shared;
}

void MoeLayer::reset_statistics() {
  std::ranges::fill(statistics_.load, 0);
  std::ranges::fill(statistics_.used, 0);
  std::ranges::fill(statistics_.loss, 0);
  std::ranges::fill(statistics_.weight, 0);
  statistics_.seconds = statistics_.routing_seconds = statistics_.balancing_seconds = 0;
  statistics_.rounds = statistics_.passes = 0;
}

void MoeLayer::attribute_losses(Tape& tape, const Tensor& losses, const Tensor& offsets) {
  const Timed timed(statistics_.balancing_seconds);
  const auto bounds = offsets.span<std::int32_t>();
  const Tensor losses_here = tape.on_host(losses);
  for (const functions::Gate& gate : gates_) {
    const Index sequences = kernels::expect_offsets("attribute_losses", offsets, gate.experts.size(0));
    kernels::expect("attribute_losses", "losses", losses, {sequences}, gate.weights.dtype());
    const Tensor experts = tape.on_host(gate.experts), weights = tape.on_host(gate.weights);
    const std::int32_t* expert = experts.data<std::int32_t>();
    for_floating(losses.dtype(), "attribute_losses", [&]<class T>(T) {
      const T* weight = weights.data<T>();
      for (std::size_t s = 0; s + 1 < bounds.size(); ++s) {
        const auto loss = static_cast<double>(losses_here.data<T>()[s]);
        const Index choices = (bounds[s + 1] - bounds[s]) * gate.experts.size(1);
        for (Index i = 0; i < choices; ++i, ++expert, ++weight) {
          if (*expert < 0) continue;
          statistics_.loss[static_cast<std::size_t>(*expert)] += static_cast<double>(*weight) * loss;
          statistics_.weight[static_cast<std::size_t>(*expert)] += static_cast<double>(*weight);
        }
      }
    });
  }
}

Tensor MoeLayer::chosen_experts(Tape& tape) const {
  if (gates_.size() == 1) return tape.on_host(gates_.front().experts);
  const Index tokens = gates_.front().experts.size(0), uses = static_cast<Index>(gates_.size());
  const Index each = gates_.front().experts.size(1);
  const Tensor chosen = tape.arena().empty_on_host({tokens, uses * each}, DType::i32);
  for (Index use = 0; use < uses; ++use) {
    const Tensor experts = tape.on_host(gates_[static_cast<std::size_t>(use)].experts);
    for (Index t = 0; t < tokens; ++t)
      std::copy_n(experts.data<std::int32_t>() + t * each, each,
                  chosen.data<std::int32_t>() + (t * uses + use) * each);
  }
  return chosen;
}

void MoeLayer::add_gradient_squares(std::span<double> squares) {
  const Timed timed(statistics_.balancing_seconds);
  thread_local std::vector<kernels::RowSquares> rows;  // kept: a training step must not allocate
  rows.clear();
  for (const auto& [parameter, first] : experts_.parameters())
    rows.push_back(
        {parameter->slot.gradient,
         squares.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(parameter->shape[0]))});
  kernels::add_row_squares(rows, grid_.data_parallel());
}

void MoeLayer::weight_gradients() {
  const Timed timed(statistics_.balancing_seconds);
  const auto weights = balancer_->gradient_weights();
  if (weights.empty()) return;
  for (const auto& [parameter, first] : experts_.parameters())
    kernels::scale_rows(
        parameter->slot.gradient,
        weights.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(parameter->shape[0])));
}

functions::Gate MoeLayer::choose_experts(Tape& tape, const ForwardContext& context,
                                         const Tensor& probabilities) {
  if (options_.gate == "expert_choice") {
    const Index choices = std::max(context.global_tokens, probabilities.size(0)) * options_.top_k;
    return expert_choice_gate(tape, probabilities, (choices + options_.experts - 1) / options_.experts,
                              grid_.world());
  }
  const auto in_place = [&](const kernels::Selection& selection) {
    return kernels::Selection{tape.on_device(selection.bias), tape.on_device(selection.factor)};
  };
  const auto count_load = [&](const kernels::Selection& selection, std::span<Index> total) {
    const ArenaScope scope(tape.arena());
    const Tensor experts = tape.empty({probabilities.size(0), options_.top_k}, DType::i32),
                 weights = tape.empty(experts.shape(), probabilities.dtype());
    kernels::top_k_gate(probabilities, in_place(selection), experts, weights, options_.top_p);
    kernels::count_experts(experts, total);
    grid_.world().all_reduce(Tensor::borrow(total.data(), {options_.experts}, DType::i64));
  };
  kernels::Selection selection = balancer_->selection();
  if (tape.planning()) {
    std::vector<Index> ignored(static_cast<std::size_t>(options_.experts));
    count_load(selection, ignored);
  } else if (context.training || (options_.balance_inference && !context.calibrating)) {
    const Timed timed(statistics_.balancing_seconds);
    selection = balancer_->select_batch(std::cref(count_load), context.training);
  }
  // Planning assumes that every token goes to top_k experts.
  return functions::top_k_gate(tape, probabilities, in_place(selection), options_.top_k,
                               tape.planning() ? kernels::TopP{} : options_.top_p);
}

// x [tokens, hidden], offsets [sequences + 1] where the tape is. routing.load is still to be filled.
MoeLayer::Routing MoeLayer::route(Tape& tape, ForwardContext& context, const Tensor& x,
                                  const Tensor& offsets) {
  const Tensor decisions = router_->decisions(tape, context, x, offsets, route_cache());
  // If one decision serves all tokens of a sequence, the gate runs once per decision, and its choice is
  // repeated for the tokens.
  const bool repeat_choice = !tape.recording() && !options_.balance_inference && options_.gate == "top_k" &&
                             tape.device() == Device::cpu && !context.router_scores.defined();
  const auto for_tokens = [&](const Tensor& rows) {
    return router_->for_tokens(tape, rows, offsets, x.size(0));
  };
  Tensor logits = repeat_choice ? decisions : for_tokens(decisions);
  if (context.router_scores.defined()) logits = functions::add(tape, logits, context.router_scores);
  const Tensor probabilities = route_probabilities(tape, logits, offsets, options_.router_losses, context);
  Routing routing{.gate = {},
                  .counts = tape.arena().array<Index>(options_.experts),
                  .load = tape.arena().array<Index>(options_.experts)};
  const Tensor balanced = context.training
                              ? balance_probabilities(tape, probabilities, *balancer_, routing.load, context)
                              : probabilities;
  routing.gate = choose_experts(tape, context, balanced);
  if (repeat_choice) routing.gate = {for_tokens(routing.gate.experts), for_tokens(routing.gate.weights)};
  return routing;
}

// Dispatch, the experts and combine; the shared experts while the rows are under way.
Tensor MoeLayer::through_experts(Tape& tape, const Tensor& x, const Tensor& host_offsets,
                                 const functions::Gate& gate, const DispatchPlan& plan) {
  Tensor shared;
  const auto compute_shared = [&] {
    if (shared_) shared = (*shared_)(tape, x);
  };
  Tensor y;
  if (plan.rounds == 1) {
    DispatchRound round = dispatcher_.round(tape, plan, gate.experts, x, 0);
    if (experts_.wants_sequences() || tape.example_gradients())
      dispatcher_.exchange_sequences(tape, plan, host_offsets, round);
    const Tensor rows = dispatcher_.dispatch(tape, x, round, compute_shared);
    y = dispatcher_.combine(tape, compute_experts(tape, rows, round), gate.weights, round);
  } else {
    compute_shared();
    y = experts_in_rounds(tape, x, gate, plan);
  }
  return shared_ ? functions::add(tape, y, shared) : y;
}

Tensor MoeLayer::operator()(Tape& tape, ForwardContext& context, const Tensor& x, const Tensor& host_offsets,
                            Index use) {
  const double start = now();
  const Tensor offsets = tape.on_device(host_offsets);
  const Tensor entered = tape.tap(x);
  tape.record("moe", {&x}, {&entered}, [this, x, entered](Tape& tape) {
    tape.pass_gradient(tape.gradient(entered), x);
    statistics_.seconds += now();  // backward subtracted the start time where it entered the layer (below)
  });

  const Routing routing = route(tape, context, entered, offsets);
  gates_.resize(static_cast<std::size_t>(use));
  gates_.push_back(routing.gate);
  statistics_.routing_seconds += now() - start;

  kernels::count_experts(routing.gate.experts, routing.counts);
  const DispatchPlan plan = dispatcher_.plan(tape, routing.counts);
  if (balancer_->has_gradient() && context.training) {
    std::ranges::fill(routing.load, 0);
    for (std::size_t i = 0; i < plan.counts.size(); ++i)
      routing.load[i % routing.load.size()] += plan.counts[i];
    grid_.data_group().all_reduce(Tensor::borrow(routing.load.data(), {options_.experts}, DType::i64));
  }
  const Tensor y = through_experts(tape, entered, host_offsets, routing.gate, plan);

  const Tensor left = tape.tap(y);
  tape.record("moe", {&y}, {&left}, [this, y, left](Tape& tape) {
    statistics_.seconds -= now();
    tape.pass_gradient(tape.gradient(left), y);
  });
  std::vector<Index>& counted = context.training ? statistics_.load : statistics_.used;
  for (std::size_t e = 0; e < counted.size(); ++e) counted[e] += routing.counts[e];
  statistics_.rounds += plan.rounds;
  ++statistics_.passes;
  statistics_.seconds += now() - start;
  return left;
}

ChunkRows MoeLayer::compute_experts(Tape& tape, const Tensor& rows, const DispatchRound& round) try {
  ChunkRows results;
  const ExampleScope scope(tape, {{round.sequences}, round.examples, tape.example_gradients()});
  for (std::size_t c = 0; c < round.chunks.size(); ++c) {
    const Tensor arrived = dispatcher_.arrive(tape, rows, round, c);
    const Tensor result = experts_.forward(tape, {arrived, round.chunks[c].offsets, round.sequences});
    results[c] = dispatcher_.leave(tape, result, round, c);
  }
  return results;
} catch (...) {
  dispatcher_.abandon();
  throw;
}

// More rows are due than one round's memory holds. Only the results of a round are kept: each round gives the
// memory of its activations back, and the backward pass sends the rows again and computes them again. In
// planning passes the last round's memory is kept, because other routing needs it for a single round.
Tensor MoeLayer::experts_in_rounds(Tape& tape, const Tensor& x, const functions::Gate& gate,
                                   const DispatchPlan& plan) {
  Tensor y = tape.output(x.shape(), x.dtype(), {&x, &gate.weights});
  const auto write = [](Index number) { return number == 0 ? Write::assign : Write::accumulate; };
  for (Index number = 0; number < plan.rounds; ++number) {
    std::optional<ArenaScope> scope;
    if (!keeps(tape, plan, number) || tape.recording()) scope.emplace(tape.arena());
    Tape forgetful(tape.arena(), false);
    const DispatchRound round = dispatcher_.round(forgetful, plan, gate.experts, x, number);
    const Tensor rows = dispatcher_.dispatch(forgetful, x, round, [] {});
    dispatcher_.combine_into(compute_experts(forgetful, rows, round), gate.weights, round, y, write(number));
    wait_before_release(tape);
  }
  // Without this, the experts' gradients would count as complete between rounds. Nodes with the parameters as
  // inputs, recorded before the node that does the rounds, run after it in the backward pass.
  for (std::span left(expert_values_); !left.empty();) {
    const auto inputs = left.first(std::min(left.size(), Tape::kMostInputs));
    tape.record("experts in rounds", inputs, {&y}, [](Tape&) {});
    left = left.subspan(inputs.size());
  }
  tape.record("experts in rounds", {&x, &gate.weights}, {&y}, [this, x, gate, y, plan, write](Tape& tape) {
    const Tensor dy = tape.gradient(y);
    const auto dx = x.slot ? tape.into(x) : GradientTarget();
    const auto dweights = gate.weights.slot ? tape.into(gate.weights) : GradientTarget();
    require(dweights.write == Write::assign, "moe: the gate's weights must have no other use");
    for (Index number = 0; number < plan.rounds; ++number) {
      std::optional<ArenaScope> scope;
      if (!keeps(tape, plan, number)) scope.emplace(tape.arena());
      Tape again(tape.arena());
      const DispatchRound round = dispatcher_.round(again, plan, gate.experts, x, number);
      Tensor input = x;
      input.slot = nullptr;
      Tensor rows = dispatcher_.dispatch(again, input, round, [] {});
      if (x.slot) again.watch(rows);
      const ChunkRows results = compute_experts(again, rows, round);
      ChunkRows dresults;
      std::array<Tape::Loss, kMostChunks> losses;
      const std::size_t chunks = round.chunks.size();
      for (std::size_t c = 0; c < chunks; ++c) {
        dresults[c] = again.empty(results[c].shape(), results[c].dtype());
        losses[c] = {results[c], dresults[c]};
      }
      dispatcher_.combine_backward(dy, results, gate.weights, round, dresults, dweights.gradient);
      dispatcher_.wait();
      again.backward(std::span(losses).first(chunks));
      if (x.slot)
        dispatcher_.dispatch_backward(again.gradient(rows), round, dx.gradient,
                                      number == 0 ? dx.write : Write::accumulate);
      wait_before_release(tape);
    }
  });
  return y;
}

}  // namespace conclave
