#include "recipes/federated/site_model.h"

#include <fcntl.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "core/durable_file.h"
#include "core/file.h"

namespace conclave {
namespace {

// How the names of a site's files begin.
constexpr std::string_view kPrivate = "private-", kControl = "control-";

// The whole tensor, in host memory; complete on rank 0.
void gather(const TensorEntry& entry, const ProcessGrid& grid, const Tensor& whole) {
  if (!entry.sharded) return whole.copy_from(entry.values);
  // Each rank's copy is 0 in the rows of other ranks, so the sum is the whole tensor.
  whole.zero();
  if (grid.data_group().rank() == 0)
    whole.rows(entry.first_row, entry.first_row + entry.values.size(0)).copy_from(entry.values);
  grid.world().all_reduce(whole);
}

void write(const std::string& path, std::span<const float> values) {
  replace_file(path, {reinterpret_cast<const char*>(values.data()), values.size_bytes()}, 0600);
}

// A file of the numbers that a site keeps, laid out as the model is.
class KeptNumbers {
 public:
  KeptNumbers(const std::filesystem::path& path, std::size_t elements) : file_(path.string(), O_RDONLY) {
    require(file_.size() == elements * sizeof(float), "{}: is of another model", path.string());
  }
  void read(std::size_t first, std::span<float> values) const {
    file_.read_at(values.data(), values.size_bytes(), first * sizeof(float));
  }

 private:
  FileDescriptor file_;
};

void expect_finite(const std::string& name, std::span<const float> values) {
  require(std::ranges::all_of(values, [](float value) { return std::isfinite(value); }),
          "{}: training made it infinite, or no number; try a lower train.learning_rate", name);
}

// values -= the tensor `name` of `base`.
void subtract(const CheckpointReader& base, const std::string& name, std::span<float> values) {
  const Tensor before = base.read(name);
  const auto from = before.span<float>();
  for (std::size_t i = 0; i < from.size(); ++i) values[i] -= from[i];
  expect_finite(name, values);
}

const TensorEntry& entry_of(std::span<const TensorEntry> entries, const std::string& name,
                            const Shape& shape) {
  const auto entry = std::ranges::find(entries, name, &TensorEntry::name);
  require(entry != entries.end() && entry->global_shape == shape, "the model at this site has no {} {}", name,
          shape);
  return *entry;
}

// Where this rank's rows begin in the whole tensor.
std::size_t first_element(const TensorEntry& entry) {
  const Index rows = entry.values.rank() > 0 ? entry.values.size(0) : 1;
  return static_cast<std::size_t>(entry.first_row * (entry.values.numel() / std::max<Index>(rows, 1)));
}

}  // namespace

SiteModel::SiteModel(const CheckpointReader& base, std::span<const SharingRule> rules,
                     std::filesystem::path directory, const ProcessGrid& grid)
    : layout_(layout_of(base)),
      policy_(flat_parameters(layout_), rules),
      directory_(std::move(directory)),
      grid_(grid) {}

void SiteModel::check_experts(std::span<const TensorEntry> entries) const {
  for (const auto& part : layout_.parts) {
    const TensorEntry& entry = entry_of(entries, part.name, part.shape);
    const bool lone = entry.sharded && part.shape[0] == 1;  // in a file, a tensor of one expert looks like
                                                            // any other
    require(entry.sharded == part.sharded || lone,
            "{}: in the coordinator's model it has {}row for each expert, and in the model that its recipe "
            "makes {}: the experts that this site keeps to itself could not be told from the rest",
            part.name, part.sharded ? "a " : "no ", entry.sharded ? "it has one" : "it has none");
  }
}

void SiteModel::check_private(std::span<const SharingRule> never) const {
  const auto parameters = flat_parameters(layout_);
  check_kept_private(parameters, policy_, SharingPolicy(parameters, never));
}

void SiteModel::check_noise(const RoundPrivacy& rounds) const {
  require(!rounds.is_within_sites() || !has_private_part(),
          "the coordinator's sharing.private keeps parameters at each site, and with privacy.unit = \"{}\" a "
          "site would train them by its own sums, without noise: epsilon would not hold for them. A "
          "coordinator does not start with both of these settings, so ask whoever runs it; until then, take "
          "no part",
          to_string(rounds.unit));
}

std::filesystem::path SiteModel::kept_file(std::string_view prefix, std::int64_t round) const {
  return directory_ / fmt::format("{}{:08}.f32", prefix, round);
}

std::set<std::int64_t> SiteModel::rounds_kept(std::string_view prefix) const {
  std::set<std::int64_t> rounds;
  for (const auto& entry : std::filesystem::directory_iterator(directory_)) {
    const std::string name = entry.path().filename().string();
    long long number = 0;
    if (name.starts_with(prefix) && std::sscanf(name.c_str() + prefix.size(), "%lld.f32", &number) == 1 &&
        entry.path() == kept_file(prefix, number))
      rounds.insert(number);
  }
  return rounds;
}

// False after a round of another strategy: the control variate is then zero.
bool SiteModel::has_control(const CheckpointReader& base) const {
  return base.has(control_name(layout_.parts.front().name));
}

std::filesystem::path SiteModel::private_file(std::int64_t round) const { return kept_file(kPrivate, round); }

// The newest file for a round up to `round`, because rounds without this site do not change its numbers. If
// there is none, the coordinator went back. Then the oldest later file, except the one for `round` + 1: it is
// the result of `round`, with which a repetition of `round` must not begin.
std::optional<std::int64_t> SiteModel::kept_private(std::int64_t round) const {
  const std::set<std::int64_t> rounds = rounds_kept(kPrivate);
  if (const auto after = rounds.upper_bound(round); after != rounds.begin()) return *std::prev(after);
  // `round` may be the largest number there is.
  const auto later = std::ranges::find_if(rounds, [&](std::int64_t number) { return number - 1 > round; });
  return later == rounds.end() ? std::nullopt : std::optional(*later);
}

std::filesystem::path SiteModel::control_file(std::int64_t round) const { return kept_file(kControl, round); }

std::optional<std::int64_t> SiteModel::restore_private(std::span<const TensorEntry> entries,
                                                       std::int64_t round) const {
  if (!has_private_part()) return std::nullopt;
  const std::optional<std::int64_t> kept = kept_private(round);
  if (!kept) return kept;  // use the global model's numbers
  const KeptNumbers numbers(private_file(*kept), policy_.model_elements());
  for (const auto& [name, shape, sharded, offset] : layout_.parts) {
    const auto entry = std::ranges::find(entries, name, &TensorEntry::name);
    require(entry != entries.end(), "the model at this site has no {}", name);
    const Tensor values = Tensor::empty(entry->values.shape());
    values.copy_from(entry->values);
    const auto mine = values.span<float>();
    const std::size_t begin = offset + first_element(*entry);
    const std::size_t end = begin + mine.size();
    // Reads the gaps between the ranges that are shared.
    std::size_t at = begin;
    bool changed = false;
    const auto take = [&](std::size_t until) {
      if (until <= at) return;
      numbers.read(at, mine.subspan(at - begin, until - at));
      changed = true;
    };
    for (const auto& range : policy_.ranges()) {
      if (range.model + range.size <= at) continue;
      if (range.model >= end) break;
      take(range.model);
      at = std::max(at, range.model + range.size);
    }
    take(end);
    if (changed) entry->values.copy_from(values);
  }
  return kept;
}

std::string SiteModel::set_correction(std::span<const TensorEntry> correction, const CheckpointReader& base,
                                      std::int64_t counted) {
  if (has_control(base))
    CheckpointReader(base.path(), grid_.world()).load(correction);
  else
    for (const TensorEntry& entry : correction) entry.values.zero();
  if (counted == 0) {
    if (told_of_no_update_ || rounds_kept(kControl).empty()) return "";
    const bool is_zero = std::ranges::all_of(correction, [](const TensorEntry& entry) {
      const Tensor values = Tensor::empty(entry.values.shape());  // entry.values may be on a device
      values.copy_from(entry.values);
      return std::ranges::all_of(values.span<float>(), [](float value) { return value == 0; });
    });
    if (is_zero) return "";
    told_of_no_update_ = true;
    return fmt::format(
        "{}: this site made updates before, and by the coordinator's record none of them counted: its "
        "control variate is taken to be zeros. They probably came too late, after the deadlines of their "
        "rounds. If one came in time, the coordinator's rounds.sqlite is an older copy: have the newest one "
        "restored",
        directory_.string());
  }
  if (!std::filesystem::exists(control_file(counted)))
    return fmt::format(
        "{}: this site's control variate of round {} is missing; it begins with zeros, while the mean of all "
        "sites' still contains the old one",
        directory_.string(), counted);
  const KeptNumbers numbers(control_file(counted), policy_.model_elements());
  for (const auto& [name, shape, sharded, offset] : layout_.parts) {
    const auto entry = std::ranges::find(correction, control_name(name), &TensorEntry::name);
    if (entry == correction.end()) continue;
    const Tensor values = Tensor::empty(entry->values.shape()), own = Tensor::empty(entry->values.shape());
    values.copy_from(entry->values);
    const auto mine = own.span<float>();
    numbers.read(offset + first_element(*entry), mine);
    for (std::size_t i = 0; i < mine.size(); ++i) values.span<float>()[i] -= mine[i];
    entry->values.copy_from(values);
  }
  return "";
}

FileDigest SiteModel::save(std::span<const TensorEntry> entries, const CheckpointReader& base,
                           std::int64_t round, const std::string& update, const Control& control,
                           std::span<const TensorEntry> changes) const {
  const bool by_control = !control.gradient.empty();
  const Tensor model = Tensor::empty({static_cast<Index>(layout_.elements)});
  const Tensor gradient = Tensor::zeros({by_control ? static_cast<Index>(layout_.elements) : 0});
  const Tensor exact = Tensor::empty({changes.empty() ? 0 : static_cast<Index>(layout_.elements)});
  for (const auto& [name, shape, sharded, offset] : layout_.parts) {
    const auto first = static_cast<Index>(offset), end = first + shape.numel();
    gather(entry_of(entries, name, shape), grid_, model.rows(first, end).reshape(shape));
    const auto mean = std::ranges::find(control.gradient, control_name(name), &TensorEntry::name);
    if (mean != control.gradient.end()) gather(*mean, grid_, gradient.rows(first, end).reshape(shape));
    const auto changed = std::ranges::find(changes, name, &TensorEntry::name);
    if (changed != changes.end()) gather(*changed, grid_, exact.rows(first, end).reshape(shape));
  }
  if (grid_.world().rank() != 0) return {};
  const auto values = model.span<float>(), change = gradient.span<float>();
  if (has_private_part()) save_private(values, round + 1);
  const std::size_t elements = policy_.exchanged_elements();
  const Tensor exchanged = Tensor::empty({static_cast<Index>(elements * (by_control ? 2 : 1))});
  for (const auto& [name, shape, sharded, offset] : layout_.parts) {
    const auto own = values.subspan(offset, static_cast<std::size_t>(shape.numel()));
    if (std::ranges::find(changes, name, &TensorEntry::name) != changes.end()) {
      std::ranges::copy(exact.span<float>().subspan(offset, own.size()), own.begin());
      expect_finite(name, own);
    } else {
      subtract(base, name, own);
    }
    if (!by_control) continue;
    const auto changed = change.subspan(offset, static_cast<std::size_t>(shape.numel()));
    if (has_control(base))
      subtract(base, control_name(name), changed);
    else
      expect_finite(control_name(name), changed);
  }
  policy_.gather(values, exchanged.span<float>().first(elements));
  if (by_control) {
    policy_.gather(change, exchanged.span<float>().subspan(elements));
    save_control(change, round + 1, control.counted);
  }
  write(update, exchanged.span<float>());
  return digest_of(std::as_bytes(exchanged.span<float>()));
}

void SiteModel::save_private(std::span<const float> model, std::int64_t round) const {
  write(private_file(round).string(), model);
  // A repetition begins with the file that the round began with, so keep that one. If it is for a later
  // round, the coordinator went back; rename it, so that it does not count as newer than the files of coming
  // rounds.
  const std::int64_t before = round - 1, kept = kept_private(before).value_or(before);
  if (kept > before) std::filesystem::rename(private_file(kept), private_file(before));
  remove_others(kPrivate, {private_file(round), private_file(std::min(kept, before))});
}

// Removes the other files whose names begin with `prefix`.
void SiteModel::remove_others(std::string_view prefix, const std::set<std::filesystem::path>& kept) const {
  for (const auto& entry : std::filesystem::directory_iterator(directory_))
    if (entry.path().filename().string().starts_with(prefix) && !kept.contains(entry.path()))
      std::filesystem::remove(entry.path());
}

// The file is as long as the model, with zeros where the model is private.
void SiteModel::save_control(std::span<const float> change, std::int64_t round, std::int64_t counted) const {
  const Tensor control = Tensor::zeros({static_cast<Index>(policy_.model_elements())});
  const auto own = control.span<float>();
  if (counted > 0 && std::filesystem::exists(control_file(counted)))
    KeptNumbers(control_file(counted), own.size()).read(0, own);
  for (const auto& range : policy_.ranges())
    for (std::size_t i = range.model; i < range.model + range.size; ++i) own[i] += change[i];
  write(control_file(round).string(), own);
  // A repetition of this round begins with the file of the last update that counted. If its model is damaged,
  // that update is repeated, which begins with the file before. Other files are of updates that came too
  // late.
  std::set<std::filesystem::path> kept{control_file(round), control_file(counted)};
  const std::set<std::int64_t> rounds = rounds_kept(kControl);
  if (const auto last = rounds.lower_bound(counted); last != rounds.begin())
    kept.insert(control_file(*std::prev(last)));
  remove_others(kControl, kept);
}

}  // namespace conclave
