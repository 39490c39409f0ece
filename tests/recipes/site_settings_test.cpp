// What a site.toml says, wherever the site is started from.
#include <catch2/catch.hpp>
#include <filesystem>

#include "recipes/settings/federation.h"
#include "tests/data/temporary_directory.h"

namespace conclave {
namespace {

TEST_CASE("a site's folders and its ledger are relative to its site.toml, and those of --set are not") {
  const TemporaryDirectory kit;
  const auto read = [&](const std::string& text, const std::vector<std::string>& overrides = {}) {
    return read_site(kit.write("site.toml", "[site]\naddress = \"a:1\"\n" + text), overrides);
  };
  const SiteSettings silent = read("");
  CHECK(silent.site.directory == kit.path() + "/runs/site");
  CHECK(silent.run.directory == kit.path() + "/runs/site/training");
  CHECK(silent.privacy.ledger.empty());
  const std::string all = "directory = \"runs/a\"\n[run]\ndirectory = \"b\"\n[privacy]\nledger = \"../c\"\n";
  const SiteSettings given = read(all);
  CHECK(given.site.directory == kit.path() + "/runs/a");
  CHECK(given.run.directory == kit.path() + "/b");
  CHECK(given.privacy.ledger == kit.path().substr(0, kit.path().rfind('/')) + "/c");
  const SiteSettings changed = read(all, {"site.directory=x", "run.directory=y", "privacy.ledger=z"});
  CHECK(changed.site.directory == "x");
  CHECK(changed.run.directory == "y");
  CHECK(changed.privacy.ledger == "z");
  CHECK(read("", {"site.directory=x"}).run.directory == "x/training");
  CHECK(read("directory = \"/a\"\n").site.directory == "/a");
  CHECK_THROWS_WITH(read("directory = \"a\"\n", {"run.directory=" + kit.path() + "/./a/"}),
                    Catch::Contains("needs a folder of its own"));
}

TEST_CASE("a site.toml named by a relative path has absolute folders, so that what is shown can be used") {
  const TemporaryDirectory kit;
  kit.write("site.toml", "[site]\naddress = \"a:1\"\ndirectory = \"a\"\n");
  const auto before = std::filesystem::current_path();
  std::filesystem::current_path(std::filesystem::path(kit.path()).parent_path());
  const std::string name = std::filesystem::path(kit.path()).filename().string();
  const SiteSettings outside = read_site(name + "/site.toml");
  std::filesystem::current_path(kit.path());
  const SiteSettings inside = read_site("site.toml");
  std::filesystem::current_path(before);
  CHECK(outside.site.directory == kit.path() + "/a");
  CHECK(inside.site.directory == kit.path() + "/a");
}

}  // namespace
}  // namespace conclave
