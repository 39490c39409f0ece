// The Communicator, on the number of ranks that this binary was started with; ctest runs it on 1, 2 and 4.
#include <catch2/catch.hpp>
#include <numeric>
#include <vector>

#include "parallel/process_grid.h"
#include "tests/ranks/test_world.h"

namespace conclave {
namespace {

using Catch::Matchers::Contains;

struct Exchange {
  std::vector<Index> send_rows, receive_rows;
  Tensor send, receive;
};

// Rank r sends (r + 2 * s) % 3 rows of two numbers to rank s. The numbers encode sender, receiver and row.
Exchange exchange_for(Communicator& world) {
  Exchange e;
  std::vector<float> values;
  const int me = world.rank();
  for (int other = 0; other < world.size(); ++other) {
    e.send_rows.push_back((me + 2 * other) % 3);
    e.receive_rows.push_back((other + 2 * me) % 3);
    for (Index row = 0; row < e.send_rows.back(); ++row) {
      values.push_back(static_cast<float>(100 * me + other));
      values.push_back(static_cast<float>(row));
    }
  }
  e.send = Tensor::of<float>({static_cast<Index>(values.size()) / 2, 2}, values);
  e.receive = Tensor::zeros({std::accumulate(e.receive_rows.begin(), e.receive_rows.end(), Index{0}), 2});
  return e;
}

// The blocks of rows sent to and received from other ranks. The last row of each rank comes first, because
// blocks need not be in order.
struct Blocks {
  Blocks(const Exchange& e, const Communicator& world) {
    const auto cut = [&](const std::vector<Index>& rows, std::vector<PeerRows>& blocks) {
      Index first = 0;
      for (int other = 0; other < world.size(); ++other) {
        const Index count = rows[static_cast<std::size_t>(other)];
        if (other != world.rank() && count > 0) {
          blocks.push_back({other, first + count - 1, 1});
          blocks.push_back({other, first, count - 1});
        }
        first += count;
      }
    };
    cut(e.send_rows, leaving);
    cut(e.receive_rows, arriving);
  }
  std::vector<PeerRows> leaving, arriving;
};

// Copies the rows that this rank sends to itself, which an exchange does not transfer.
void keep_own(const Exchange& e, const Communicator& world) {
  Index from = 0, to = 0;
  for (std::size_t other = 0; other < static_cast<std::size_t>(world.rank()); ++other) {
    from += e.send_rows[other];
    to += e.receive_rows[other];
  }
  const Index count = e.send_rows[static_cast<std::size_t>(world.rank())];
  e.receive.rows(to, to + count).copy_from(e.send.rows(from, from + count));
}

bool arrived(const Exchange& e, const Communicator& world) {
  Index at = 0;
  const float* got = e.receive.data<float>();
  for (int other = 0; other < world.size(); ++other)
    for (Index row = 0; row < e.receive_rows[static_cast<std::size_t>(other)]; ++row, ++at)
      if (got[2 * at] != static_cast<float>(100 * other + world.rank()) ||
          got[2 * at + 1] != static_cast<float>(row))
        return false;
  return at == e.receive.size(0);
}

template <class T>
void check_reductions(Communicator& world) {
  const Index ranks = world.size();
  const T mine = static_cast<T>(world.rank() + 1);
  const auto reduced = [&](Reduction reduction) {
    const Tensor values = Tensor::of<T>({3}, {mine, T{7}, T{0}});
    world.all_reduce(values, reduction);
    return std::vector<T>(values.template span<T>().begin(), values.template span<T>().end());
  };
  CHECK(reduced(Reduction::sum) == std::vector<T>{T(ranks * (ranks + 1) / 2), T(7 * ranks), T{0}});
  CHECK(reduced(Reduction::max) == std::vector<T>{T(ranks), T{7}, T{0}});
  CHECK(reduced(Reduction::min) == std::vector<T>{T{1}, T{7}, T{0}});
}

TEST_CASE("all_reduce sums, maximizes and minimizes every dtype it promises") {
  check_reductions<float>(test_world());
  check_reductions<double>(test_world());
  check_reductions<std::int32_t>(test_world());
  check_reductions<std::int64_t>(test_world());
  check_reductions<std::uint8_t>(test_world());
}

TEST_CASE("start_all_reduce gives the sum after wait and after test") {
  Communicator& world = test_world();
  const Tensor a = Tensor::zeros({1000}), b = Tensor::zeros({1000});
  a.fill(1.0);
  b.fill(world.rank());
  Request first = world.start_all_reduce(a), second = world.start_all_reduce(b);
  while (!second.test()) {
  }
  first.wait();
  first.wait();
  const float ranks = static_cast<float>(world.size());
  CHECK(a.data<float>()[999] == ranks);
  CHECK(b.data<float>()[0] == ranks * (ranks - 1) / 2);
}

TEST_CASE("destroying a request completes it, and a moved-from request is empty") {
  Communicator& world = test_world();
  const Tensor values = Tensor::zeros({100000});
  values.fill(1.0);
  {
    Request first = world.start_all_reduce(values);
    const Request second = std::move(first);
    CHECK(first.test());
  }
  CHECK(values.data<float>()[99999] == static_cast<float>(world.size()));
}

TEST_CASE("all ranks hold the same bits of a floating-point sum") {
  Communicator& world = test_world();
  for (Index count : {3, 1000, 300000}) {
    const Tensor values = Tensor::zeros({count}, DType::f64);
    for (Index i = 0; i < count; ++i)
      values.data<double>()[i] = 1.0 / static_cast<double>(i * 7 + world.rank() + 1);
    world.all_reduce(values);
    const Tensor high = values.clone(), low = values.clone();
    world.all_reduce(high, Reduction::max);
    world.all_reduce(low, Reduction::min);
    CHECK(std::equal(high.span<double>().begin(), high.span<double>().end(), low.span<double>().begin()));
  }
}

TEST_CASE("broadcast and all_gather move any dtype from rank to rank") {
  Communicator& world = test_world();
  const int last = world.size() - 1;
  const Tensor values = Tensor::of<std::int8_t>({2}, {static_cast<std::int8_t>(world.rank()), 5});
  world.broadcast(values, last);
  CHECK(values.data<std::int8_t>()[0] == last);

  const Tensor mine = Tensor::of<BFloat16>({2}, {BFloat16(static_cast<float>(world.rank())), BFloat16(9)});
  const Tensor all = Tensor::zeros({world.size(), 2}, DType::bf16);
  world.all_gather(mine, all);
  for (int r = 0; r < world.size(); ++r)
    CHECK(static_cast<float>(all.data<BFloat16>()[2 * r]) == static_cast<float>(r));
}

TEST_CASE("all_to_all delivers rows in order of rank, also none at all") {
  Communicator& world = test_world();
  const Exchange e = exchange_for(world);
  world.all_to_all(e.send, e.send_rows, e.receive, e.receive_rows);
  CHECK(arrived(e, world));

  const std::vector<Index> none(static_cast<std::size_t>(world.size()), 0);
  const Tensor empty = Tensor::empty({0, 4});
  CHECK_NOTHROW(world.all_to_all(empty, none, empty, none));
}

TEST_CASE("eight exchanges can run at once and do not use the caller's blocks later") {
  Communicator& world = test_world();
  std::vector<Exchange> exchanges;
  std::vector<Request> requests;
  for (int round = 0; round < 3; ++round) {
    for (int i = 0; i < 8; ++i) exchanges.push_back(exchange_for(world));
    for (std::size_t i = exchanges.size() - 8; i < exchanges.size(); ++i) {
      Blocks blocks(exchanges[i], world);
      requests.push_back(
          world.start_exchange(exchanges[i].send, blocks.leaving, exchanges[i].receive, blocks.arriving));
      std::ranges::fill(blocks.leaving, PeerRows{-1, -1, -1});
      std::ranges::fill(blocks.arriving, PeerRows{-1, -1, -1});
    }
    const Tensor empty = Tensor::empty({0, 2});
    CHECK_THROWS_WITH(world.start_exchange(empty, {}, empty, {}), Contains("8 are under way"));
    for (auto request = requests.rbegin(); request != requests.rend(); ++request) request->wait();
    requests.clear();
  }
  for (const Exchange& e : exchanges) {
    keep_own(e, world);
    CHECK(arrived(e, world));
  }
}

TEST_CASE("an exchange is complete once test says so, an empty one at once") {
  Communicator& world = test_world();
  const Exchange e = exchange_for(world);
  const Blocks blocks(e, world);
  Request request = world.start_exchange(e.send, blocks.leaving, e.receive, blocks.arriving);
  while (!request.test()) {
  }
  keep_own(e, world);
  CHECK(arrived(e, world));
  const Tensor empty = Tensor::empty({0, 2});
  CHECK(world.start_exchange(empty, {}, empty, {}).test());
}

TEST_CASE("blocks of an exchange that do not fit are refused before anything is sent") {
  Communicator& world = test_world();
  const Tensor rows = Tensor::zeros({4, 3}), others = Tensor::zeros({4, 2});
  const auto start = [&](PeerRows leaving) { world.start_exchange(rows, {{leaving}}, rows, {}); };
  CHECK_THROWS_WITH(world.start_exchange(rows, {}, others, {}),
                    Contains("start_exchange") && Contains("differ"));
  CHECK_THROWS_WITH(start({world.rank(), 0, 1}), Contains("is not another of the"));
  CHECK_THROWS_WITH(start({world.size(), 0, 1}), Contains("is not another of the"));
  if (world.size() == 1) return;
  const int other = world.rank() == 0 ? 1 : 0;
  CHECK_THROWS_WITH(start({other, 3, 2}), Contains("rows [3, +2)") && Contains("not in send [4, 3]"));
  CHECK_THROWS_WITH(start({other, -1, 1}), Contains("not in send [4, 3]"));
  // Nor is anything left to be received: the next message from that rank is not for these rows.
  const Tensor earlier = Tensor::zeros({4, 3});
  const PeerRows arriving{other, 0, 1}, too_many{other, 3, 2};
  CHECK_THROWS_WITH(world.start_exchange(rows, {{too_many}}, earlier, {{arriving}}),
                    Contains("rows [3, +2)"));
  const Exchange e = exchange_for(world);  // the communicator still works
  const Blocks blocks(e, world);
  world.start_exchange(e.send, blocks.leaving, e.receive, blocks.arriving).wait();
  keep_own(e, world);
  CHECK(arrived(e, world));
  for (const float value : earlier.span<float>()) CHECK(value == 0);
}

TEST_CASE("split groups ranks by colour, and the groups work independently") {
  Communicator& world = test_world();
  const auto parity = world.split(world.rank() % 2);
  CHECK(parity->rank() == world.rank() / 2);
  CHECK(parity->size() == (world.size() + 1 - world.rank() % 2) / 2);
  const Index sum = parity->sum(Index{world.rank()});
  Index expected = 0;
  for (int r = world.rank() % 2; r < world.size(); r += 2) expected += r;
  CHECK(sum == expected);
  CHECK_THROWS_WITH(world.split(-1), Contains("colour -1"));
}

TEST_CASE("text of different lengths reaches every rank") {
  Communicator& world = test_world();
  const std::string mine(static_cast<std::size_t>(world.rank()), static_cast<char>('a' + world.rank()));
  const auto all = world.all_gather(mine);
  REQUIRE(all.size() == static_cast<std::size_t>(world.size()));
  for (std::size_t r = 0; r < all.size(); ++r) CHECK(all[r] == std::string(r, static_cast<char>('a' + r)));
  CHECK(world.broadcast(world.rank() == 0 ? std::string("from\0root", 9) : "other", 0) ==
        std::string("from\0root", 9));
  CHECK(world.sum(0.5) == 0.5 * world.size());
  CHECK(world.max(Index{world.rank()}) == world.size() - 1);
  CHECK(world.max(-0.25 * world.rank()) == 0.0);
}

TEST_CASE("arguments that do not fit are refused, naming the operation") {
  Communicator& world = test_world();
  const Tensor matrix = Tensor::zeros({4, 3});
  CHECK_THROWS_WITH(world.all_reduce(matrix.transpose(0, 1)), Contains("all_reduce") && Contains("gaps"));
  CHECK_THROWS_WITH(world.all_reduce(Tensor::zeros({2}, DType::bf16)),
                    Contains("all_reduce") && Contains("bf16"));
  CHECK_THROWS_WITH(world.broadcast(matrix, world.size()), Contains("broadcast: root"));
  CHECK_THROWS_WITH(world.all_gather(matrix, Tensor::zeros({world.size(), 5})), Contains("does not hold"));

  std::vector<Index> rows(static_cast<std::size_t>(world.size()), 0);
  rows.back() = 5;
  CHECK_THROWS_WITH(world.all_to_all(matrix, rows, matrix, rows), Contains("[4, 3] has no room for 5 rows"));
  rows.back() = -1;
  CHECK_THROWS_WITH(world.all_to_all(matrix, rows, matrix, rows), Contains("no room for -1 rows"));
  rows.back() = 0;
  CHECK_THROWS_WITH(world.all_to_all(matrix, rows, Tensor::zeros({4, 2}), rows), Contains("differ"));
  rows.push_back(0);
  CHECK_THROWS_WITH(world.all_to_all(matrix, rows, matrix, rows), Contains("one count per rank"));
}

TEST_CASE("the process grid forms expert groups of neighbouring ranks") {
  const int ranks = test_world().size();
  for (int expert_parallel = 1; expert_parallel <= ranks; ++expert_parallel) {
    auto world = test_world().split(0);
    if (ranks % expert_parallel != 0) {
      CHECK_THROWS_WITH(ProcessGrid(std::move(world), expert_parallel), Contains("does not divide"));
      continue;
    }
    const int rank = world->rank();
    const ProcessGrid grid(std::move(world), expert_parallel);
    CHECK(grid.expert_parallel() == expert_parallel);
    CHECK(grid.data_parallel() == ranks / expert_parallel);
    CHECK(grid.expert_group().rank() == rank % expert_parallel);
    CHECK(grid.data_group().rank() == rank / expert_parallel);
  }
  CHECK(ProcessGrid(test_world().split(0), 0).expert_parallel() == ranks);
}

TEST_CASE("all ranks get the result or the error of rank 0", "[communicator]") {
  Communicator& world = test_world();
  struct Mistake : Error {
    using Error::Error;
  };
  bool made = false;
  CHECK(from_first(world, [&] {
          made = true;
          return fmt::format("by rank {}", world.rank());
        }) == "by rank 0");
  CHECK(made == (world.rank() == 0));
  CHECK_THROWS_AS(from_first<Mistake>(world, []() -> std::string { throw Mistake("no file"); }), Mistake);
  CHECK_THROWS_WITH(from_first(world, []() -> std::string { fail("no file"); }), "no file");
}

}  // namespace
}  // namespace conclave
