#include "recipes/waiting_update.h"

#include <catch2/catch.hpp>
#include <fstream>

#include "tests/data/temporary_directory.h"

using namespace conclave;

TEST_CASE("an update that waits is found again for its round and model, whole, and not otherwise") {
  const TemporaryDirectory folder;
  const std::filesystem::path file = folder.write("update.f32", "some numbers");
  const FileDigest base = digest_of(folder.write("model", "a model")),
                   other = digest_of(folder.write("other", "another"));
  CHECK(!WaitingUpdate::find(folder.path(), 3, base));
  const WaitingUpdate waiting{3, base, file, digest_of(file), 277, {1, 2.5}, {{"loss", 0.25}}, 3};
  waiting.save();
  const auto found = WaitingUpdate::find(folder.path(), 3, base);
  REQUIRE(found);
  CHECK(found->file == file);
  CHECK(found->digest == waiting.digest);
  CHECK(found->examples == 277);
  CHECK(found->tokens == waiting.tokens);
  CHECK(found->metrics == waiting.metrics);
  CHECK(!WaitingUpdate::find(folder.path(), 2, base));
  CHECK(!WaitingUpdate::find(folder.path(), 3, other));
  CHECK(!WaitingUpdate::find(folder.path(), 2, std::nullopt));
  CHECK(WaitingUpdate::find(folder.path(), 3, std::nullopt)->base == base);
  folder.write("update.f32", "some numbers, of which one has changed");
  CHECK(!WaitingUpdate::find(folder.path(), 3, base));
  folder.write("update.f32", "some numbers");
  CHECK(WaitingUpdate::find(folder.path(), 3, base));
  WaitingUpdate::forget(folder.path());
  CHECK(!WaitingUpdate::find(folder.path(), 3, base));
  folder.write("update.json", "{\"round\":");
  CHECK(!WaitingUpdate::find(folder.path(), 3, base));
}
