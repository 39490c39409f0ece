// The expert-choice gate, against a sort of the tokens of all ranks.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <numeric>

#include "autograd/gradcheck.h"
#include "parallel/moe/expert_choice.h"
#include "tests/ranks/moe_run.h"

namespace conclave {
namespace {

// `few`: the scores have few different values, so there are many ties.
Tensor scores_of(Index tokens, Index experts, bool few, DType dtype) {
  const Tensor scores = random_values({tokens, experts}, 3, DType::f64);
  for (double& score : scores.span<double>()) score = few ? std::round(std::abs(score)) : std::abs(score);
  return scores.to(dtype);
}

TEMPLATE_TEST_CASE("each expert takes its best tokens of all ranks, earlier ones first", "[expert_choice]",
                   float, double) {
  constexpr Index kExperts = 5;
  const Share share = share_of(6 + 3 * (test_world().rank() % 2));
  for (const bool few : {false, true}) {
    for (const Index capacity :
         {Index{0}, Index{1}, Index{4}, share.total - 1, share.total, share.total + 3}) {
      CAPTURE(few, capacity);
      const Tensor all = scores_of(share.total, kExperts, few, dtype_of<TestType>);
      const Tensor mine = all.rows(share.first, share.first + share.rows).clone();
      Arena arena("test");
      arena.empty({1 << 16}, DType::f64);
      arena.reset();
      arena.seal();
      Tape tape(arena, false);
      const functions::Gate gate = expert_choice_gate(tape, mine, capacity, test_world());
      const TestType* score = all.data<TestType>();
      Tensor expected = Tensor::zeros({share.total, kExperts});
      for (Index e = 0; e < kExperts; ++e) {
        std::vector<Index> order(static_cast<std::size_t>(share.total));
        std::iota(order.begin(), order.end(), Index{0});
        std::ranges::stable_sort(order, std::greater{}, [&](Index t) { return score[t * kExperts + e]; });
        for (Index i = 0; i < std::min(capacity, share.total); ++i)
          expected.data<float>()[order[static_cast<std::size_t>(i)] * kExperts + e] = 1;
      }
      for (Index t = 0; t < share.rows; ++t) {
        std::vector<std::int32_t> wanted;
        for (Index e = 0; e < kExperts; ++e)
          if (expected.data<float>()[(share.first + t) * kExperts + e] > 0)
            wanted.push_back(static_cast<std::int32_t>(e));
        wanted.resize(kExperts, -1);
        const auto found = gate.experts.rows(t, t + 1).span<std::int32_t>();
        CHECK(std::vector<std::int32_t>(found.begin(), found.end()) == wanted);
        for (std::size_t j = 0; j < wanted.size(); ++j)
          CHECK(gate.weights.data<TestType>()[t * kExperts + static_cast<Index>(j)] ==
                (wanted[j] < 0 ? TestType(0) : mine.data<TestType>()[t * kExperts + wanted[j]]));
      }
    }
  }
}

TEST_CASE("expert choice uses the probabilities as weights, with their gradients", "[expert_choice]") {
  const Tensor scores = scores_of(7, 4, false, DType::f64);
  const std::unique_ptr<Communicator> alone = test_world().split(test_world().rank());
  const auto error = gradcheck(
      [&](Tape& tape, std::span<const Tensor> inputs) {
        const Tensor p = functions::softmax(tape, inputs[0]);
        return functions::sum(
            tape,
            functions::multiply(tape, expert_choice_gate(tape, p, 3, *alone).weights,
                                expert_choice_gate(tape, functions::scale(tape, p, 2), 3, *alone).weights));
      },
      {scores});
  CHECK(error.worst < 1e-6);
}

}  // namespace
}  // namespace conclave
