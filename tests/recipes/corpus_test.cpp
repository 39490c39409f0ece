#include "recipes/corpus/corpus.h"

#include <catch2/catch.hpp>

#include "recipes/evaluation/expert_table.h"
#include "tests/data/temporary_directory.h"

using namespace conclave;

TEST_CASE("class names in messages stay on one line", "[corpus]") {
  const std::vector<std::string> names{"two\nlines", std::string(100, 'x')}, others{"one\rline"};
  CHECK(error_of([&] { expect_same_classes("model", names, others); }) ==
        "model: the model has 2 classes, and the data has 1; class 0 is \"two\\u000Alines\" in the model and "
        "\"one\\u000Dline\" in the data: give data with the same classes in the same order");
  const std::vector<Index> counts{30, 10, 10, 30};
  CHECK(describe_expert(ExpertTable(counts, 2), 0, names) ==
        "expert  0  load 1.000  (50.0% of tokens)  serves above average: two lines x1.50");
  CHECK(describe_expert(ExpertTable(counts, 2), 1, names) ==
        "expert  1  load 1.000  (50.0% of tokens)  serves above average: " + std::string(37, 'x') +
            "... x1.50");
}

TEST_CASE("labels are numbered as a model's, which may have more classes than the data", "[corpus]") {
  const ImageDataset read{{"b", "d"},
                          {{{.text = "1", .label = 0}, {.text = "2", .label = 1}}, {}},
                          {{{.text = "3", .label = 1}}, {}},
                          {{{.text = "4", .label = 0}}, {}}};
  ImageDataset data = read;
  number_labels(data, {{"a", "b", "c", "d"}, "model"});
  CHECK(data.class_names == std::vector<std::string>{"a", "b", "c", "d"});
  CHECK(data.train.examples[0].label == 1);
  CHECK(data.train.examples[1].label == 3);
  CHECK(data.validation.examples[0].label == 3);
  CHECK(data.test.examples[0].label == 1);
  data = read;
  CHECK(error_of([&] {
          number_labels(data, {{"a", "b"}, "model"});
        }) == "model: the data has a class \"d\", but the model was trained on: a, b");
  CHECK(
      error_of([&] {
        number_labels(data, {{"a\x1b]0;", "b", "e", "f", "g", "h"}, "model"});
      }) ==
      "model: the data has a class \"d\", but the model was trained on: a\\u001B]0;, b, e, f, g and 1 more");
}

TEST_CASE("an image is one example to classify, and one for each caption to caption", "[corpus]") {
  const std::vector<std::string> names{"cat", "dog"};
  const ImageSplit split{{{.text = "", .label = 1, .captions = {"a dog", "runs"}},
                          {.text = "", .label = 0},
                          {.text = "no image", .label = 0, .captions = {"none"}}},
                         {{1, 1, 1}, {10, 20}, {0, 1, -1}}};
  CHECK(examples_for(TaskKind::classify, split, names).examples.size() == 3);
  for (const TaskKind task : {TaskKind::caption, TaskKind::generate}) {
    const ImageSplit shown = examples_for(task, split, names);
    REQUIRE(shown.examples.size() == 3);
    CHECK(shown.images.rows == std::vector<std::int32_t>{0, 0, 1});
    CHECK(shown.examples[0].text == "a dog");
    CHECK(shown.examples[1].text == "runs");
    CHECK(shown.examples[1].label == 1);
    CHECK(shown.examples[2].text == "cat");  // the class name, as there is no caption
  }
}
