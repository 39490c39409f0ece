#include "recipes/site_update.h"

#include <fcntl.h>

#include <algorithm>
#include <cmath>

#include "parallel/checkpoint/durable_file.h"

namespace conclave {
namespace {

// All of a tensor, on rank 0 in host memory.
Tensor gathered(const TensorEntry& entry, const ProcessGrid& grid) {
  if (!entry.sharded) {
    const Tensor whole = Tensor::empty(entry.global_shape);
    whole.copy_from(entry.values);
    return whole;
  }
  // The rows of others are 0 here, and ours there.
  const Tensor whole = Tensor::zeros(entry.global_shape);
  if (grid.data_group().rank() == 0)
    whole.rows(entry.first_row, entry.first_row + entry.values.size(0)).copy_from(entry.values);
  grid.world().all_reduce(whole);
  return whole;
}

}  // namespace

void write_update(std::span<const TensorEntry> entries, const CheckpointReader& base, const ProcessGrid& grid,
                  const std::string& path) {
  const bool writes = grid.world().rank() == 0;
  std::optional<AtomicFile> file;
  std::optional<FileDescriptor> out;
  if (writes) {
    file.emplace(path);
    out.emplace(file->temporary(), O_WRONLY | O_CREAT | O_TRUNC);
  }
  for (const auto& [name, shape, sharded, offset] : layout_of(base).parts) {
    const auto entry = std::ranges::find(entries, name, &TensorEntry::name);
    require(entry != entries.end() && entry->global_shape == shape, "the model at this site has no {} {}",
            name, shape);
    const Tensor change = gathered(*entry, grid);
    if (!writes) continue;
    const Tensor before = base.read(name);
    const auto to = change.span<float>();
    const auto from = before.span<float>();
    bool finite = true;
    for (std::size_t i = 0; i < to.size(); ++i) {
      to[i] -= from[i];
      finite = finite && std::isfinite(to[i]);
    }
    require(finite, "{}: training made it infinite, or no number; try a lower train.learning_rate", name);
    out->write(change.raw(), change.bytes());
  }
  if (writes) {
    out.reset();
    file->commit();
  }
}

}  // namespace conclave
