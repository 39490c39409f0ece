#include "recipes/models/wide_classifier.h"

#include <catch2/catch.hpp>
#include <cmath>

#include "autograd/nn/parameter_set.h"
#include "data/bigrams.h"
#include "tests/autograd/gradient.h"
#include "tests/fixtures/fixture.h"

namespace conclave {
namespace {

TEST_CASE("the wide classifier's scores, losses and gradient agree with PyTorch", "[pytorch]") {
  const Fixture fixture("wide_classifier");
  const Tensor tokens = fixture("tokens", DType::i32), offsets = fixture("offsets", DType::i32),
               labels = kept(fixture("labels", DType::i32)), known = fixture("known", DType::i32),
               weight = fixture("weight");
  std::vector<std::int64_t> bigrams;
  for (Index i = 0; i < known.size(0); ++i) {
    const auto* pair = known.data<std::int32_t>() + 2 * i;
    bigrams.push_back(bigram(pair[0], pair[1]));
  }
  WideClassifier wide(7, known.size(0), 5);
  wide.set_bigrams(bigrams);
  ParameterSet parameters(wide, DType::f64, 1);
  Parameter& own = *wide.named_parameters().front().second;
  REQUIRE(own.value.shape() == weight.shape());
  own.value.copy_from(weight);
  Arena arena("test");
  Tape tape(arena);
  const Tensor scores = wide(tape, tokens, offsets);
  CHECK(distance(scores, fixture("scores")) < 1e-12);
  const Tensor losses = functions::squared_hinge(tape, scores, labels);
  CHECK(distance(losses, fixture("losses")) < 1e-12);
  tape.backward(losses, fixture("dy"));
  CHECK(distance(own.slot.gradient, fixture("dweight")) < 1e-12);
}

TEST_CASE("a wide classifier with spare capacity knows only the given bigrams", "[models]") {
  WideClassifier wide(4, 6, 2);
  wide.set_bigrams(std::vector{bigram(0, 1), bigram(2, 3)});
  ParameterSet parameters(wide, DType::f64, 1);
  Tensor& weight = wide.named_parameters().front().second->value;
  REQUIRE(weight.shape() == Shape{4 + 6 + 1, 2});
  for (Index i = 0; i < weight.numel(); ++i) weight.data<double>()[i] = double(i / 2);  // row i holds i
  Arena arena("test");
  Tape tape(arena, false);
  const Tensor tokens = Tensor::of<std::int32_t>({4}, {2, 3, 1, 0}),
               offsets = Tensor::of<std::int32_t>({3}, {0, 3, 4});
  const Tensor scores = wide(tape, tokens, offsets);
  const double first = 10 * (2 + 3 + 1 + 5 + 10) / std::sqrt(5.0);  // 2, 3, 1, bigram (2, 3), shared row
  CHECK(scores.data<double>()[0] == Approx(first));
  CHECK(scores.data<double>()[2] == Approx(10 * (0 + 10) / std::sqrt(2.0)));

  CHECK_THROWS_AS(wide.set_bigrams(std::vector<std::int64_t>(7)), Error);
  CHECK_THROWS_AS(wide.set_bigrams(std::vector{bigram(2, 3), bigram(0, 1)}), Error);
}

}  // namespace
}  // namespace conclave
