#include "recipes/federated/waiting_update.h"

#include <catch2/catch.hpp>
#include <fstream>

#include "tests/data/temporary_directory.h"

using namespace conclave;

constexpr auto kTerms = "what was agreed";

TEST_CASE("a waiting update is found only for its round, model and terms, and intact") {
  const TemporaryDirectory folder;
  const std::filesystem::path file = folder.write("update.f32", "some numbers");
  const FileDigest base = digest_of(folder.write("model", "a model")),
                   other = digest_of(folder.write("other", "another"));
  CHECK(!WaitingUpdate::find(folder.path(), 3, kTerms, base));
  const WaitingUpdate waiting{3, base,   file,     digest_of(file), 277, {1, 2.5}, {{"loss", 0.25}},
                              3, kTerms, "a spend"};
  waiting.save();
  const auto found = WaitingUpdate::find(folder.path(), 3, kTerms, base);
  REQUIRE(found);
  CHECK(found->file == file);
  CHECK(found->digest == waiting.digest);
  CHECK(found->examples == 277);
  CHECK(found->tokens == waiting.tokens);
  CHECK(found->metrics == waiting.metrics);
  CHECK(found->spend == "a spend");
  CHECK(!WaitingUpdate::find(folder.path(), 3, "with less noise", base));
  CHECK(!WaitingUpdate::find(folder.path(), 2, kTerms, base));
  CHECK(!WaitingUpdate::find(folder.path(), 3, kTerms, other));
  CHECK(!WaitingUpdate::find(folder.path(), 2, kTerms, std::nullopt));
  CHECK(WaitingUpdate::find(folder.path(), 3, kTerms, std::nullopt)->base == base);
  folder.write("update.f32", "some numbers, of which one has changed");
  CHECK(!WaitingUpdate::find(folder.path(), 3, kTerms, base));
  folder.write("update.f32", "some numbers");
  CHECK(WaitingUpdate::find(folder.path(), 3, kTerms, base));
  WaitingUpdate::forget(folder.path());
  CHECK(!WaitingUpdate::find(folder.path(), 3, kTerms, base));
  folder.write("update.json", "{\"round\":");
  CHECK(!WaitingUpdate::find(folder.path(), 3, kTerms, base));
}
