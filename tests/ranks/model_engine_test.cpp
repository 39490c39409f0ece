// The service's engine with a model that was trained for one step: on one rank, and with its experts on
// several ranks.
#include "recipes/service/model_engine.h"

#include <fcntl.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cmath>
#include <deque>
#include <numeric>

#include "recipes/training/trainer.h"
#include "tests/data/temporary_directory.h"
#include "tests/ranks/allocations.h"
#include "tests/ranks/moe_run.h"

namespace conclave::service {
namespace {

using Catch::Matchers::Contains;

constexpr const char* kRecipe = R"(
[data]
source = "image_folder"
vocabulary = 40
max_length = 8
[tasks]
classify = 1
caption = 1
generate = 1
[image]
size = 8
stem = 8
blocks = ["k3 x2 c8 s2 relu"]
tokens = "grid"
[generate]
patch = 4
[model]
hidden = 16
layers = 2
heads = 2
ffn = 16
[moe]
experts = 4
[train]
batch_tokens = 64
steps = 1
evaluate_every = 1000000
)";
constexpr std::size_t kPixels = 8 * 8 * 3;

std::vector<std::uint8_t> pixels_of(int number) {
  std::vector<std::uint8_t> pixels;
  for (std::size_t i = 0; i < kPixels; ++i)
    pixels.push_back(static_cast<std::uint8_t>((i * 37 + static_cast<std::size_t>(number) * 71) % 256));
  return pixels;
}

// Trains a model for one step. Each rank trains its own model in its own folder.
class TrainedEngine {
 public:
  explicit TrainedEngine(const std::vector<std::string>& overrides = {}) {
    for (const char* split : {"train", "validation", "test"})
      for (const char* name : {"red tree", "green house", "blue sky"})
        for (int i = 0; i < 3; ++i) {
          const std::string class_folder = folder_.path() + "/images/" + split + "/" + name;
          std::filesystem::create_directories(class_folder);
          std::ofstream(class_folder + "/" + std::to_string(i) + ".png", std::ios::binary)
              << encode_png({{8, 8, 3}, pixels_of(i)});
        }
    const ProcessGrid alone = grid_of(0);
    std::vector<std::string> sets{"data.path=" + folder_.path() + "/images",
                                  "run.directory=" + folder_.path() + "/run"};
    sets.insert(sets.end(), overrides.begin(), overrides.end());
    const Recipe recipe = parse_recipe(kRecipe, "test", sets);
    const int nowhere = ::open("/dev/null", O_WRONLY);
    TrainerEnvironment environment;
    environment.progress.descriptor = nowhere;
    Trainer(recipe, alone, environment).run();
    ::close(nowhere);
  }
  std::string checkpoint() const { return find_checkpoint(folder_.path() + "/run", Verify::model); }

 private:
  TemporaryDirectory folder_;
};

Query picture(int number, TaskKind task) { return {.task = task, .pixels = pixels_of(number)}; }
Query drawing(std::int32_t token, std::uint64_t seed) {
  return {
      .task = TaskKind::generate, .tokens = {token, 3}, .sampling = {.steps = 2, .seed = seed}, .count = 2};
}

Query captioned(int number, int beam) {
  return {.task = TaskKind::caption, .pixels = pixels_of(number), .caption = {.beam = beam}};
}

std::deque<Job> jobs_of(const Engine& engine, const std::vector<Query>& queries) {
  std::deque<Job> jobs;
  for (const Query& query : queries) engine.prepare(jobs.emplace_back(query));
  return jobs;
}

EngineBatch batch_of(std::deque<Job>& jobs) {
  EngineBatch batch;
  for (Job& job : jobs) batch.jobs.push_back(&job);
  return batch;
}

void take_steps(Engine& engine, EngineBatch& batch) {
  do engine.step(batch);
  while (batch.under_way);
}

std::vector<Answer> finished(const Engine& engine, std::deque<Job>& jobs) {
  std::vector<Answer> answers;
  for (Job& job : jobs) {
    engine.finish(job);
    answers.push_back(std::move(job.answer));
  }
  return answers;
}

// Answers the queries in batches of `at_once`.
std::vector<Answer> answers(Engine& engine, const std::vector<Query>& queries, std::size_t at_once) {
  std::deque<Job> jobs = jobs_of(engine, queries);
  EngineBatch batch;
  for (Job& job : jobs) {
    batch.jobs.push_back(&job);
    if (batch.jobs.size() < at_once && &job != &jobs.back()) continue;
    take_steps(engine, batch);
    batch = {};
  }
  return finished(engine, jobs);
}

std::vector<Query> pictures() {
  std::vector<Query> queries;
  for (int i = 0; i < 7; ++i)
    queries.push_back(picture(i, i % 3 == 2 ? TaskKind::embed : TaskKind::classify));
  return queries;
}
const std::vector<Query> kDrawings{drawing(4, 1), drawing(9, 1), drawing(4, 2)};
std::vector<Query> captions(int beam) {
  std::vector<Query> queries;
  for (int i = 0; i < 5; ++i) queries.push_back(captioned(i, beam));
  return queries;
}

std::vector<Query> told_of_experts(Query query) {
  query.experts = true;
  return {std::move(query)};
}

void check_alike(const std::vector<Answer>& one, const std::vector<Answer>& other, float tolerance,
                 int levels) {
  REQUIRE(one.size() == other.size());
  for (std::size_t i = 0; i < one.size(); ++i) {
    CHECK_THAT(one[i].probabilities, Catch::Matchers::Approx(other[i].probabilities).margin(tolerance));
    CHECK_THAT(one[i].embedding, Catch::Matchers::Approx(other[i].embedding).margin(tolerance));
    CHECK(one[i].tokens == other[i].tokens);
    CHECK(one[i].caption == other[i].caption);
    REQUIRE(one[i].images.size() == other[i].images.size());
    for (std::size_t k = 0; k < one[i].images.size(); ++k)
      for (std::size_t at = 0; at < one[i].images[k].pixels.size(); ++at)
        REQUIRE(std::abs(one[i].images[k].pixels[at] - other[i].images[k].pixels[at]) <= levels);
  }
}

// A multi-step batch has the same answers with and without other batches between its steps.
void check_interrupted(Engine& engine) {
  for (const std::vector<Query>& queries :
       {kDrawings, captions(3), told_of_experts(drawing(4, 1)), told_of_experts(captioned(1, 2))}) {
    const std::vector<Answer> wanted = answers(engine, queries, queries.size());
    for (const std::vector<Query>& others : {pictures(), told_of_experts(picture(3, TaskKind::classify))}) {
      const std::vector<Answer> wanted_between = answers(engine, others, others.size());
      std::deque<Job> given_up = jobs_of(engine, queries), jobs = jobs_of(engine, queries);
      EngineBatch never_done = batch_of(given_up), batch = batch_of(jobs);
      engine.step(never_done);
      REQUIRE(never_done.under_way);
      int steps = 0;
      for (bool under_way = true; under_way; under_way = batch.under_way, ++steps) {
        engine.step(batch);
        const std::vector<Answer> between = answers(engine, others, others.size());
        check_alike(wanted_between, between, 0, 0);
        CHECK(wanted_between[0].experts == between[0].experts);
      }
      CHECK(steps > 1);
      const std::vector<Answer> got = finished(engine, jobs);
      check_alike(wanted, got, 0, 0);
      CHECK(wanted[0].experts == got[0].experts);
    }
  }
}

TEST_CASE("answers are the same alone, in a batch, and with experts on other ranks", "[service]") {
  const char* const kInt8 = "quantization.enabled=true";
  const TrainedEngine trained(GENERATE_COPY(
      values<std::vector<std::string>>({{}, {kInt8}, {kInt8, "quantization.activations=tensor"}})));
  const BatchLimits limits{.rows = 256, .jobs = 8};
  std::vector<Answer> alone, drawn, written;
  std::vector<std::int64_t> used;
  {
    const ProcessGrid grid = grid_of(0);
    LoadedModel loaded(trained.checkpoint(), grid, {});
    ModelEngine engine(loaded, grid, "test", {}, limits);
    alone = answers(engine, pictures(), 1);
    check_alike(alone, answers(engine, pictures(), 4), 0, 0);
    check_alike(alone, answers(engine, pictures(), 7), 0, 0);
    drawn = answers(engine, kDrawings, 1);
    check_alike(drawn, answers(engine, kDrawings, 3), 0, 1);
    written = answers(engine, captions(3), 1);
    for (const Answer& answer : written) CHECK_FALSE(answer.caption.empty());
    check_alike(written, answers(engine, captions(3), 5), 0, 0);
    CHECK(drawn[0].images[0].pixels != drawn[0].images[1].pixels);
    CHECK(drawn[0].images[0].pixels != drawn[2].images[0].pixels);
    used = answers(engine, told_of_experts(picture(1, TaskKind::classify)), 1).at(0).experts;
    CHECK(used.size() == 2 * 4);
    CHECK(std::accumulate(used.begin(), used.end(), Index{}) ==
          2 * 2 * 16);  // 2 layers x 2 experts per row x 16 rows
    check_interrupted(engine);
  }
  Communicator& world = test_world();
  const ProcessGrid grid = grid_of(world.size());
  // All ranks load the model of rank 0.
  LoadedModel loaded(world.broadcast(trained.checkpoint(), 0), grid, {});
  ModelEngine engine(loaded, grid, "test", {}, limits);
  if (world.rank() == 0) {
    check_alike(alone, answers(engine, pictures(), 1), 1e-5f, 0);
    check_alike(alone, answers(engine, pictures(), 7), 1e-5f, 0);
    check_alike(drawn, answers(engine, kDrawings, 3), 0, 1);
    check_alike(written, answers(engine, captions(3), 2), 0, 0);
    CHECK(answers(engine, told_of_experts(picture(1, TaskKind::classify)), 1).at(0).experts == used);
    check_interrupted(engine);
    for (const std::vector<Query>& queries : {pictures(), kDrawings}) {
      std::deque<Job> jobs = jobs_of(engine, queries);
      EngineBatch batch = batch_of(jobs);
      Index rows = 0;
      for (const Job& job : jobs) rows += job.rows;
      take_steps(engine, batch);
      CHECK(batch.work.rows == rows);  // the rows of all ranks, without padding
    }
  } else {
    engine.follow();
  }
}

TEST_CASE("after its warm-up, the engine allocates no memory for a query", "[service]") {
  const TrainedEngine trained;
  const ProcessGrid grid = grid_of(0);
  LoadedModel loaded(trained.checkpoint(), grid, {});
  ModelEngine engine(loaded, grid, "test", {}, {.rows = 256, .jobs = 8});
  const auto rounds = [&](int count) {
    std::size_t counted = 0;
    for (int i = 0; i < count; ++i)
      for (const std::vector<Query>& queries : {pictures(), kDrawings, captions(1), captions(3)}) {
        std::deque<Job> jobs = jobs_of(engine, queries), others = jobs_of(engine, pictures());
        EngineBatch batch = batch_of(jobs), one{.jobs = {&jobs.front()}}, between = batch_of(others);
        const std::size_t before = allocations();
        take_steps(engine, batch);
        do {
          engine.step(one);
          engine.step(between);
        } while (one.under_way);
        counted += allocations() - before;
      }
    return counted;
  };
  rounds(1);
  const std::size_t before = allocations();
  CHECK(rounds(10) == 0);
  CHECK(allocations() > before);  // the counter works: prepare() allocates
}

TEST_CASE("an engine names tasks that its model has not learned", "[service]") {
  const TrainedEngine trained({"tasks.caption=0"});
  const ProcessGrid grid = grid_of(0);
  LoadedModel loaded(trained.checkpoint(), grid, {});
  const auto engine = [&](const std::vector<std::string>& tasks) {
    return ModelEngine(loaded, grid, "test", tasks, {}).facts().tasks;
  };
  CHECK(engine({}) == std::array{true, false, true, true});
  CHECK(engine({"embed"}) == std::array{false, false, false, true});
  CHECK_THROWS_WITH(engine({"caption"}), Contains("--tasks caption: the model has not learned to caption"));
  CHECK_THROWS_WITH(engine({"sing"}), Contains("there are classify, caption, generate, embed"));
}

}  // namespace
}  // namespace conclave::service
