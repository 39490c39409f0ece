#include <catch2/catch.hpp>
#include <filesystem>
#include <string>

#include "core/file.h"
#include "tests/fuzz/checkpoint.h"
#include "tests/fuzz/service.h"
#include "tests/fuzz/targets.h"
#include "tests/fuzz/transport.h"

using namespace conclave;

TEST_CASE("the fuzzing corpora run without an error", "[data]") {
  const std::string corpus = CONCLAVE_SOURCE "/tests/fuzz/corpus/", images = CONCLAVE_FIXTURES "/images";
  struct Target {
    void (*run)(std::string_view);
    const char* name;
  };
  const auto target =
      GENERATE(Target{fuzz_image, "image"}, Target{fuzz_font, "font"}, Target{fuzz_idx, "idx"},
               Target{fuzz_emoji_names, "emoji_names"}, Target{fuzz_annotations, "annotations"},
               Target{fuzz_glue, "glue"}, Target{fuzz_coco, "coco"},
               Target{fuzz_secure_aggregation, "secure_aggregation"}, Target{fuzz_transport, "transport"},
               Target{fuzz_service, "service"}, Target{fuzz_checkpoint, "checkpoint"});
  std::int64_t files = 0;
  for (const std::string& folder : {corpus + target.name, images})
    for (const auto& file : std::filesystem::directory_iterator(folder)) {
      CAPTURE(file.path().string());
      CHECK_NOTHROW(target.run(read_file(file.path().string(), "")));
      ++files;
    }
  CHECK(files > 10);
}

TEST_CASE("the corpus of secure aggregation has a whole round's messages") {
  const std::string corpus = CONCLAVE_SOURCE "/tests/fuzz/corpus/secure_aggregation/";
  FuzzedRound([&](const std::string& name, const secure_aggregation::Bytes& message) {
    CAPTURE(name);
    const std::string text(reinterpret_cast<const char*>(message.data()), message.size());
    CHECK(read_file(corpus + name, "") == text);
  });
}
