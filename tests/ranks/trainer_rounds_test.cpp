// The rounds of a federation's site.
#include <fcntl.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <numeric>

#include "data/image.h"
#include "recipes/models/loaded_model.h"
#include "recipes/training/trainer.h"
#include "tests/data/temporary_directory.h"
#include "tests/ranks/moe_run.h"

namespace conclave {
namespace {

// Rows of images are 4 to classify and more to caption.
constexpr const char* kTwoTasks = R"(
[data]
source = "image_folder"
vocabulary = 40
max_length = 8
[tasks]
classify = 1
caption = 1
[image]
size = 8
stem = 8
blocks = ["k3 x2 c8 s2 relu"]
[model]
hidden = 16
layers = 1
heads = 2
ffn = 16
[moe]
experts = 4
[train]
batch_tokens = 64
steps = 1000
evaluate_every = 1000000
)";

TEST_CASE("the tasks that a site trains in a round do not depend on rounds that it missed", "[trainer]") {
  const TemporaryDirectory folder;
  for (const char* split : {"train", "validation", "test"})
    for (const char* name : {"red tree", "green house", "blue sky"}) {
      const std::string class_folder = folder.path() + "/images/" + split + "/" + name;
      std::filesystem::create_directories(class_folder);
      std::ofstream(class_folder + "/0.png", std::ios::binary)
          << encode_png({{8, 8, 3}, std::vector<std::uint8_t>(8 * 8 * 3, 90)});
    }
  const ProcessGrid alone = grid_of(0);
  const Recipe recipe =
      parse_recipe(kTwoTasks, "test",
                   {"data.path=" + folder.path() + "/images", "run.directory=" + folder.path() + "/run"});
  const int nowhere = ::open("/dev/null", O_WRONLY);
  TrainerEnvironment environment;
  environment.progress.descriptor = nowhere;
  Trainer trainer(recipe, alone, environment);
  const std::string start = trainer.save_now();
  // The rows of two rounds of 6 steps, as the first experts' layer had them.
  const auto rows = [&](std::int64_t first_round, std::int64_t second_round) {
    std::int64_t seen = 0;
    std::vector<double> of_rounds;
    for (const std::int64_t round : {first_round, second_round}) {
      trainer.begin_round(start, 6 * round, 6 * seen++);
      REQUIRE(trainer.take_steps(6));
      const auto& served = trainer.served_tokens().front().second;
      of_rounds.push_back(std::accumulate(served.begin(), served.end(), 0.0));
    }
    return of_rounds;
  };
  const std::vector<double> wanted = rows(0, 1);
  CHECK(wanted[0] != wanted[1]);
  for (const std::int64_t missed : {1, 2, 5}) {
    CHECK(rows(0, 1 + missed) == wanted);
    CHECK(rows(missed, 1 + missed) == wanted);
  }
  ::close(nowhere);
}

}  // namespace
}  // namespace conclave
