#include <catch2/catch.hpp>
#include <numeric>
#include <vector>

#include "parallel/moe/dispatcher.h"
#include "tests/autograd/gradient.h"
#include "tests/parallel/test_world.h"

namespace conclave {
namespace {

constexpr Index kPerRank = 3, kChoices = 2;  // experts, and of them per token

Index experts() { return kPerRank * test_world().size(); }

// The experts of a rank's tokens in trial number `trial`: another number of tokens on every rank, often none,
// with a liking for the first experts.
Tensor choices_of(int rank, std::uint32_t trial) {
  const RandomStream stream{.seed = 8, .step = trial, .tensor = static_cast<std::uint32_t>(rank)};
  const Index tokens = static_cast<Index>(stream.below(5, 0) * stream.below(5, 1));
  const Tensor chosen = Tensor::empty({tokens, kChoices}, DType::i32);
  std::uint64_t drawn = 2;
  for (std::int32_t& expert : chosen.span<std::int32_t>()) {
    const auto one = stream.below(static_cast<std::size_t>(experts()), drawn),
               other = stream.below(static_cast<std::size_t>(experts()), drawn + 1);
    expert = static_cast<std::int32_t>(std::min(one, other));
    drawn += 2;
  }
  return chosen;
}

std::vector<Index> counts_of(const Tensor& chosen) {
  std::vector<Index> counts(static_cast<std::size_t>(experts()));
  kernels::count_experts(chosen, counts);
  return counts;
}

// Rows that say where they come from: rank and token.
Tensor labelled(Index tokens, int rank) {
  std::vector<double> values;
  for (Index t = 0; t < tokens; ++t) values.insert(values.end(), {double(rank), double(t)});
  return Tensor::of<double>({tokens, 2}, values);
}

// A dispatcher that is past its planning.
struct Sealed {
  explicit Sealed(Index capacity) {
    arena.seal(std::size_t{1} << 20);
    dispatcher.set_capacity(capacity);
  }
  Arena arena{"test"};
  Tape tape{arena};
  Dispatcher dispatcher{test_world(), experts(), 1.5};
};

std::uint32_t own_number(std::uint32_t number) {
  return 100 * number + static_cast<std::uint32_t>(test_world().rank());
}

double dot(const Tensor& a, const Tensor& b) {
  REQUIRE(a.shape() == b.shape());
  double sum = 0;
  for (Index i = 0; i < a.numel(); ++i) sum += a.data<double>()[i] * b.data<double>()[i];
  return test_world().sum(sum);
}

TEST_CASE("rows arrive by expert, then source, then order, every one in exactly one round", "[dispatcher]") {
  const int ranks = test_world().size(), me = test_world().rank();
  for (std::uint32_t trial = 0; trial < 12; ++trial) {
    for (const Index capacity : {1, 5, 1000}) {
      CAPTURE(trial, capacity);
      Sealed s(capacity);
      const Tensor chosen = choices_of(me, trial), x = labelled(chosen.size(0), me);
      const DispatchPlan plan = s.dispatcher.plan(s.tape, counts_of(chosen));
      // what must come: this rank's queue, cut into rounds
      struct Row {
        Index expert;
        std::array<double, 2> label;
      };
      std::vector<Row> queue;
      for (Index e = me * kPerRank; e < (me + 1) * kPerRank; ++e)
        for (int source = 0; source < ranks; ++source) {
          const Tensor theirs = choices_of(source, trial);
          for (Index i = 0; i < theirs.numel(); ++i)
            if (theirs.data<std::int32_t>()[i] == e)
              queue.push_back({e, {double(source), double(i / kChoices)}});
        }
      std::size_t at = 0;
      const Tensor back = Tensor::zeros(x.shape(), DType::f64);
      for (Index number = 0; number < plan.rounds; ++number) {
        ArenaScope scope(s.arena);
        const DispatchRound round = s.dispatcher.round(s.tape, plan, chosen, x, number);
        const Tensor rows = s.dispatcher.dispatch(s.tape, x, round, [] {});
        if (ranks > 1) REQUIRE(rows.size(0) <= capacity);
        REQUIRE(rows.size(0) == round.offsets.back());
        for (Index e = 0; e < kPerRank; ++e)
          for (Index row = round.offsets[size_t(e)]; row < round.offsets[size_t(e) + 1]; ++row, ++at) {
            REQUIRE(at < queue.size());
            const double* values = rows.data<double>() + row * 2;
            REQUIRE(std::equal(values, values + 2, queue[at].label.begin()));
            REQUIRE(queue[at].expert == me * kPerRank + e);
          }
        s.dispatcher.combine_into(rows, Tensor(), round, round.away, back, Write::accumulate);
      }
      CHECK(at == queue.size());
      CHECK(distance(back, plus(x, x)) == 0);  // and all return: each token as often as it chose
    }
  }
}

TEST_CASE("dispatch and combine: backward is the transpose", "[dispatcher]") {
  // of a linear map; combine is one of its rows and one of its weights
  const int me = test_world().rank();
  for (std::uint32_t trial = 0; trial < 8; ++trial) {
    CAPTURE(trial);
    Sealed s(1000);
    const Tensor chosen = choices_of(me, trial);
    const DispatchPlan plan = s.dispatcher.plan(s.tape, counts_of(chosen));
    REQUIRE(plan.rounds == 1);
    Tensor x = kept(random_values({chosen.size(0), 4}, own_number(1)));
    s.tape.watch(x);
    const DispatchRound round = s.dispatcher.round(s.tape, plan, chosen, x, 0);
    bool meanwhile = false;
    const Tensor out = s.dispatcher.dispatch(s.tape, x, round, [&] { meanwhile = true; });
    CHECK(meanwhile);
    const Tensor dout = kept(random_values(out.shape(), own_number(2)));
    s.tape.backward(out, dout);
    CHECK(dot(out, dout) == Approx(dot(x, s.tape.gradient(x))).margin(1e-10));

    Tensor rows = kept(random_values({round.rows, 4}, own_number(3))),
           weights = kept(random_values(chosen.shape(), own_number(4)));
    s.tape.watch(rows);
    s.tape.watch(weights);
    const Tensor y = s.dispatcher.combine(s.tape, rows, weights, round);
    const Tensor dy = kept(random_values(y.shape(), own_number(5)));
    s.tape.backward(y, dy);
    const Tensor other_rows = random_values(rows.shape(), own_number(6)),
                 other_weights = random_values(weights.shape(), own_number(7));
    const Tensor along_rows = unwritten(y.shape(), DType::f64), along_weights = along_rows.clone();
    s.dispatcher.combine_into(other_rows, weights, round, round.away, along_rows, Write::assign);
    CHECK(dot(along_rows, dy) == Approx(dot(other_rows, s.tape.gradient(rows))).margin(1e-10));
    s.dispatcher.combine_into(rows, other_weights, round, round.away, along_weights, Write::assign);
    CHECK(dot(along_weights, dy) == Approx(dot(other_weights, s.tape.gradient(weights))).margin(1e-10));
  }
}

TEST_CASE("dispatch and combine: numerical gradients, all ranks at once", "[dispatcher]") {
  // every rank moves the same element of its own inputs; a token's result depends on its own rank's alone
  constexpr Index kTokens = 4;
  const int me = test_world().rank();
  std::vector<std::int32_t> experts_of_tokens;
  for (Index i = 0; i < kTokens * kChoices; ++i)  // an expert in two is nobody's choice
    experts_of_tokens.push_back(static_cast<std::int32_t>((i * i + 3 * me) % experts() / 2 * 2));
  const Tensor chosen = Tensor::of<std::int32_t>({kTokens, kChoices}, experts_of_tokens);
  const auto there_and_back = [&, dispatcher = std::make_shared<Dispatcher>(test_world(), experts(), 1.5)](
                                  Tape& tape, Inputs inputs) {
    const DispatchPlan plan = dispatcher->plan(tape, counts_of(chosen));
    const DispatchRound round = dispatcher->round(tape, plan, chosen, inputs[0], 0);
    const Tensor rows = dispatcher->dispatch(tape, inputs[0], round, [] {});
    return dispatcher->combine(tape, functions::activation(tape, rows, Activation::gelu), inputs[1], round);
  };
  CHECK(gradient_error(there_and_back, {random_values({kTokens, 3}, own_number(1)),
                                        random_values(chosen.shape(), own_number(2))}) < kGradientTolerance);
}

TEST_CASE("combine refuses rows that have another use rather than lose their gradient", "[dispatcher]") {
  Sealed s(1000);
  const Tensor chosen = Tensor::zeros({2, 1}, DType::i32);
  const DispatchPlan plan = s.dispatcher.plan(s.tape, counts_of(chosen));
  const Tensor x = kept(random_values({2, 3}, 1));
  const DispatchRound round = s.dispatcher.round(s.tape, plan, chosen, x, 0);
  Tensor rows = kept(random_values({round.rows, 3}, 2)), weights = kept(random_values({2, 1}, 3));
  s.tape.watch(rows);
  const Tensor y = s.dispatcher.combine(s.tape, rows, weights, round),
               other = functions::activation(s.tape, rows, Activation::relu);
  const auto backward = [&] { s.tape.backward(std::array{Tape::Loss{y, x}, Tape::Loss{other, rows}}); };
  CHECK_THROWS_WITH(backward(), "combine: its rows and weights must have no other use");
}

TEST_CASE("with more rounds the transpose holds for their sum", "[dispatcher]") {
  Sealed s(4);
  const Tensor chosen = choices_of(test_world().rank(), 3);
  const DispatchPlan plan = s.dispatcher.plan(s.tape, counts_of(chosen));
  if (test_world().size() > 1) CHECK(plan.rounds > 1);
  const Tensor x = random_values({chosen.size(0), 2}, own_number(1));
  const Tensor dx = unwritten(x.shape(), DType::f64);
  double forward = 0;
  for (Index number = 0; number < plan.rounds; ++number) {
    const DispatchRound round = s.dispatcher.round(s.tape, plan, chosen, x, number);
    const Tensor out = s.dispatcher.dispatch(s.tape, x, round, [] {}),
                 dout = random_values(out.shape(), own_number(static_cast<std::uint32_t>(number) + 2));
    forward += dot(out, dout);
    s.dispatcher.dispatch_backward(s.tape, dout, round, dx, number == 0 ? Write::assign : Write::accumulate);
  }
  CHECK(forward == Approx(dot(x, dx)).margin(1e-10));
}

TEST_CASE("a planning pass sets the capacity from the largest share and pads up to it", "[dispatcher]") {
  const int ranks = test_world().size(), me = test_world().rank();
  if (ranks == 1) return;  // one rank's rows always fit
  Arena arena("test");
  Tape tape(arena);
  Dispatcher dispatcher(test_world(), experts(), 1.5);
  // every rank sends `me + 2` rows to every expert
  const Tensor chosen = Tensor::empty({(me + 2) * experts(), 1}, DType::i32);
  for (Index t = 0; t < chosen.numel(); ++t)
    chosen.data<std::int32_t>()[t] = static_cast<std::int32_t>(t % experts());
  const DispatchPlan plan = dispatcher.plan(tape, counts_of(chosen));
  const Index largest = (ranks + 1) * experts(), due = kPerRank * (ranks * (ranks + 3) / 2);
  CHECK(dispatcher.capacity() == (3 * largest + 1) / 2);
  CHECK(plan.padded);
  const Tensor x = random_values({chosen.size(0), 3}, own_number(1), DType::f32);
  const DispatchRound round = dispatcher.round(tape, plan, chosen, x, 0);
  const Tensor rows = dispatcher.dispatch(tape, x, round, [] {});
  CHECK(round.padding == dispatcher.capacity() - due);
  CHECK(round.away.size(0) == chosen.size(0));  // as many as could leave
  CHECK(rows.shape() == Shape{dispatcher.capacity(), 3});
  CHECK(round.offsets.back() == dispatcher.capacity());
  CHECK(distance(rows.rows(due, rows.size(0)), Tensor::zeros({round.padding, 3})) == 0);
  const Tensor y = unwritten(x.shape(), DType::f32);
  dispatcher.combine_into(rows, Tensor(), round, round.away, y, Write::assign);
  CHECK(same_bits(y, x));
}

TEST_CASE("a dispatcher that was never planned says what to do", "[dispatcher]") {
  if (test_world().size() == 1) return;
  Sealed s(0);
  CHECK_THROWS_WITH(s.dispatcher.plan(s.tape, counts_of(choices_of(test_world().rank(), 0))),
                    "moe: the dispatcher was given no capacity; run a planning pass or call set_capacity");
}

TEST_CASE("experts that do not divide over the ranks are refused", "[dispatcher]") {
  if (test_world().size() == 1) return;
  const Index too_many = test_world().size() + 1;
  CHECK_THROWS_WITH(Dispatcher(test_world(), too_many, 1.5),
                    "moe: " + std::to_string(too_many) + " experts do not divide over " +
                        std::to_string(test_world().size()) + " ranks");
}

}  // namespace
}  // namespace conclave
