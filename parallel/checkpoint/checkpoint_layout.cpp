// agree() checks this rank's entries, compares what must be equal on all ranks, gathers which rank holds
// which rows, and assigns the writers.
#include "parallel/checkpoint/checkpoint_layout.h"

#include <algorithm>
#include <set>

#include "core/xxh3.h"

namespace conclave {
namespace {

constexpr std::size_t kStagingAlignment = 64;

std::string describe(const TensorEntry& entry) {
  return fmt::format("{} {} {}{}", entry.name, name_of(entry.values.dtype()), entry.global_shape,
                     entry.sharded ? " sharded" : "");
}

// Returns what is wrong with this rank's entries alone, or "".
std::string complaint(std::span<const TensorEntry> entries) {
  try {
    std::set<std::string> names;
    for (const TensorEntry& entry : entries) {
      check_entry(entry);
      require(names.insert(entry.name).second, "checkpoint: tensor {} is given twice", entry.name);
    }
  } catch (const Error& error) {
    return error.what();
  }
  return {};
}

void compare_with_rank_0(std::span<const TensorEntry> entries, Communicator& group) {
  std::string mine, error;
  for (const TensorEntry& entry : entries) mine += describe(entry) + "\n";
  const std::string first = group.broadcast(mine, 0);
  if (mine != first) {
    const auto at = std::mismatch(mine.begin(), mine.end(), first.begin(), first.end());
    const auto line = [](const std::string& text, std::size_t position) {
      const std::size_t end = std::min(text.find('\n', position), text.size());
      const std::size_t before = position == 0 ? std::string::npos : text.rfind('\n', position - 1);
      const std::size_t begin = before == std::string::npos ? 0 : before + 1;
      return begin < end ? text.substr(begin, end - begin) : std::string("nothing");
    };
    error = fmt::format("checkpoint: rank {} has {} where rank 0 has {}", group.rank(),
                        line(mine, static_cast<std::size_t>(at.first - mine.begin())),
                        line(first, static_cast<std::size_t>(at.second - first.begin())));
  }
  for (const std::string& text : group.all_gather(error))
    if (!text.empty()) throw Error(text);
}

struct Range {
  Index first_row, rows;
  bool operator<(const Range& other) const { return first_row < other.first_row; }
};

}  // namespace

std::uint64_t CheckpointLayout::signature(std::span<const TensorEntry> entries) {
  std::uint64_t hash = entries.size();
  for (const TensorEntry& entry : entries) {
    const Index facts[] = {entry.first_row,           entry.sharded,
                           entry.values.contiguous(), static_cast<Index>(entry.values.dtype()),
                           entry.values.rank(),       entry.global_shape.rank()};
    hash = xxh3_64(entry.name.data(), entry.name.size(), hash);
    hash = xxh3_64(facts, sizeof facts, hash);
    for (const Shape* shape : {&entry.values.shape(), &entry.global_shape})
      hash = xxh3_64(shape->extents().data(), shape->extents().size_bytes(), hash);
  }
  return hash;
}

CheckpointLayout CheckpointLayout::agree(std::span<const TensorEntry> entries, Communicator& group) {
  const auto complaints = group.all_gather(complaint(entries));
  for (std::size_t rank = 0; rank < complaints.size(); ++rank)
    if (!complaints[rank].empty()) fail("{} (on rank {})", complaints[rank], rank);
  compare_with_rank_0(entries, group);

  const auto count = static_cast<Index>(entries.size());
  const auto ranks = static_cast<std::size_t>(group.size());
  std::vector<Index> mine, all(entries.size() * 2 * ranks);
  for (const TensorEntry& entry : entries) {
    mine.push_back(entry.sharded ? entry.first_row : 0);
    mine.push_back(entry.sharded ? entry.values.size(0) : 1);
  }
  group.all_gather(Tensor::borrow(mine.data(), {count, 2}, DType::i64),
                   Tensor::borrow(all.data(), {group.size(), count, 2}, DType::i64));

  CheckpointLayout layout;
  std::vector<std::uint64_t> load(ranks, 0);  // bytes assigned to each rank so far
  const auto assign = [&](std::size_t tensor) {
    const TensorEntry& entry = entries[tensor];
    const auto range_of = [&](std::size_t rank) {
      const Index* pair = &all[(rank * entries.size() + tensor) * 2];
      return Range{pair[0], pair[1]};
    };
    std::set<Range> ranges;
    for (std::size_t rank = 0; rank < ranks; ++rank)
      if (range_of(rank).rows > 0) ranges.insert(range_of(rank));
    const Index total_rows = entry.sharded ? entry.global_shape[0] : 1;
    const auto row_bytes =
        static_cast<std::uint64_t>(entry.global_shape.numel() / std::max<Index>(total_rows, 1)) *
        size_of(entry.values.dtype());
    Index covered = 0;
    for (const Range& range : ranges) {
      std::size_t writer = ranks;
      for (std::size_t rank = 0; rank < ranks; ++rank) {
        const Range held = range_of(rank);
        if (held.rows == 0 || held.first_row != range.first_row) continue;
        require(held.rows == range.rows, "checkpoint: tensor {}: ranks hold {} and {} rows from row {}",
                entry.name, held.rows, range.rows, range.first_row);
        if (writer == ranks || load[rank] < load[writer]) writer = rank;
      }
      require(range.first_row == covered, "checkpoint: tensor {} {}: {} between rows {} and {}", entry.name,
              entry.global_shape, range.first_row < covered ? "ranks overlap" : "no rank holds the rows",
              std::min(range.first_row, covered), std::max(range.first_row, covered));
      covered += range.rows;
      const std::uint64_t bytes = row_bytes * static_cast<std::uint64_t>(range.rows);
      load[writer] += bytes;
      if (writer != static_cast<std::size_t>(group.rank()) || bytes == 0) continue;
      const Index rows = entry.sharded || entry.values.rank() == 0 ? range.rows : entry.values.size(0);
      layout.parts.push_back({tensor, range.first_row, rows, layout.staging_bytes, bytes});
      layout.staging_bytes += (bytes + kStagingAlignment - 1) / kStagingAlignment * kStagingAlignment;
    }
    require(covered == total_rows, "checkpoint: tensor {} {}: no rank holds the rows from {}", entry.name,
            entry.global_shape, covered);
    layout.total_bytes += row_bytes * static_cast<std::uint64_t>(total_rows);
  };
  for (const bool sharded : {true, false})
    for (std::size_t tensor = 0; tensor < entries.size(); ++tensor)
      if (entries[tensor].sharded == sharded) assign(tensor);

  for (const TensorEntry& entry : entries) {
    const Index checksums = entry.sharded ? entry.global_shape[0] : 1;
    layout.tensors.push_back(
        {entry.name, entry.values.dtype(), entry.global_shape, layout.checksums, checksums});
    layout.checksums += checksums;
  }
  return layout;
}

}  // namespace conclave
