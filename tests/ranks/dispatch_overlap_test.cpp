// Rows are sent while other rows are computed: tests the order of exchanges and of the experts' computations.
#include <fmt/format.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "autograd/nn/parameter_set.h"
#include "parallel/moe/moe_layer.h"
#include "tests/autograd/gradient.h"
#include "tests/ranks/moe_run.h"

namespace conclave {
namespace {

std::vector<std::string> notes;
int exchanges = 0;
bool failing = false;  // whether the experts throw, from the second chunk on

// Wraps a communicator and records when each exchange, by its number, is started and waited for.
class NotingCommunicator final : public Communicator {
 public:
  explicit NotingCommunicator(std::unique_ptr<Communicator> other) : other_(std::move(other)) {}

  int rank() const override { return other_->rank(); }
  int size() const override { return other_->size(); }
  void barrier() override { other_->barrier(); }
  void all_reduce(const Tensor& values, Reduction reduction) override {
    other_->all_reduce(values, reduction);
  }
  Request start_all_reduce(const Tensor& values, Reduction reduction) override {
    return other_->start_all_reduce(values, reduction);
  }
  void broadcast(const Tensor& values, int root) override { other_->broadcast(values, root); }
  void all_gather(const Tensor& mine, const Tensor& gathered) override { other_->all_gather(mine, gathered); }
  void all_to_all(const Tensor& send, std::span<const Index> send_rows, const Tensor& receive,
                  std::span<const Index> receive_rows) override {
    other_->all_to_all(send, send_rows, receive, receive_rows);
  }
  Request start_exchange(const Tensor& send, std::span<const PeerRows> leaving, const Tensor& receive,
                         std::span<const PeerRows> arriving) override {
    notes.push_back(fmt::format("start {}", exchanges));
    requests_.push_back(other_->start_exchange(send, leaving, receive, arriving));
    first_ = std::min(first_, exchanges);
    return Request(*this, nullptr, exchanges++);
  }
  std::unique_ptr<Communicator> split(int colour) override {
    return std::make_unique<NotingCommunicator>(other_->split(colour));
  }

 private:
  bool finish(void*&, int number, bool block) override {
    REQUIRE(block);
    notes.push_back(fmt::format("wait {}", number));
    requests_[static_cast<std::size_t>(number - first_)].wait();
    return true;
  }

  std::unique_ptr<Communicator> other_;
  std::vector<Request> requests_;
  int first_ = std::numeric_limits<int>::max();
};

// Experts that record when they compute.
struct NotingExperts : BaseExpert {
  using BaseExpert::BaseExpert;
  Parameter& weight =
      add_expert_parameter("weight", {options_.hidden, options_.hidden}, Initializer::normal(1));
  Tensor forward(Tape& tape, const ExpertInput& input) override {
    require(!failing || std::ranges::count(notes, "compute") == 0, "out of order");
    notes.push_back("compute");
    const Tensor rows = tape.tap(input.rows);
    tape.record("note", {&input.rows}, {&rows}, [from = input.rows, rows](Tape& tape) {
      notes.push_back("compute");
      tape.pass_gradient(tape.gradient(rows), from);
    });
    return functions::grouped_linear(tape, rows, input.offsets, weight.value, Tensor());
  }
};
CONCLAVE_REGISTER_EXPERT("test_noting", NotingExperts);

MoeOptions noted_layer(Index chunks) {
  MoeOptions options;
  options.hidden = 6;
  options.ffn = 4;
  options.shared_experts = 1;
  options.expert = "test_noting";
  options.balancer = "none";
  options.dispatch_chunks = chunks;
  return options;
}

TEST_CASE("while a chunk is computed, the next one is sent, forward and backward", "[moe]") {
  const int asked = GENERATE(1, 2, 3, 4), chunks = test_world().size() == 1 ? 1 : asked;
  const ProcessGrid grid(std::make_unique<NotingCommunicator>(test_world().split(0)), 0);
  MoeLayer layer(noted_layer(asked), grid);
  ParameterSet parameters(layer, DType::f64, 7);
  for (Parameter* parameter : parameters.parameters())
    if (parameter->name == "shared.up.weight")
      parameter->slot.on_ready = [](void*, GradientSlot&) { notes.push_back("shared"); };
  Arena arena("test");
  ForwardContext context;
  Tape tape(arena);
  Tensor x = kept(random_values({30, 6}, static_cast<std::uint32_t>(test_world().rank())));
  tape.watch(x);
  const Tensor dy = random_values(x.shape(), 2), offsets = one_sequence(30);
  notes.clear();
  exchanges = 0;
  tape.backward(layer(tape, context, x, offsets), dy);

  std::vector<std::string> expected;
  int started = 0;
  const auto start = [&] { expected.push_back(fmt::format("start {}", started++)); };
  const auto wait = [&](int number) { expected.push_back(fmt::format("wait {}", number)); };
  for (int first : {0, 2 * chunks}) {  // forward and backward
    for (int c = 0; c < chunks; ++c) start();
    for (int c = 0; c < chunks; ++c) {
      wait(first + c);
      expected.push_back("compute");
      start();
    }
    if (first > 0 && chunks > 1) expected.push_back("shared");
    for (int c = 0; c < chunks; ++c) wait(first + chunks + (first > 0 ? chunks - 1 - c : c));
    if (first > 0 && chunks == 1) expected.push_back("shared");
  }
  CHECK(notes == expected);
}

TEST_CASE("experts that fail leave no rows under way", "[moe]") {
  if (test_world().size() == 1) return;
  const ProcessGrid grid(std::make_unique<NotingCommunicator>(test_world().split(0)), 0);
  MoeLayer layer(noted_layer(4), grid);
  ParameterSet parameters(layer, DType::f64, 7);
  Arena arena("test");
  ForwardContext context;
  Tape tape(arena);
  const Tensor x = random_values({30, 6}, static_cast<std::uint32_t>(test_world().rank()));
  notes.clear();
  failing = true;
  CHECK_THROWS_WITH(layer(tape, context, x, one_sequence(30)), Catch::Contains("out of order"));
  failing = false;
  const auto count = [](const char* what) {
    return std::ranges::count_if(notes, [&](const std::string& note) { return note.starts_with(what); });
  };
  CHECK(count("start") == 5);
  CHECK(count("wait") == 5);
}

}  // namespace
}  // namespace conclave
