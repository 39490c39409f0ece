// Names and places of checkpoints; reading and writing them is in checkpoint_reader and checkpoint_writer.
#include "parallel/checkpoint/checkpoint.h"

#include <algorithm>
#include <charconv>
#include <filesystem>

#include "core/durable_file.h"
#include "parallel/checkpoint/checkpoint_reader.h"

namespace conclave {
namespace {

constexpr std::string_view kPrefix = "step-", kSuffix = ".h5";

std::optional<std::int64_t> step_of(std::string_view name) {
  if (name.size() <= kPrefix.size() + kSuffix.size() || !name.starts_with(kPrefix) ||
      !name.ends_with(kSuffix))
    return std::nullopt;
  const std::string_view digits = name.substr(kPrefix.size(), name.size() - kPrefix.size() - kSuffix.size());
  std::int64_t step = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), step);
  if (error != std::errc{} || end != digits.data() + digits.size() || step < 0) return std::nullopt;
  return step;
}

// Returns the first of the folders "earlier", "earlier-2", ... of `directory` that does not exist.
std::filesystem::path unused_folder(const std::filesystem::path& directory) {
  std::filesystem::path folder = directory / "earlier";
  std::error_code
      ignored;  // a path that cannot be examined counts as unused; using it then fails with an error
  for (int number = 2; std::filesystem::exists(std::filesystem::symlink_status(folder, ignored)); ++number)
    folder = directory / fmt::format("earlier-{}", number);
  return folder;
}

bool well_formed(const std::string& name) {
  std::size_t begin = 0;
  while (true) {
    const std::size_t slash = std::min(name.find('/', begin), name.size());
    const std::string_view part = std::string_view(name).substr(begin, slash - begin);
    if (part.empty() || part == "." || part == ".." || part.find('\0') != part.npos) return false;
    if (slash == name.size()) return !name.starts_with("state/");
    begin = slash + 1;
  }
}

}  // namespace

void check_entry(const TensorEntry& entry) {
  require(
      well_formed(entry.name),
      "checkpoint: \"{}\" cannot name a tensor; use components separated by single slashes, not below state/",
      entry.name);
  require(entry.values.contiguous(), "checkpoint: tensor {}: values {} are a view with gaps", entry.name,
          entry.values.shape());
  Shape local = entry.global_shape;
  if (entry.sharded) {
    require(local.rank() >= 1 && entry.values.rank() >= 1,
            "checkpoint: tensor {}: a scalar cannot be sharded", entry.name);
    local[0] = entry.values.size(0);
  }
  require(local == entry.values.shape(), "checkpoint: tensor {}: {} values {} are no part of {}", entry.name,
          entry.sharded ? "sharded" : "replicated", entry.values.shape(), entry.global_shape);
  const Index rows = entry.sharded ? entry.global_shape[0] - entry.values.size(0) : 0;
  require(entry.first_row >= 0 && entry.first_row <= rows,
          "checkpoint: tensor {}: {} from row {} are outside {}", entry.name, entry.values.shape(),
          entry.first_row, entry.global_shape);
}

std::string checkpoint_path(const std::string& directory, std::int64_t step) {
  return (std::filesystem::path(directory) / fmt::format("{}{:08d}{}", kPrefix, step, kSuffix)).string();
}

std::vector<CheckpointFile> list_checkpoints(const std::string& directory) {
  std::vector<CheckpointFile> found;
  std::error_code error;
  for (std::filesystem::directory_iterator entry(directory, error), end; !error && entry != end;
       entry.increment(error))
    if (const auto step = step_of(entry->path().filename().string()))
      found.push_back({*step, entry->path().string()});
  std::sort(found.begin(), found.end(), [](const auto& a, const auto& b) { return a.step < b.step; });
  return found;
}

SetAside set_aside_checkpoints(const std::string& directory, std::int64_t step,
                               const std::function<void(const std::string& folder)>& first, bool always) {
  auto files = list_checkpoints(directory);
  std::erase_if(files, [&](const CheckpointFile& file) {
    std::error_code ignored;
    return file.step <= step || !std::filesystem::is_regular_file(file.path, ignored);
  });
  if (files.empty() && !always) return {};
  const std::filesystem::path aside = unused_folder(directory);
  create_durable_directories(aside);
  if (first) first(aside.string());
  for (const CheckpointFile& file : files) {
    const std::filesystem::path from = file.path;
    std::error_code error;
    std::filesystem::rename(from, aside / from.filename(), error);
    require(!error, "{}: cannot be moved to {}: {}", file.path, aside.string(), error.message());
  }
  sync_directory(aside);
  sync_directory(directory);
  return {files.size(), aside.string()};
}

std::optional<std::string> newest_checkpoint(const std::string& directory, Verify verify,
                                             std::vector<std::string>* warnings, std::int64_t last) {
  const auto files = list_checkpoints(directory);
  for (auto file = files.rbegin(); file != files.rend(); ++file) {
    if (file->step > last) continue;
    try {
      const CheckpointReader reader(file->path);
      if (verify == Verify::model) reader.verify("model/");
      if (verify == Verify::everything) reader.verify();
      return file->path;
    } catch (const std::exception& error) {  // damaged sizes may also cause std::bad_alloc
      if (warnings != nullptr) warnings->push_back(error.what());
    }
  }
  return std::nullopt;
}

}  // namespace conclave
