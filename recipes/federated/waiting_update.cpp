#include "recipes/federated/waiting_update.h"

#include <fstream>
#include <nlohmann/json.hpp>

#include "core/durable_file.h"
#include "core/file.h"

namespace conclave {
namespace {

std::filesystem::path note_in(const std::filesystem::path& directory) { return directory / "update.json"; }

}  // namespace

void WaitingUpdate::save() const {
  const nlohmann::json note{{"round", round},
                            {"turn", turn},
                            {"base", {{"bytes", base.bytes}, {"xxh3", base.xxh3}}},
                            {"file", file.filename()},
                            {"digest", digest.hexadecimal()},
                            {"examples", examples},
                            {"tokens", tokens},
                            {"metrics", metrics},
                            {"terms", terms},
                            {"spend", spend}};
  replace_file(note_in(file.parent_path()).string(), note.dump(), 0600);
}

std::optional<WaitingUpdate> WaitingUpdate::find(const std::filesystem::path& directory, std::int64_t turn,
                                                 const std::string& terms,
                                                 const std::optional<FileDigest>& base) {
  std::ifstream in(note_in(directory));
  const auto note = nlohmann::json::parse(in, nullptr, false);
  if (!note.is_object() || note.value("turn", std::int64_t{-1}) != turn || note.value("terms", "") != terms)
    return std::nullopt;
  const FileDigest trained{note.at("base").at("bytes"), note.at("base").at("xxh3")};
  if (base && *base != trained) return std::nullopt;
  WaitingUpdate found{.round = note.at("round"),
                      .base = trained,
                      .file = directory / note.at("file").get<std::string>(),
                      .digest = {},
                      .examples = note.at("examples"),
                      .tokens = note.at("tokens"),
                      .metrics = note.at("metrics"),
                      .turn = turn,
                      .terms = terms,
                      .spend = note.at("spend")};
  if (!std::filesystem::exists(found.file)) return std::nullopt;
  found.digest = digest_of(found.file);
  if (found.digest.hexadecimal() != note.at("digest")) return std::nullopt;
  return found;
}

void WaitingUpdate::forget(const std::filesystem::path& directory) {
  if (std::filesystem::remove(note_in(directory))) sync_directory(directory);
}

}  // namespace conclave
