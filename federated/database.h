// Tables that must survive a crash, in one SQLite file. A statement that changes data returns only when the
// change is on disk (synchronous = FULL). A Transaction groups statements: either all of them take effect, or
// none, and they are on disk when its commit() returns.
#pragma once

#include <sqlite3.h>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace conclave {

/// One prepared statement, which steps through its rows. Must not be used after its database is destroyed.
class Statement {
 public:
  Statement(sqlite3* database, std::string_view sql);

  /// Binds parameters ?1, ?2, ... in order.
  template <class... Values>
  Statement& bind(const Values&... values) {
    int place = 0;
    (bind_one(++place, values), ...);
    return *this;
  }
  /// Moves to the next row; returns false if there is none. Throws Error with SQLite's reason.
  bool next();
  /// Runs a statement that returns no rows.
  void run() {
    while (next()) {
    }
  }

  // Columns of the current row, counted from 0.
  std::int64_t integer(int column) const;
  double real(int column) const;
  std::string text(int column) const;  ///< text, or the bytes of a blob

 private:
  void bind_one(int place, std::int64_t value);
  void bind_one(int place, double value);
  void bind_one(int place, std::string_view value);
  void check(int result) const;

  struct Finalize {
    void operator()(sqlite3_stmt* statement) const { sqlite3_finalize(statement); }
  };
  sqlite3* database_;
  std::unique_ptr<sqlite3_stmt, Finalize> statement_;
};

/// Where SQLite keeps what makes a change take effect as a whole.
enum class Journal : std::uint8_t {
  /// Beside the file, only during a change. Between two changes the file alone has everything, so its copy is
  /// a backup.
  rollback,
  /// Changes are appended to a log, PATH-wal, which is faster. They are in the file after checkpoint(), or
  /// when the database is closed; a copy of the file alone lacks the newer ones.
  write_ahead,
};

class Database {
 public:
  /// Opens the file `path`, or creates it. Throws Error if it is not a database, is damaged, or is held by
  /// another process.
  explicit Database(const std::string& path, Journal journal = Journal::rollback);

  void run(std::string_view sql) { Statement(handle_.get(), sql).run(); }
  /// Moves what is in the log into the file, unless another thread is reading, or there is no room: what is
  /// in the log is safe there.
  void checkpoint() {
    sqlite3_wal_checkpoint_v2(handle_.get(), nullptr, SQLITE_CHECKPOINT_TRUNCATE, nullptr, nullptr);
  }
  Statement prepare(std::string_view sql) const { return {handle_.get(), sql}; }
  /// False also if there is no such table.
  bool has_column(std::string_view table, std::string_view column) const {
    return prepare("SELECT 1 FROM pragma_table_info(?1) WHERE name = ?2").bind(table, column).next();
  }

 private:
  struct Close {
    void operator()(sqlite3* database) const { sqlite3_close_v2(database); }
  };
  std::unique_ptr<sqlite3, Close> handle_;
};

/// The statements that run before commit() take effect together at commit(). Without commit(), the destructor
/// rolls them back.
class Transaction {
 public:
  explicit Transaction(Database& database) : database_(database) { database.run("BEGIN IMMEDIATE"); }
  ~Transaction();
  Transaction(const Transaction&) = delete;
  Transaction& operator=(const Transaction&) = delete;

  void commit();

 private:
  Database& database_;
  bool committed_ = false;
};

}  // namespace conclave
