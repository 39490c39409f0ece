#include "federated/database.h"

#include "core/error.h"

namespace conclave {
namespace {

// One process at a time owns the file: two coordinators in one folder would count an update twice.
constexpr std::string_view kSettings[] = {"PRAGMA locking_mode = EXCLUSIVE", "PRAGMA synchronous = FULL",
                                          "PRAGMA foreign_keys = ON"};

// Waiting time for a lock that is held by a process that only reads the file, such as a backup.
constexpr int kPatience = 1000;  // milliseconds

}  // namespace

Statement::Statement(sqlite3* database, std::string_view sql) : database_(database) {
  sqlite3_stmt* statement = nullptr;
  check(sqlite3_prepare_v2(database, sql.data(), static_cast<int>(sql.size()), &statement, nullptr));
  statement_.reset(statement);
}

void Statement::check(int result) const {
  if (result == SQLITE_OK || result == SQLITE_ROW || result == SQLITE_DONE) return;
  const char* file = sqlite3_db_filename(database_, "main");
  const std::string reason = sqlite3_errmsg(database_);
  fail("{}: {}{}", file ? file : "database", reason,
       result == SQLITE_BUSY ? "; another process uses it: end that one, or choose another folder" : "");
}

bool Statement::next() {
  const int result = sqlite3_step(statement_.get());
  check(result);
  return result == SQLITE_ROW;
}

std::int64_t Statement::integer(int column) const { return sqlite3_column_int64(statement_.get(), column); }
double Statement::real(int column) const { return sqlite3_column_double(statement_.get(), column); }
std::string Statement::text(int column) const {
  const void* bytes = sqlite3_column_blob(statement_.get(), column);
  const auto size = static_cast<std::size_t>(sqlite3_column_bytes(statement_.get(), column));
  return bytes ? std::string(static_cast<const char*>(bytes), size) : std::string();
}

void Statement::bind_one(int place, std::int64_t value) {
  check(sqlite3_bind_int64(statement_.get(), place, value));
}
void Statement::bind_one(int place, double value) {
  check(sqlite3_bind_double(statement_.get(), place, value));
}
void Statement::bind_one(int place, std::string_view value) {
  check(sqlite3_bind_text(statement_.get(), place, value.data(), static_cast<int>(value.size()),
                          SQLITE_TRANSIENT));
}

Database::Database(const std::string& path, Journal journal) {
  sqlite3* handle = nullptr;
  const int result = sqlite3_open_v2(
      path.c_str(), &handle, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_FULLMUTEX, nullptr);
  handle_.reset(handle);
  require(result == SQLITE_OK, "{}: cannot be opened: {}", path,
          handle ? sqlite3_errmsg(handle) : "out of memory");
  sqlite3_busy_timeout(handle, kPatience);
  for (const std::string_view setting : kSettings) run(setting);
  // With synchronous = FULL, SQLite syncs a journal that it truncates, but not the folder of one that it
  // deletes.
  run(journal == Journal::rollback ? "PRAGMA journal_mode = TRUNCATE" : "PRAGMA journal_mode = WAL");
  if (journal == Journal::write_ahead) return;  // the file is locked by now
  // Takes the lock, which locking_mode keeps: otherwise another process could read the file until the first
  // change, which would then fail.
  run("BEGIN EXCLUSIVE");
  run("COMMIT");
}

Transaction::~Transaction() {
  if (committed_) return;
  try {
    database_.run("ROLLBACK");
  } catch (const Error&) {  // SQLite has already rolled back, for example because the disk was full
  }
}

void Transaction::commit() {
  database_.run("COMMIT");
  committed_ = true;
}

}  // namespace conclave
