// Multiplies two matrices, asks for a gradient, and adds an expert kind of its own.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include "autograd/functions/functions.h"
#include "core/arena.h"
#include "parallel/moe/expert.h"

namespace {

struct DoublingExperts : conclave::BaseExpert {
  using BaseExpert::BaseExpert;
  conclave::Tensor forward(conclave::Tape& tape, const conclave::ExpertInput& input) override {
    return conclave::functions::add(tape, input.rows, input.rows);
  }
};
CONCLAVE_REGISTER_EXPERT("doubling", DoublingExperts);

}  // namespace

int main() {
  using namespace conclave;
  Arena arena("activations");
  Tape tape(arena);
  const Tensor x = Tensor::of<float>({1, 2}, {1, 2});
  Tensor w = Tensor::of<float>({2, 2}, {1, 2, 1, 2.5F});
  tape.watch(w);
  const Tensor y = functions::matmul(tape, x, w);
  tape.backward(y, Tensor::of<float>({1, 2}, {1, 1}));
  fmt::print("x w = {}\ndw = {}\n", y.span<float>(), tape.gradient(w).span<float>());

  const Tensor doubled =
      make_experts("doubling", {.hidden = 2, .ffn = 2, .count = 1, .total = 1})->forward(tape, {x, {}});
  fmt::print("doubled {}; kinds of experts: {}\n", doubled.span<float>(), expert_kinds());
  return doubled.span<float>()[1] == 4 ? 0 : 1;
}
