#include "federated/round_record.h"

#include "core/error.h"

namespace conclave {

RoundRecord::RoundRecord(const std::filesystem::path& directory, std::int64_t round)
    : file_((directory / "unmasked.sqlite").string()), database_(file_), round_(round) {
  database_.run("CREATE TABLE IF NOT EXISTS unmasked(round INTEGER PRIMARY KEY, attempt INTEGER)");
  database_.run("CREATE TABLE IF NOT EXISTS sent(round INTEGER PRIMARY KEY, attempt INTEGER)");
}

std::optional<std::int64_t> RoundRecord::sent() const {
  auto rows = database_.prepare("SELECT attempt FROM sent WHERE round = ?1");
  if (!rows.bind(round_).next()) return std::nullopt;
  return rows.integer(0);
}

void RoundRecord::check_may_join(std::int64_t attempt) const {
  auto unmasked = database_.prepare("SELECT 1 FROM unmasked WHERE round = ?1");
  require(!unmasked.bind(round_).next(),
          "round {}: the coordinator asks for its sum once more, and this site helped to unmask one before: "
          "the two would reveal their difference or, with noise, more than was accounted for. If you know "
          "that this is another federation, remove {}",
          round_ + 1, file_);
  const auto before = sent();
  require(!before || attempt > *before,
          "round {}: the coordinator asks for this site's update in attempt {} at its sum, and this site has "
          "sent it into attempt {}; expected a higher number, because two sums could otherwise reveal their "
          "difference. If you know that this is another federation, remove {}",
          round_ + 1, attempt, before.value_or(0), file_);
}

void RoundRecord::note_sent(std::int64_t attempt) {
  check_may_join(attempt);
  database_.prepare("INSERT OR REPLACE INTO sent(round, attempt) VALUES(?1, ?2)").bind(round_, attempt).run();
}

void RoundRecord::note_unmasked(std::int64_t attempt) {
  require(sent() == attempt, "round {}: attempt {} is to be unmasked, and this site sent its update into {}",
          round_ + 1, attempt, sent().value_or(0));
  database_.prepare("INSERT INTO unmasked(round, attempt) VALUES(?1, ?2)").bind(round_, attempt).run();
}

}  // namespace conclave
