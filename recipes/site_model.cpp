#include "recipes/site_model.h"

#include <fcntl.h>

#include <algorithm>
#include <cmath>

#include "parallel/checkpoint/durable_file.h"

namespace conclave {
namespace {

// All of a tensor, on rank 0 in host memory.
void gather(const TensorEntry& entry, const ProcessGrid& grid, const Tensor& whole) {
  if (!entry.sharded) return whole.copy_from(entry.values);
  // The rows of others are 0 here, and ours there.
  whole.zero();
  if (grid.data_group().rank() == 0)
    whole.rows(entry.first_row, entry.first_row + entry.values.size(0)).copy_from(entry.values);
  grid.world().all_reduce(whole);
}

void write(const std::string& path, std::span<const float> values) {
  AtomicFile file(path);
  FileDescriptor(file.temporary(), O_WRONLY | O_CREAT | O_TRUNC, 0600)
      .write(values.data(), values.size_bytes());
  file.commit();
}

}  // namespace

SiteModel::SiteModel(const CheckpointReader& base, std::span<const SharingRule> rules,
                     std::filesystem::path directory, const ProcessGrid& grid)
    : layout_(layout_of(base)),
      policy_(flat_parameters(layout_), rules),
      directory_(std::move(directory)),
      grid_(grid) {}

std::filesystem::path SiteModel::private_file(std::int64_t round) const {
  return directory_ / fmt::format("private-{:08}.f32", round);
}

void SiteModel::restore_private(std::span<const TensorEntry> entries, std::int64_t round) const {
  if (!has_private_part()) return;
  // Rounds without this site left it as it was.
  std::int64_t kept = round;
  while (kept > 0 && !std::filesystem::exists(private_file(kept))) --kept;
  if (kept == 0) return;  // it begins as the global model does
  const FileDescriptor file(private_file(kept).string(), O_RDONLY);
  require(file.size() == policy_.model_elements() * sizeof(float), "{}: is of another model",
          private_file(kept).string());
  for (const auto& [name, shape, sharded, offset] : layout_.parts) {
    const auto entry = std::ranges::find(entries, name, &TensorEntry::name);
    require(entry != entries.end(), "the model at this site has no {}", name);
    const Tensor values = Tensor::empty(entry->values.shape());
    values.copy_from(entry->values);
    const auto mine = values.span<float>();
    const std::size_t begin =
        offset + static_cast<std::size_t>(entry->first_row) *
                     (mine.size() / static_cast<std::size_t>(std::max<Index>(
                                        entry->values.rank() > 0 ? entry->values.size(0) : 1, 1)));
    const std::size_t end = begin + mine.size();
    // What lies between the ranges that are shared.
    std::size_t at = begin;
    bool changed = false;
    const auto take = [&](std::size_t until) {
      if (until <= at) return;
      file.read_at(&mine[at - begin], (until - at) * sizeof(float), at * sizeof(float));
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
}

FileDigest SiteModel::save(std::span<const TensorEntry> entries, const CheckpointReader& base,
                           std::int64_t round, const std::string& update) const {
  const Tensor model = Tensor::empty({static_cast<Index>(layout_.elements)});
  for (const auto& [name, shape, sharded, offset] : layout_.parts) {
    const auto entry = std::ranges::find(entries, name, &TensorEntry::name);
    require(entry != entries.end() && entry->global_shape == shape, "the model at this site has no {} {}",
            name, shape);
    const auto first = static_cast<Index>(offset);
    gather(*entry, grid_, model.rows(first, first + shape.numel()).reshape(shape));
  }
  if (grid_.world().rank() != 0) return {};
  const auto values = model.span<float>();
  if (has_private_part()) save_private(values, round + 1);
  for (const auto& [name, shape, sharded, offset] : layout_.parts) {
    const Tensor before = base.read(name);
    const auto from = before.span<float>();
    bool finite = true;
    for (std::size_t i = 0; i < from.size(); ++i) {
      values[offset + i] -= from[i];
      finite = finite && std::isfinite(values[offset + i]);
    }
    require(finite, "{}: training made it infinite, or no number; try a lower train.learning_rate", name);
  }
  const Tensor exchanged = Tensor::empty({static_cast<Index>(policy_.exchanged_elements())});
  policy_.gather(values, exchanged.span<float>());
  write(update, exchanged.span<float>());
  return digest_of(std::as_bytes(exchanged.span<float>()));
}

void SiteModel::save_private(std::span<const float> model, std::int64_t round) const {
  write(private_file(round).string(), model);
  // The one before is what a repetition of this round would begin with.
  for (std::int64_t old = round - 2; old > 0 && std::filesystem::remove(private_file(old)); --old) {
  }
}

}  // namespace conclave
