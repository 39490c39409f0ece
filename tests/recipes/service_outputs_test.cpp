#include "recipes/service/outputs.h"

#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include "recipes/inference/likeliest.h"
#include "recipes/service/base64.h"

namespace conclave::service {
namespace {

const ModelFacts kModel{.name = "model",
                        .class_names = {"a", "b, \"quoted\"", "c"},
                        .layer_names = {"layers.0.moe", "layers.1.moe"},
                        .experts = 2};

std::string written(const char* format, const Query& query, const Answer& answer) {
  return Outputs().choose(query.task, format, "").write(kModel, query, answer);
}

TEST_CASE("classes are listed from the most probable on, in JSON and in CSV", "[service]") {
  const Query query{.tokens = {1, 2}, .top = 2};
  const Answer answer{.probabilities = {0.25f, 0.5f, 0.125f}, .experts = {1, 2, 3, 0}};
  const auto json = nlohmann::json::parse(written("json", query, answer));
  CHECK(json["class"] == kModel.class_names[1]);
  CHECK(json["probability"] == 0.5);
  REQUIRE(json["top"].size() == 2);
  CHECK(json["top"][1] == nlohmann::json{{"class", "a"}, {"probability", 0.25}});
  CHECK(json["tokens"] == 2);
  CHECK_FALSE(json.contains("truncated"));
  const Query cut{.tokens = {1, 2}, .truncated = true};
  CHECK(nlohmann::json::parse(written("json", cut, answer))["truncated"] == true);
  CHECK(json["experts"][1] == nlohmann::json{{"layer", "layers.1.moe"}, {"rows", {3, 0}}});
  CHECK(written("csv", query, answer) == "class,probability\r\n\"b, \"\"quoted\"\"\",0.5\r\n\"a\",0.25\r\n");
}

TEST_CASE("of equally probable classes, the first ones are listed", "[service]") {
  const std::vector<std::string> names{"a", "b", "c", "d"};
  nlohmann::ordered_json json;
  add_classes(json, std::vector{0.125, 0.375, 0.125, 0.375}, names, 3);
  CHECK(json["class"] == "b");
  REQUIRE(json["top"].size() == 3);
  for (const auto& [place, name] : {std::pair(0, "b"), {1, "d"}, {2, "a"}})
    CHECK(json["top"][place]["class"] == name);
}

TEST_CASE("generated images are one PNG, or several in JSON", "[service]") {
  const Image image{{2, 2, 1}, {0, 50, 100, 150}};
  const Query query{.task = TaskKind::generate};
  const Answer answer{.images = {image, image}};
  const auto json = nlohmann::json::parse(written("json", query, answer));
  REQUIRE(json["images"].size() == 2);
  CHECK(decode_image(*from_base64(json["images"][0].get<std::string>()), "drawn").pixels == image.pixels);
  CHECK(decode_image(written("png", query, answer), "grid").shape == ImageShape{2, 6, 1});
  CHECK(decode_image(written("png", query, {.images = {image}}), "one").pixels == image.pixels);
}

TEST_CASE("embeddings and captions can be written as CSV", "[service]") {
  CHECK(written("csv", {.task = TaskKind::embed}, {.embedding = {1.5f, -2}}) == "1.5,-2\r\n");
  CHECK(written("csv", {.task = TaskKind::caption}, {.caption = "a \"cat\"", .log_probability = -1.5}) ==
        "caption,log_probability\r\n\"a \"\"cat\"\"\",-1.5\r\n");
}

TEST_CASE("the output format is the requested one or the one Accept prefers", "[service]") {
  const Outputs outputs;
  const auto chosen = [&](const char* format, const char* accept, TaskKind task = TaskKind::classify) {
    return std::string(outputs.choose(task, format, accept).name());
  };
  CHECK(chosen("", "") == "json");
  CHECK(chosen("", "*/*") == "json");
  CHECK(chosen("", "text/csv") == "csv");
  CHECK(chosen("", "text/*;q=0.5, application/json;q=0.4") == "csv");
  CHECK(chosen("", "text/csv;q=0.2, */*") == "json");
  CHECK(chosen("", "*/*, application/json;q=0") == "csv");
  CHECK(chosen("", "*/*, Application/JSON;Q=0") == "csv");
  CHECK(chosen("", "TEXT/CSV, Text/*;q=0.1") == "csv");
  CHECK(chosen("csv", "application/json") == "csv");
  CHECK(chosen("", "image/png", TaskKind::generate) == "png");
  const auto refused = [&](const char* format, const char* accept, TaskKind task) {
    try {
      return outputs.choose(task, format, accept), 0;
    } catch (const Refusal& refusal) {
      return refusal.status;
    }
  };
  CHECK(refused("", "image/png", TaskKind::classify) == 406);
  CHECK(refused("", "text/csv", TaskKind::generate) == 406);
  CHECK(refused("xml", "", TaskKind::classify) == 400);
}

TEST_CASE("errors are valid JSON for all bytes in messages", "[service]") {
  const auto json = nlohmann::json::parse(error_text("bad", "\"\xFF\n"));
  CHECK(json["error"]["code"] == "bad");
}

}  // namespace
}  // namespace conclave::service
