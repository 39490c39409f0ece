#include "recipes/service/batch_queue.h"

#include <array>
#include <atomic>
#include <catch2/catch.hpp>
#include <deque>
#include <map>
#include <thread>

#include "core/random.h"
#include "recipes/service/rate_limit.h"

namespace conclave::service {
namespace {

struct Jobs {
  Job& add(std::int64_t rows, Query query = {}) {
    Job& job = jobs.emplace_back(std::move(query));
    job.rows = job.cost = rows;
    return job;
  }
  std::deque<Job> jobs;
};

std::vector<std::int64_t> rows_of(const EngineBatch& batch) {
  std::vector<std::int64_t> rows;
  for (const Job* job : batch.jobs) rows.push_back(job->rows);
  return rows;
}

// The status of the refusal; 0 for none.
int status_of(const std::exception_ptr& failure) {
  try {
    if (failure) std::rethrow_exception(failure);
  } catch (const Refusal& refused) {
    return refused.status;
  }
  return 0;
}

// Stands in for the engine: runs one step of `seconds`. A multi-step batch is done after `steps` steps.
void step(EngineBatch& batch, std::int64_t steps, double seconds = 1) {
  batch.under_way = takes_steps(batch.jobs.front()->query.task) && ++batch.work.rows < steps;
  batch.work.seconds += seconds;
}

// Runs the next batch as a single step of `seconds`.
void answer(BatchQueue& queue, double seconds) {
  step(*queue.next(), 1, seconds);
  queue.end_step();
}

TEST_CASE("a batch is the longest-waiting query plus as many others as fit", "[service]") {
  BatchQueue queue({.rows = 100, .jobs = 3, .waiting = 10});
  Jobs jobs;
  for (const std::int64_t rows : {60, 50, 30, 5, 5, 200}) REQUIRE(queue.push(jobs.add(rows)));
  std::vector<std::vector<std::int64_t>> batches;
  for (int i = 0; i < 3; ++i) batches.push_back(rows_of(*queue.next()));
  CHECK(batches == std::vector<std::vector<std::int64_t>>{{60, 30, 5}, {50, 5}, {200}});
  CHECK(queue.waiting() == 0);
}

TEST_CASE("queries with different options are in different batches", "[service]") {
  BatchQueue queue({.waiting = 20});
  Jobs jobs;
  const Query text{}, embed{.task = TaskKind::embed}, told{.experts = true},
      caption{.task = TaskKind::caption};
  Query beam = caption, drawn = caption;
  beam.caption.beam = 2, drawn.caption.top_p = 0.5;
  Query image{.task = TaskKind::generate}, other_seed = image, more_steps = image;
  other_seed.sampling.seed = 7, more_steps.sampling.steps = 20;
  for (const Query& query :
       {text, told, caption, beam, embed, drawn, drawn, image, text, more_steps, other_seed})
    REQUIRE(queue.push(jobs.add(1, query)));
  std::vector<std::size_t> sizes;
  while (queue.waiting() > 0) sizes.push_back(queue.next()->jobs.size());
  CHECK(sizes == std::vector<std::size_t>{3, 1, 1, 1, 1, 1, 2, 1});
}

TEST_CASE("a single-step batch runs between two steps of another batch, never two in a row", "[service]") {
  BatchQueue queue({.rows = 10, .waiting = 50});
  Jobs jobs;
  const Query text{}, image{.task = TaskKind::generate}, caption{.task = TaskKind::caption};
  std::string order;
  const auto take_steps = [&](int count) {
    for (int i = 0; i < count; ++i) {
      EngineBatch* batch = queue.next();
      REQUIRE(batch);
      step(*batch, 4);
      order.append(name_of(batch->jobs.front()->query.task).substr(0, 2))
          .append(batch->under_way ? "+" : " ");
    }
  };
  REQUIRE(queue.push(jobs.add(5, image)));
  take_steps(1);
  for (const Query& query : {caption, text, text, text}) REQUIRE(queue.push(jobs.add(6, query)));
  take_steps(4);
  REQUIRE(queue.push(jobs.add(6, image)));
  take_steps(2);
  CHECK(order == "ge+cl ge+cl ge+cl ge ");
  order.clear();
  for (int i = 0; i < 2; ++i) REQUIRE(queue.push(jobs.add(6, text)));
  take_steps(2);
  queue.close();
  take_steps(3);
  CHECK(order == "ca+cl ca+ca+ca ");  // the batch under way is finished
  CHECK_FALSE(queue.next());
}

TEST_CASE("single-step batches and a multi-step batch share the time equally", "[service]") {
  BatchQueue queue({.jobs = 1, .waiting = 50});
  Jobs jobs;
  REQUIRE(queue.push(jobs.add(5, {.task = TaskKind::caption})));
  for (int i = 0; i < 20; ++i) REQUIRE(queue.push(jobs.add(5)));
  std::string order;
  double of_steps = 0, of_others = 0;
  for (int i = 0; i < 30; ++i) {
    EngineBatch* batch = queue.next();
    const bool in_steps = takes_steps(batch->jobs.front()->query.task);
    const double seconds = in_steps ? 1 : 5;
    (in_steps ? of_steps : of_others) += seconds;
    step(*batch, 1000, seconds);
    order += in_steps ? 's' : '.';
  }
  CHECK(order == "s.sssss.sssss.sssss.sssss.ssss");
  CHECK(of_steps == of_others);
}

TEST_CASE("a batch that fails in one of its steps is dropped", "[service]") {
  BatchQueue queue({});
  Jobs jobs;
  Job &image = jobs.add(1, {.task = TaskKind::generate}), &text = jobs.add(1);
  REQUIRE(queue.push(image));
  EngineBatch* batch = queue.next();
  step(*batch, 3);
  CHECK(queue.next() == batch);
  batch->under_way = false;  // the step failed: no time is recorded
  queue.end_step();
  REQUIRE(queue.push(text));
  CHECK(queue.next()->jobs == std::vector<Job*>{&text});
}

TEST_CASE("a full or closed queue refuses queries, and closing fails waiting ones", "[service]") {
  BatchQueue queue({.jobs = 1, .waiting = 2});
  Jobs jobs;
  CHECK(queue.push(jobs.add(1)));
  CHECK(queue.push(jobs.add(1)));
  CHECK_FALSE(queue.push(jobs.add(1)));
  REQUIRE(queue.next());
  Job& last = jobs.add(1);
  int status = 0;
  last.on_done = [&](const std::exception_ptr& failure) { status = status_of(failure); };
  CHECK(queue.push(last));
  queue.close();
  CHECK_FALSE(queue.push(jobs.add(1)));
  CHECK_FALSE(queue.next());
  CHECK(queue.waiting() == 0);
  CHECK(status == 503);
}

TEST_CASE("forsaken queries are never computed and make room for others", "[service]") {
  BatchQueue queue({.waiting = 3});
  std::deque<Job> jobs;
  std::array<std::atomic<bool>, 5> forsaken{};
  std::map<const Job*, int> refused;
  const auto push = [&](std::size_t i, TaskKind task) {
    Job& job = jobs.emplace_back(Query{.task = task}, &forsaken[i]);
    job.on_done = [&refused, &job](const std::exception_ptr& failure) { refused[&job] = status_of(failure); };
    return queue.push(job);
  };
  const auto is_refused = [&](const Job& job) { return refused[&job] == kClientGone; };
  for (const std::size_t i : {0, 1}) REQUIRE(push(i, TaskKind::caption));
  step(*queue.next(), 9);
  for (const std::size_t i : {2, 3, 4}) REQUIRE(push(i, TaskKind::classify));
  forsaken[0] = forsaken[2] = forsaken[3] = true;
  CHECK(queue.next()->jobs == std::vector{&jobs[4]});
  CHECK((is_refused(jobs[2]) && is_refused(jobs[3])));
  step(*queue.next(), 9);  // one of its queries is still waited for
  forsaken[1] = true;
  for (const std::size_t i : {2, 3, 2}) REQUIRE(push(i, TaskKind::classify));
  REQUIRE(push(4, TaskKind::caption));  // in the place of those that are forsaken
  CHECK(queue.waiting() == 1);
  EngineBatch* const batch = queue.next();
  CHECK(batch->jobs == std::vector{&jobs.back()});
  CHECK_FALSE(batch->under_way);  // so the engine begins it
  CHECK((is_refused(jobs[0]) && is_refused(jobs[1])));
}

TEST_CASE("an idle engine gets a query at once", "[service]") {
  BatchQueue queue({});
  Jobs jobs;
  EngineBatch* batch = nullptr;
  std::thread engine([&] { batch = queue.next(); });
  queue.push(jobs.add(1));
  engine.join();
  CHECK(batch->jobs.size() == 1);
}

// Runs the next batch as a single step of `seconds`. Returns its size and whether it waited for others.
std::pair<std::size_t, bool> run_batch(BatchQueue& queue, double seconds = 0.8) {
  const Clock::time_point start = Clock::now();
  EngineBatch& batch = *queue.next();
  const bool waited = seconds_since(start) > 0.1 * seconds;
  step(batch, 1, seconds);
  queue.end_step();
  return {batch.jobs.size(), waited};
}
using Ran = std::pair<std::size_t, bool>;

TEST_CASE("a batch waits for clients that ask again as soon as they are answered", "[service]") {
  BatchQueue queue({.rows = 200});
  Jobs jobs;
  const auto ask = [&](int count, const Query& query = {}) {
    for (int i = 0; i < count; ++i) REQUIRE(queue.push(jobs.add(40, query)));
    return run_batch(queue);
  };
  CHECK(ask(3) == Ran(3, false));
  CHECK(ask(3) == Ran(3, false));  // all are there again
  CHECK(ask(2) == Ran(2, true));   // one does not come: it is waited for once
  CHECK(ask(2) == Ran(2, false));
  CHECK(ask(7) == Ran(5, false));  // as many as fit
  CHECK(ask(3) == Ran(5, false));
  CHECK(ask(4) == Ran(4, true));                                // five could have gone together
  CHECK(ask(1, {.task = TaskKind::caption}) == Ran(1, false));  // others cannot go with these
  CHECK(ask(1, {.experts = true}) == Ran(1, false));
}

TEST_CASE("a batch begins once as many queries are there as before, or their time is over", "[service]") {
  BatchQueue queue({});
  Jobs jobs;
  const auto push = [&](int count) {
    for (int i = 0; i < count; ++i) REQUIRE(queue.push(jobs.add(1)));
  };
  for (int i = 0; i < 2; ++i) push(3), run_batch(queue, 40);  // so a batch waits for 10 s
  std::size_t found = 0;
  double waited = 0;
  std::thread engine([&] {
    const Clock::time_point start = Clock::now();
    const EngineBatch* batch = queue.next();
    waited = seconds_since(start);
    found = batch ? batch->jobs.size() : 0;
  });
  push(1);
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  std::size_t expected = 0;
  SECTION("as many") { push(2), expected = 3; }
  SECTION("one that cannot go with them") {
    REQUIRE(queue.push(jobs.add(1, {.task = TaskKind::caption})));
    expected = 1;
  }
  SECTION("the service ends") { queue.close(); }
  engine.join();
  CHECK(found == expected);
  CHECK(waited > 0.05);
  CHECK(waited < 5);
}

TEST_CASE("a query that comes when the time is over does not wait", "[service]") {
  BatchQueue queue({});
  Jobs jobs;
  for (int i = 0; i < 3; ++i) {
    for (int j = 0; j < 3; ++j) REQUIRE(queue.push(jobs.add(1)));
    run_batch(queue);  // 0.2 s are soon
  }
  Clock::time_point pushed{};
  std::thread client([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(600));
    pushed = Clock::now();
    REQUIRE(queue.push(jobs.add(1)));
  });
  CHECK(queue.next()->jobs.size() == 1);
  const Clock::time_point begun = Clock::now();
  client.join();
  CHECK(std::chrono::duration<double>(begun - pushed).count() < 0.15);
}

TEST_CASE("a batch waits for no more queries than can wait", "[service]") {
  BatchQueue queue({.waiting = 3});
  Jobs jobs;
  for (int i = 0; i < 3; ++i) {
    for (int j = 0; j < 3; ++j) REQUIRE(queue.push(jobs.add(1)));
    EngineBatch& batch = *queue.next();
    REQUIRE(queue.push(jobs.add(1)));
    step(batch, 1, 4);
    queue.end_step();
    REQUIRE(queue.push(jobs.add(1)));
    REQUIRE(queue.push(jobs.add(1)));
    CHECK(run_batch(queue, 4) == Ran(3, false));  // of a crowd of 4
  }
}

TEST_CASE("estimates know how long a batch waits for others", "[service]") {
  BatchQueue queue({.latency = 5});
  Jobs jobs;
  const auto push = [&] {  // a query that takes no time
    Job& job = jobs.add(1);
    job.cost = 0;
    return queue.push(job);
  };
  for (int i = 0; i < 2; ++i) {
    for (int j = 0; j < 3; ++j) REQUIRE(push());
    run_batch(queue, 40);  // 10 s are soon
  }
  REQUIRE(push());
  std::size_t found = 0;
  std::thread engine([&] { found = queue.next()->jobs.size(); });
  std::this_thread::sleep_for(std::chrono::milliseconds(500));
  CHECK_FALSE(push());
  Job caption({.task = TaskKind::caption});  // which ends the wait
  CHECK(queue.push(caption));
  engine.join();
  CHECK(found == 1);
}

TEST_CASE("a batch waits for nobody if queries come independently of answers", "[service]") {
  BatchQueue queue({});
  Jobs jobs;
  const RandomStream stream{.seed = 3};
  REQUIRE(queue.push(jobs.add(1)));
  int waits = 0;
  for (std::uint64_t i = 0; i < 40; ++i) {
    const Clock::time_point start = Clock::now();
    EngineBatch& batch = *queue.next();
    waits += seconds_since(start) > 0.004;
    const bool soon = stream.uniform(i) < 0.25;  // as many as come in a quarter of the time
    if (!soon) std::this_thread::sleep_for(std::chrono::milliseconds(7));
    REQUIRE(queue.push(jobs.add(1)));
    step(batch, 1, 0.02);  // 5 ms are soon
    queue.end_step();
  }
  CHECK(waits < 10);
}

TEST_CASE("clients in a closed loop are answered together", "[service]") {
  BatchQueue queue({});
  std::atomic<bool> ends = false;
  std::vector<std::thread> clients;
  for (int i = 0; i < 4; ++i)
    clients.emplace_back([&] {
      while (!ends) {
        std::atomic<bool> answered = false;
        Job job{Query{}};
        job.rows = job.cost = 1;
        job.on_done = [&](const std::exception_ptr&) { answered = true, answered.notify_one(); };
        if (queue.push(job)) answered.wait(false);
      }
    });
  std::size_t queries = 0;
  for (int batches = 0; batches < 30; ++batches) {
    EngineBatch& batch = *queue.next();
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    step(batch, 1, 0.02);
    queue.end_step();
    if (batches >= 10) queries += batch.jobs.size();
    for (Job* job : batch.jobs) job->done();
  }
  ends = true;
  queue.close();
  for (std::thread& client : clients) client.join();
  CHECK(queries > 60);  // 40 where two groups take turns, 80 if all are answered together
}

TEST_CASE("a query is refused if its estimated time exceeds the latency", "[service]") {
  BatchQueue queue({.rows = 100, .waiting = 50, .latency = 21});
  Jobs jobs;
  const auto taken = [&] {
    int count = 0;
    while (count < 50 && queue.push(jobs.add(10))) ++count;
    return count;
  };
  CHECK(taken() == 50);                           // no time per row is known yet
  for (int i = 0; i < 5; ++i) answer(queue, 20);  // 0.2 s per row, so 2 s per job
  CHECK(taken() == 10);
  EngineBatch* batch = queue.next();
  CHECK(batch->jobs.size() == 10);  // this running batch takes 20 of the 21 s
  CHECK(taken() == 0);
  step(*batch, 1, 20);
  queue.end_step();
  CHECK(queue.push(jobs.add(1000)));  // an idle engine takes a job of any length
  REQUIRE(queue.next());              // this batch fails: no time is recorded
  queue.end_step();
  CHECK(queue.push(jobs.add(1000)));
}

TEST_CASE("a multi-step batch delays single-step queries less than multi-step ones", "[service]") {
  BatchQueue queue({.rows = 100, .jobs = 2, .latency = 14});
  Jobs jobs;
  const Query image{.task = TaskKind::generate}, text{}, told{.experts = true};
  REQUIRE(queue.push(jobs.add(10, text)));
  answer(queue, 2);
  REQUIRE(queue.push(jobs.add(10, image)));
  for (int i = 0; i < 10; ++i) step(*queue.next(), 10, 3);
  queue.end_step();
  REQUIRE(queue.push(jobs.add(10, image)));
  step(*queue.next(), 3, 1);
  EngineBatch* batch = queue.next();
  CHECK(batch->under_way);
  CHECK_FALSE(queue.push(jobs.add(1, image)));  // 29 s are left
  SECTION("texts go together, two at a time") {
    // A batch takes 2 s, the steps before it another 2 s, and the running step 2.8 s.
    int taken = 0;
    while (taken < 50 && queue.push(jobs.add(10))) ++taken;
    CHECK(taken == 3);
  }
  SECTION("those whose experts are counted go alone") {
    int taken = 0;
    while (taken < 50 && queue.push(jobs.add(1, told))) ++taken;
    CHECK(taken == 4);  // a step runs before each of them
  }
}

TEST_CASE("a query after a single-step batch also waits for the steps of another batch", "[service]") {
  BatchQueue queue({.jobs = 1, .latency = 3});
  Jobs jobs;
  REQUIRE(queue.push(jobs.add(10)));
  answer(queue, 1);
  REQUIRE(queue.push(jobs.add(10, {.task = TaskKind::caption})));
  step(*queue.next(), 1000, 0.01);
  queue.end_step();
  REQUIRE(queue.push(jobs.add(10)));
  step(*queue.next(), 1, 5);
  queue.end_step();
  CHECK_FALSE(queue.push(jobs.add(10)));  // 5 s of steps and 1.4 s for the job itself
  for (int i = 0; i < 4; ++i) step(*queue.next(), 1000, 1);
  queue.end_step();
  CHECK(queue.push(jobs.add(1)));  // 1 s of steps and 0.14 s for the job itself
}

TEST_CASE("the estimated time of image generation is proportional to its steps", "[service]") {
  BatchQueue queue({.latency = 10});
  Jobs jobs;
  const Query image{.task = TaskKind::generate};
  const auto drawing = [&](std::int64_t steps) -> Job& {
    Job& job = jobs.add(10, image);
    job.cost = 10 * steps;
    return job;
  };
  REQUIRE(queue.push(drawing(100)));
  answer(queue, 100);
  REQUIRE(queue.push(drawing(5)));
  REQUIRE(queue.next());
  CHECK(queue.push(drawing(4)));
  CHECK_FALSE(queue.push(drawing(100)));
}

TEST_CASE("an address has a steady rate of requests and a burst", "[service]") {
  RateLimit limit(2, 3);
  const Clock::time_point start{};
  for (int i = 0; i < 3; ++i) CHECK(limit.wait("a", start) == 0);
  CHECK(limit.wait("a", start) == Approx(0.5));
  CHECK(limit.wait("b", start) == 0);
  CHECK(limit.wait("a", start + std::chrono::milliseconds(600)) == 0);
  CHECK(limit.wait("a", start + std::chrono::milliseconds(600)) > 0);
  for (int i = 0; i < 5000; ++i) limit.wait(std::to_string(i), start + std::chrono::seconds(i));
  RateLimit none(0, 1);
  for (int i = 0; i < 100; ++i) CHECK(none.wait("a", start) == 0);
}

}  // namespace
}  // namespace conclave::service
