// What a site computes from a round for the coordinator and for itself, for every division of the model over
// ranks.
#include "recipes/federated/site_model.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cstring>
#include <filesystem>
#include <numeric>

#include "tests/ranks/checkpoint_fixture.h"
#include "tests/ranks/moe_run.h"

namespace conclave {
namespace {

constexpr Index kSiteRows = 8, kSiteColumns = 3;
constexpr std::size_t kSiteModel = 4 + kSiteRows * kSiteColumns, kSiteShared = kSiteModel - kSiteColumns;

// A replicated tensor and this rank's part of a tensor of experts. The elements of the whole model are
// `first`, `first` + 1, ... in order.
std::vector<TensorEntry> entries_of(const ProcessGrid& grid, const std::string& prefix, float first) {
  const Index rows = kSiteRows / grid.expert_parallel(), row = rows * grid.expert_group().rank();
  std::vector<TensorEntry> entries{{prefix + "/dense", Tensor::empty({4}), {4}, 0, false},
                                   {prefix + "/layers/0/moe/experts/up",
                                    Tensor::empty({rows, kSiteColumns}),
                                    {kSiteRows, kSiteColumns},
                                    row,
                                    true}};
  const auto count = [](std::span<float> values, float from) {
    std::iota(values.begin(), values.end(), from);
  };
  count(entries[0].values.span<float>(), first);
  count(entries[1].values.span<float>(), first + 4 + static_cast<float>(row * kSiteColumns));
  return entries;
}

std::vector<float> numbers_in(const std::string& path) {
  const std::string bytes = read_file(path);
  std::vector<float> numbers(bytes.size() / sizeof(float));
  std::memcpy(numbers.data(), bytes.data(), bytes.size());
  return numbers;
}

TEST_CASE("a site keeps nothing private where a round's noise hides records or clients") {
  const ProcessGrid grid = grid_of(1);
  const SharedDirectory folder;
  CheckpointWriter writer(folder.path(), grid.world(), 0, false);
  writer.save(entries_of(grid, "model", 0), test_state(3));
  REQUIRE(writer.wait()->saved);
  const CheckpointReader base(checkpoint_path(folder.path(), 3));
  const SharingRule own_expert{"*.experts.up[7]", Sharing::kept_private};
  const SiteModel keeps(base, std::span(&own_expert, 1), folder.path(), grid);
  const SiteModel shares(base, {}, folder.path(), grid);
  using Unit = RoundPrivacy::Unit;
  for (const Unit unit : {Unit::none, Unit::site, Unit::record, Unit::client}) {
    const RoundPrivacy rounds{.unit = unit};
    CHECK_NOTHROW(shares.check_noise(rounds));
    if (rounds.is_within_sites())
      CHECK_THROWS_WITH(keeps.check_noise(rounds),
                        Catch::Matchers::Contains("a site would train them by its own sums, without noise"));
    else
      CHECK_NOTHROW(keeps.check_noise(rounds));
  }
}

TEST_CASE("a site's control variate continues from its last accepted update") {
  for (const int expert_parallel : grid_shapes()) {
    if (kSiteRows % expert_parallel != 0) continue;
    const ProcessGrid grid = grid_of(expert_parallel);
    const SharedDirectory folder;
    {
      CheckpointWriter writer(folder.path(), grid.world(), 0, false);
      auto all = entries_of(grid, "model", 0);
      for (const TensorEntry& entry : entries_of(grid, "control", 100)) all.push_back(entry);
      writer.save(all, test_state(3));
      REQUIRE(writer.wait()->saved);
    }
    const CheckpointReader base(checkpoint_path(folder.path(), 3));
    const SharingRule own_expert{"*.experts.up[7]", Sharing::kept_private};
    SiteModel site(base, std::span(&own_expert, 1), folder.path(), grid);
    const std::string update = folder.path() + "/update.f32";
    // Saves the result of `round`, in which the mean gradient is the control variate plus `gradient`.
    const auto train = [&](std::int64_t round, std::int64_t counted, float gradient) {
      const auto mean = entries_of(grid, "control", 100 + gradient);
      site.save(entries_of(grid, "model", 2), base, round, update, {mean, counted});
      grid.world().barrier();
    };
    // Checks that the correction is the coordinator's minus `own`; for the private expert, the coordinator's
    // alone.
    const auto corrects_by = [&](std::int64_t counted, float own) {
      const auto correction = entries_of(grid, "control", -1);
      const std::string warning = site.set_correction(correction, base, counted);
      const auto whole = entries_of(grid, "control", 100), rest = entries_of(grid, "control", 100 - own);
      for (std::size_t i = 0; i < correction.size(); ++i)
        for (Index j = 0; j < correction[i].values.numel(); ++j) {
          const bool kept = i == 1 && correction[i].first_row + j / kSiteColumns == 7;
          CHECK(correction[i].values.data<float>()[j] == (kept ? whole : rest)[i].values.data<float>()[j]);
        }
      grid.world().barrier();
      return warning;
    };

    CHECK(corrects_by(0, 0).empty());
    train(3, 0, 5);
    const auto sent = numbers_in(update);
    REQUIRE(sent.size() == 2 * kSiteShared);
    for (std::size_t i = 0; i < sent.size(); ++i) CHECK(sent[i] == (i < kSiteShared ? 2 : 5));
    // Repeating the round gives the same bits. But its update may have counted, and been forgotten.
    CHECK_THAT(corrects_by(0, 0), Catch::Matchers::Contains("came too late") &&
                                      Catch::Matchers::Contains("rounds.sqlite is an older copy"));
    CHECK(corrects_by(0, 0).empty());  // said once, as the site may be too slow for every round
    train(3, 0, 5);
    CHECK(numbers_in(update) == sent);
    CHECK(corrects_by(4, 5).empty());
    train(4, 4, 10);  // this update arrives too late and does not count
    CHECK(corrects_by(4, 5).empty());
    train(5, 4, 20);
    CHECK(corrects_by(6, 25).empty());
    CHECK_THAT(corrects_by(5, 0), Catch::Matchers::Contains("control variate of round 5 is missing"));
    train(6, 6, 30);
    train(7, 7, 40);
    CHECK(corrects_by(6, 25).empty());  // the model after round 7 was damaged, and its round is repeated
    train(6, 6, 50);
    CHECK(corrects_by(6, 25).empty());
    CHECK(corrects_by(7, 75).empty());
    CHECK_THAT(corrects_by(4, 0), Catch::Matchers::Contains("control variate of round 4 is missing"));
  }
}

TEST_CASE("a site's private tensors are restored for a round that is repeated") {
  for (const int expert_parallel : grid_shapes()) {
    if (kSiteRows % expert_parallel != 0) continue;
    const ProcessGrid grid = grid_of(expert_parallel);
    const SharedDirectory folder;
    CheckpointWriter writer(folder.path(), grid.world(), 0, false);
    writer.save(entries_of(grid, "model", 0), test_state(3));
    REQUIRE(writer.wait()->saved);
    const CheckpointReader base(checkpoint_path(folder.path(), 3));
    const SharingRule own_expert{"*.experts.up[7]", Sharing::kept_private};
    const SiteModel site(base, std::span(&own_expert, 1), folder.path(), grid);
    const auto train = [&](std::int64_t round, float first) {
      site.save(entries_of(grid, "model", first), base, round, folder.path() + "/update.f32", {});
      grid.world().barrier();
    };
    const auto begins_with = [&](std::int64_t round, float first) {
      const auto restored = entries_of(grid, "model", -100), own = entries_of(grid, "model", first);
      site.restore_private(restored, round);
      for (Index j = 0; j < own[1].values.numel(); ++j)
        if (own[1].first_row + j / kSiteColumns == 7)
          CHECK(restored[1].values.data<float>()[j] == own[1].values.data<float>()[j]);
      grid.world().barrier();
    };
    const auto kept = [&] {
      const std::filesystem::directory_iterator all(folder.path());
      return std::count_if(begin(all), end(all), [](const auto& entry) {
        return entry.path().filename().string().starts_with("private-");
      });
    };
    begins_with(1, -100);
    train(1, 10);
    train(4, 20);
    begins_with(4, 10);
    train(4, 30);
    begins_with(4, 10);
    begins_with(5, 30);
    train(5, 40);
    CHECK(kept() == 2);
    begins_with(5, 30);
    begins_with(6, 40);

    // A coordinator that was restored from a backup goes back by more rounds than there are files.
    begins_with(2, 30);
    train(2, 50);
    begins_with(2, 30);
    begins_with(3, 50);
    begins_with(7, 50);  // however late the site's next round is
    train(3, 60);
    begins_with(3, 50);
    CHECK(kept() == 2);

    begins_with(0, 50);
    train(0, 70);
    begins_with(0, 50);
    begins_with(7, 70);
    CHECK(kept() == 2);
    grid.world().barrier();
  }
}

TEST_CASE("a model that marks the wrong tensors as experts is refused") {
  const ProcessGrid grid = grid_of(1);
  const SharedDirectory folder;
  const auto own = entries_of(grid, "model", 0);
  for (const std::size_t forged : {own.size(), std::size_t{0}, std::size_t{1}}) {
    auto entries = own;
    if (forged < own.size()) entries[forged].sharded = !own[forged].sharded;
    const auto round = static_cast<std::int64_t>(forged);
    CheckpointWriter writer(folder.path(), grid.world(), 0, false);
    writer.save(entries, test_state(round));
    REQUIRE(writer.wait()->saved);
    const CheckpointReader base(checkpoint_path(folder.path(), round));
    const SiteModel site(base, {}, folder.path(), grid);
    if (forged == own.size())
      CHECK_NOTHROW(site.check_experts(own));
    else
      CHECK_THROWS_WITH(site.check_experts(own),
                        Catch::StartsWith(own[forged].name + ": in the coordinator's model"));
    grid.world().barrier();
  }
}

TEST_CASE("given changes are sent exactly, not as a difference of f32 weights") {
  for (const int expert_parallel : grid_shapes()) {
    if (kSiteRows % expert_parallel != 0) continue;
    const ProcessGrid grid = grid_of(expert_parallel);
    const SharedDirectory folder;
    const auto model = entries_of(grid, "model", 1000);
    CheckpointWriter writer(folder.path(), grid.world(), 0, false);
    writer.save(model, test_state(3));
    REQUIRE(writer.wait()->saved);
    const CheckpointReader base(checkpoint_path(folder.path(), 3));
    const SiteModel site(base, {}, folder.path(), grid);
    const std::string update = folder.path() + "/update.f32";
    auto changes = entries_of(grid, "model", 1);
    for (const TensorEntry& entry : changes)
      for (float& value : entry.values.span<float>()) value *= 1e-9F;
    site.save(model, base, 1, update, {}, changes);
    grid.world().barrier();
    const auto sent = numbers_in(update);
    REQUIRE(sent.size() == kSiteModel);
    for (std::size_t i = 0; i < sent.size(); ++i) CHECK(sent[i] == static_cast<float>(1 + i) * 1e-9F);
    changes.erase(changes.begin());  // without given changes, the difference from the base is sent
    site.save(model, base, 1, update, {}, changes);
    grid.world().barrier();
    CHECK(numbers_in(update)[0] == 0);
    CHECK(numbers_in(update)[4] == 5e-9F);
    grid.world().barrier();
  }
}

}  // namespace
}  // namespace conclave
