// Routers against PyTorch's MultiheadAttention, and what they add on their own.
#include <catch2/catch.hpp>
#include <set>

#include "autograd/nn/parameter_set.h"
#include "core/kernels/softmax.h"
#include "parallel/moe/router.h"
#include "tests/core/values.h"
#include "tests/fixtures/fixture.h"

namespace conclave {
namespace {

Tensor token_scores(Router& router, Tape& tape, ForwardContext& context, const Tensor& x,
                    const Tensor& offsets, RouteCache* cache = nullptr) {
  return router.for_tokens(tape, router.decisions(tape, context, x, offsets, cache), offsets, x.size(0));
}

TEMPLATE_TEST_CASE("attention routers agree with PyTorch, per sequence and per token", "[router][pytorch]",
                   float, double) {
  constexpr DType dtype = dtype_of<TestType>;
  const double agreement = dtype == DType::f32 ? 1e-5 : 1e-10;
  for (const std::string kind : {"attention", "attention_token"}) {
    CAPTURE(kind);
    const Fixture fixture("router_" + kind);
    const auto router = make_router(kind, {.hidden = 12, .experts = 5});
    ParameterSet parameters(*router, dtype, 0);
    for (Parameter* parameter : parameters.parameters())
      parameter->value.copy_from(fixture(parameter->name, dtype));
    const Tensor owner = fixture("x", dtype), offsets = fixture("offsets", DType::i32);
    Tensor x = Tensor::borrow(owner.raw(), owner.shape(), dtype);
    Arena arena("test");
    Tape tape(arena);
    tape.watch(x);
    ForwardContext context;
    const Tensor y = token_scores(*router, tape, context, x, offsets);
    CHECK(distance(y, fixture("y")) < agreement);
    const Tensor probabilities = Tensor::empty(y.shape(), dtype);
    kernels::softmax(y, probabilities, Tensor());
    CHECK(distance(probabilities, fixture("probabilities")) < agreement);
    tape.backward(y, fixture("dy", dtype));
    CHECK(distance(tape.gradient(x), fixture("dx")) < agreement);
    for (const Parameter* parameter : parameters.parameters()) {
      CAPTURE(parameter->name);
      CHECK(distance(parameter->slot.gradient, fixture("d" + parameter->name)) < agreement);
    }
  }
}

TEST_CASE("a router that decides per sequence gives all its tokens one row, also with noise", "[router]") {
  const auto router = make_router("attention", {.hidden = 8, .experts = 4, .heads = 2, .noise = 1});
  CHECK(router->scope() == RouterScope::sequence);
  ParameterSet parameters(*router, DType::f32, 0);
  const Tensor x = random_values({7, 8}, 1, DType::f32),
               offsets = Tensor::of<std::int32_t>({4}, {0, 4, 4, 7});
  Arena arena("test");
  Tape tape(arena, false);
  ForwardContext context;
  const Tensor noisy = token_scores(*router, tape, context, x, offsets);
  for (const Index row : {1, 2, 3}) CHECK(same_bits(noisy.rows(row, row + 1), noisy.rows(0, 1)));
  CHECK(same_bits(noisy.rows(4, 5), noisy.rows(6, 7)));
  CHECK(distance(noisy.rows(0, 1), noisy.rows(4, 5)) > 0.01);
  context.training = false;
  const Tensor calm = token_scores(*router, tape, context, x, offsets);
  CHECK(distance(noisy, calm) > 0.1);
  CHECK(same_bits(token_scores(*router, tape, context, x, offsets), calm));
}

TEST_CASE("cached router scores have the computed bits until a weight changes", "[router]") {
  for (const std::string kind : {"attention", "attention_token"}) {
    CAPTURE(kind);
    const auto router = make_router(kind, {.hidden = 8, .experts = 4, .heads = 2, .noise = 1});
    ParameterSet parameters(*router, DType::f32, 0);
    const Tensor x = random_values({90, 8}, 1, DType::f32);
    x.rows(70, 73).copy_from(x.rows(0, 3));  // a sequence twice in one batch
    const Tensor offsets = Tensor::of<std::int32_t>({6}, {0, 3, 3, 70, 73, 90});
    ForwardContext context;
    context.training = false;
    RouteCache cache(1 << 16, 4, 100);
    Arena arena("test");
    const auto scores = [&](RouteCache* cache, const Tensor& rows, const Tensor& sequences) {
      Tape tape(arena, false);
      return token_scores(*router, tape, context, rows, sequences, cache).clone();
    };
    scores(&cache, x, offsets);  // the planning pass does not fill the cache
    CHECK(cache.statistics().entries == 0);
    arena.seal();
    const auto run = [&](RouteCache* cache) {
      arena.reset();
      return scores(cache, x, offsets);
    };
    const Tensor expected = run(nullptr);
    CHECK(same_bits(run(&cache), expected));
    CHECK(cache.statistics().misses == 4);
    CHECK(cache.statistics().entries == 3);
    CHECK(same_bits(run(&cache), expected));
    CHECK(cache.statistics().hits == 4);

    arena.reset();  // a cached sequence in another batch, together with a new one
    const Tensor part = Tensor::empty({5, 8});
    part.rows(0, 2).copy_from(x.rows(80, 82));
    part.rows(2, 5).copy_from(x.rows(0, 3));
    const Tensor mixed = scores(&cache, part, Tensor::of<std::int32_t>({3}, {0, 2, 5}));
    CHECK(same_bits(mixed.rows(2, 5), expected.rows(0, 3)));
    CHECK(cache.statistics().hits == 5);

    for (const Parameter* parameter : parameters.parameters()) {
      CAPTURE(parameter->name);
      parameter->value.data<float>()[0] += 0.25f;
      const Index misses = cache.statistics().misses;
      CHECK(same_bits(run(&cache), run(nullptr)));
      CHECK(cache.statistics().misses == misses + 4);
    }
  }
}

TEST_CASE("training computes its scores, and a router of single tokens has no cache", "[router]") {
  const auto router = make_router("attention", {.hidden = 8, .experts = 4, .heads = 2}),
             linear = make_router("linear", {.hidden = 8, .experts = 4});
  ParameterSet parameters(*router, DType::f32, 0), linear_parameters(*linear, DType::f32, 0);
  const Tensor x = random_values({6, 8}, 1, DType::f32), offsets = Tensor::of<std::int32_t>({3}, {0, 4, 6});
  RouteCache cache(1 << 16, 4, 6);
  Arena arena("test");
  Tape tape(arena, false);
  ForwardContext context;
  token_scores(*router, tape, context, x, offsets, &cache);
  CHECK(cache.statistics().misses == 0);
  context.training = false;
  CHECK_THROWS_WITH(token_scores(*linear, tape, context, x, offsets, &cache),
                    Catch::Contains("route cache: "));
}

TEST_CASE("a user-defined router is found by its name; an unknown name is refused", "[router]") {
  struct Constant : Router {
    using Router::Router;
    RouterScope scope() const override { return RouterScope::token; }
    Tensor scores(Tape& tape, const Tensor& x, const Tensor&) override {
      const Tensor scores = tape.empty({x.size(0), options_.experts + wrong}, x.dtype());
      scores.fill(2);
      return scores;
    }
    Index wrong = 0;
  };
  const RouterRegistration mine(
      "test_constant", [](const RouterOptions& options) { return std::make_unique<Constant>(options); });
  const auto router = make_router("test_constant", {.hidden = 3, .experts = 2});
  Arena arena("test");
  Tape tape(arena, false);
  ForwardContext context;
  const Tensor x = random_values({5, 3}, 1, DType::f32), offsets = Tensor::of<std::int32_t>({2}, {0, 5});
  CHECK(token_scores(*router, tape, context, x, offsets).shape() == Shape{5, 2});
  dynamic_cast<Constant&>(*router).wrong = 1;
  CHECK_THROWS_WITH(token_scores(*router, tape, context, x, offsets),
                    Catch::Contains("router: its scores is f32 [5, 3]"));
  CHECK_THROWS_WITH(
      make_router("psychic", {.hidden = 3, .experts = 2}),
      Catch::Contains("no kind of router is named 'psychic'; there are: attention, attention_token, "
                      "linear"));
}

}  // namespace
}  // namespace conclave
