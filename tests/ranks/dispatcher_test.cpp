#include <algorithm>
#include <catch2/catch.hpp>
#include <functional>
#include <numeric>
#include <vector>

#include "core/random.h"
#include "parallel/moe/dispatcher.h"
#include "tests/autograd/gradient.h"
#include "tests/ranks/test_world.h"

namespace conclave {
namespace {

constexpr Index kPerRank = 3, kChoices = 2;  // experts per rank; experts chosen per token

Index experts() { return kPerRank * test_world().size(); }

// The experts chosen by a rank's tokens in trial number `trial`. The number of tokens differs between ranks
// and is often zero; the first experts are chosen more often.
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

// Rows that identify their origin: rank and token.
Tensor labelled(Index tokens, int rank) {
  std::vector<double> values;
  for (Index t = 0; t < tokens; ++t) values.insert(values.end(), {double(rank), double(t)});
  return Tensor::of<double>({tokens, 2}, values);
}

// A dispatcher after its planning pass.
struct Sealed {
  explicit Sealed(Index capacity, Index chunks = 1)
      : dispatcher(test_world(), experts(), 1.5, false, chunks) {
    arena.seal(std::size_t{1} << 20);
    dispatcher.set_capacity(capacity);
  }
  Arena arena{"test"};
  Tape tape{arena};
  Dispatcher dispatcher;
};

// Dispatches a round and returns its rows once all have arrived.
Tensor dispatched(Sealed& s, const Tensor& x, const DispatchRound& round) {
  const Tensor rows = s.dispatcher.dispatch(s.tape, x, round, [] {});
  s.dispatcher.wait();
  return rows;
}

// Starts to send back each chunk of `rows`, after applying `make` to it if there is one.
ChunkRows sent_back(Dispatcher& dispatcher, Tape& tape, const Tensor& rows, const DispatchRound& round,
                    const std::function<Tensor(const Tensor&)>& make = {}) {
  ChunkRows results;
  for (std::size_t c = 0; c < round.chunks.size(); ++c) {
    const Tensor arrived = dispatcher.arrive(tape, rows, round, c);
    results[c] = dispatcher.leave(tape, make ? make(arrived) : arrived, round, c);
  }
  return results;
}

std::uint32_t own_number(std::uint32_t number) {
  return 100 * number + static_cast<std::uint32_t>(test_world().rank());
}

double dot(const Tensor& a, const Tensor& b) {
  REQUIRE(a.shape() == b.shape());
  double sum = 0;
  for (Index i = 0; i < a.numel(); ++i) sum += a.data<double>()[i] * b.data<double>()[i];
  return test_world().sum(sum);
}

TEST_CASE("rows arrive by expert, source and order, each in exactly one chunk", "[dispatcher]") {
  const int ranks = test_world().size(), me = test_world().rank();
  for (std::uint32_t trial = 0; trial < 12; ++trial) {
    for (const auto& [capacity, chunks] :
         {std::pair{1, 1}, {5, 1}, {5, 2}, {1000, 1}, {1000, 3}, {1000, 4}}) {
      CAPTURE(trial, capacity, chunks);
      Sealed s(capacity, chunks);
      const Tensor chosen = choices_of(me, trial), x = labelled(chosen.size(0), me);
      const DispatchPlan plan = s.dispatcher.plan(s.tape, counts_of(chosen));
      // The rows that must arrive: this rank's queue, which is cut into rounds.
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
        const Tensor rows = dispatched(s, x, round);
        const Index cut = ranks == 1 ? 1 : chunks;
        REQUIRE(static_cast<Index>(round.chunks.size()) == cut);
        if (ranks > 1) REQUIRE(rows.size(0) <= capacity);
        Index row = 0;
        for (const DispatchChunk& chunk : round.chunks) {
          REQUIRE(chunk.first == row);
          REQUIRE(chunk.rows == chunk.offsets.back());
          REQUIRE(chunk.rows <= (rows.size(0) + cut - 1) / cut);
          for (Index e = 0; e < kPerRank; ++e)
            for (; row < chunk.first + chunk.offsets[size_t(e) + 1]; ++row, ++at) {
              REQUIRE(at < queue.size());
              const double* values = rows.data<double>() + row * 2;
              REQUIRE(std::equal(values, values + 2, queue[at].label.begin()));
              REQUIRE(queue[at].expert == me * kPerRank + e);
            }
        }
        REQUIRE(row == rows.size(0));
        s.dispatcher.combine_into(sent_back(s.dispatcher, s.tape, rows, round), Tensor(), round, back,
                                  Write::accumulate);
      }
      CHECK(at == queue.size());
      CHECK(distance(back, plus(x, x)) == 0);  // all rows return: each token once per chosen expert
    }
  }
}

TEST_CASE("dispatch and combine: backward is the transpose", "[dispatcher]") {
  // Dispatch is a linear map, and combine is linear in its rows and in its weights, so <Ax, y> = <x, A^T y>.
  const int me = test_world().rank();
  for (std::uint32_t trial = 0; trial < 8; ++trial) {
    const Index chunks = 1 + trial % 4;
    CAPTURE(trial, chunks);
    Sealed s(1000, chunks);
    const Tensor chosen = choices_of(me, trial);
    const DispatchPlan plan = s.dispatcher.plan(s.tape, counts_of(chosen));
    REQUIRE(plan.rounds == 1);
    Tensor x = kept(random_values({chosen.size(0), 4}, own_number(1)));
    s.tape.watch(x);
    const DispatchRound round = s.dispatcher.round(s.tape, plan, chosen, x, 0);
    bool meanwhile = false;
    const Tensor out = s.dispatcher.dispatch(s.tape, x, round, [&] { meanwhile = true; });
    CHECK(meanwhile);
    std::vector<Tape::Loss> losses;
    const Tensor dout = random_values(out.shape(), own_number(2));
    for (std::size_t c = 0; c < round.chunks.size(); ++c) {
      const auto& [first, rows, padding, leaving, arriving, offsets] = round.chunks[c];
      losses.push_back({s.dispatcher.arrive(s.tape, out, round, c), kept(dout.rows(first, first + rows))});
    }
    s.tape.backward(losses);
    CHECK(dot(out, dout) == Approx(dot(x, s.tape.gradient(x))).margin(1e-10));

    Tape tape(s.arena);
    Tensor rows = kept(random_values({round.rows, 4}, own_number(3))),
           weights = kept(random_values(chosen.shape(), own_number(4)));
    tape.watch(rows);
    tape.watch(weights);
    const Tensor y = s.dispatcher.combine(tape, sent_back(s.dispatcher, tape, rows, round), weights, round);
    const Tensor dy = kept(random_values(y.shape(), own_number(5)));
    tape.backward(y, dy);
    s.dispatcher.wait();
    const Tensor drows = tape.gradient(rows).clone(), dweights = tape.gradient(weights).clone();
    CHECK_THROWS_WITH(tape.backward(y, dy), "combine: its recording can be walked only once");
    const Tensor other_rows = random_values(rows.shape(), own_number(6)),
                 other_weights = random_values(weights.shape(), own_number(7));
    const Tensor along_rows = unwritten(y.shape(), DType::f64), along_weights = along_rows.clone();
    Tape forgetful(s.arena, false);
    const auto combined = [&](const Tensor& of, const Tensor& by, const Tensor& into) {
      s.dispatcher.combine_into(sent_back(s.dispatcher, forgetful, of, round), by, round, into,
                                Write::assign);
    };
    combined(other_rows, weights, along_rows);
    CHECK(dot(along_rows, dy) == Approx(dot(other_rows, drows)).margin(1e-10));
    combined(rows, other_weights, along_weights);
    CHECK(dot(along_weights, dy) == Approx(dot(other_weights, dweights)).margin(1e-10));
  }
}

TEST_CASE("dispatch and combine: numerical gradients, all ranks at once", "[dispatcher]") {
  // All ranks change the same element of their inputs together. This works, because the result of a token
  // depends only on the inputs of its own rank.
  constexpr Index kTokens = 4;
  const int me = test_world().rank();
  std::vector<std::int32_t> experts_of_tokens;
  for (Index i = 0; i < kTokens * kChoices; ++i)  // every second expert is not chosen by any token
    experts_of_tokens.push_back(static_cast<std::int32_t>((i * i + 3 * me) % experts() / 2 * 2));
  const Tensor chosen = Tensor::of<std::int32_t>({kTokens, kChoices}, experts_of_tokens);
  for (const Index chunks : {1, 2, 3, 4}) {
    CAPTURE(chunks);
    Dispatcher dispatcher(test_world(), experts(), 1.5, false, chunks);
    const auto there_and_back = [&](Tape& tape, Inputs inputs) {
      const DispatchPlan plan = dispatcher.plan(tape, counts_of(chosen));
      const DispatchRound round = dispatcher.round(tape, plan, chosen, inputs[0], 0);
      const Tensor rows = dispatcher.dispatch(tape, inputs[0], round, [] {});
      const auto make = [&](const Tensor& part) {
        return functions::activation(tape, part, Activation::gelu);
      };
      return dispatcher.combine(tape, sent_back(dispatcher, tape, rows, round, make), inputs[1], round);
    };
    CHECK(gradient_error(there_and_back, {random_values({kTokens, 3}, own_number(1)),
                                          random_values(chosen.shape(), own_number(2))}) <
          kGradientTolerance);
  }
}

TEST_CASE("combine refuses weights with another use, as their gradient would be lost", "[dispatcher]") {
  Sealed s(1000);
  const Tensor chosen = Tensor::zeros({2, 1}, DType::i32);
  const DispatchPlan plan = s.dispatcher.plan(s.tape, counts_of(chosen));
  const Tensor x = kept(random_values({2, 3}, 1));
  const DispatchRound round = s.dispatcher.round(s.tape, plan, chosen, x, 0);
  const Tensor rows = kept(random_values({round.rows, 3}, 2));
  Tensor weights = kept(random_values({2, 1}, 3));
  s.tape.watch(weights);
  const Tensor y = s.dispatcher.combine(s.tape, sent_back(s.dispatcher, s.tape, rows, round), weights, round),
               other = functions::activation(s.tape, weights, Activation::relu);
  const auto backward = [&] { s.tape.backward(std::array{Tape::Loss{y, x}, Tape::Loss{other, weights}}); };
  CHECK_THROWS_WITH(backward(), "combine: its rows and weights must have no other use");
}

TEST_CASE("with several rounds, backward is the transpose of their sum", "[dispatcher]") {
  const Index chunks = GENERATE(1, 3);
  Sealed s(4, chunks);
  const Tensor chosen = choices_of(test_world().rank(), 3);
  const DispatchPlan plan = s.dispatcher.plan(s.tape, counts_of(chosen));
  if (test_world().size() > 1) CHECK(plan.rounds > 1);
  const Tensor x = random_values({chosen.size(0), 2}, own_number(1));
  const Tensor dx = unwritten(x.shape(), DType::f64);
  double forward = 0;
  for (Index number = 0; number < plan.rounds; ++number) {
    const DispatchRound round = s.dispatcher.round(s.tape, plan, chosen, x, number);
    const Tensor out = dispatched(s, x, round),
                 dout = random_values(out.shape(), own_number(static_cast<std::uint32_t>(number) + 2));
    forward += dot(out, dout);
    sent_back(s.dispatcher, s.tape, dout, round);
    s.dispatcher.dispatch_backward(dout, round, dx, number == 0 ? Write::assign : Write::accumulate);
  }
  CHECK(forward == Approx(dot(x, dx)).margin(1e-10));
}

TEST_CASE("a planning pass sets the capacity from the largest share and pads up to it", "[dispatcher]") {
  const int ranks = test_world().size(), me = test_world().rank();
  if (ranks == 1) return;  // on one rank, no capacity is needed
  const Index chunks = GENERATE(1, 4);
  Arena arena("test");
  Tape tape(arena);
  Dispatcher dispatcher(test_world(), experts(), 1.5, false, chunks);
  // Each rank sends `me + 2` rows to each expert.
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
  dispatcher.wait();
  const Index each = (dispatcher.capacity() + chunks - 1) / chunks;  // the largest size of a chunk
  CHECK(round.away.size(0) == chosen.size(0));                       // room for all rows to leave
  CHECK(rows.shape() == Shape{each * chunks, 3});
  Index padding = 0;
  for (const DispatchChunk& chunk : round.chunks) {
    CHECK(chunk.rows == each);
    CHECK(chunk.offsets.back() == each);
    padding += chunk.padding;
  }
  CHECK(padding == rows.size(0) - due);
  CHECK(distance(rows.rows(due, rows.size(0)), Tensor::zeros({padding, 3})) == 0);
  const Tensor y = unwritten(x.shape(), DType::f32);
  dispatcher.combine_into(sent_back(dispatcher, tape, rows, round), Tensor(), round, y, Write::assign);
  CHECK(same_bits(y, x));
}

TEST_CASE("a dispatcher that was never planned says what to do", "[dispatcher]") {
  if (test_world().size() == 1) return;
  Sealed s(0);
  CHECK_THROWS_WITH(s.dispatcher.plan(s.tape, counts_of(choices_of(test_world().rank(), 0))),
                    "moe: the dispatcher was given no capacity; run a planning pass or call set_capacity");
}

TEST_CASE("the number of chunks is the requested one or the default of the device", "[dispatcher]") {
  const auto chunks = [](bool one_round, Index asked) {
    return Dispatcher(test_world(), experts(), 1.5, one_round, asked).chunks();
  };
  CHECK(chunks(false, 3) == (test_world().size() == 1 ? 1 : 3));
  CHECK(chunks(true, 3) == 1);
  CHECK(chunks(false, 0) == 1);  // the default for host memory
  CHECK_THROWS_WITH(chunks(false, 5), "moe: 5 chunks of a round, expected 0 to 4");
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
