// Tables that must survive a crash, in one SQLite file. A statement that changes data returns only when the
// change is on disk (write-ahead log, synchronous = FULL). A Transaction groups statements: either all of
// them take effect, or none, and they are on disk when its commit() returns.
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

class Database {
 public:
  /// Opens the file `path`, or creates it. Throws Error if it is not a database, is damaged, or is held by
  /// another process.
  explicit Database(const std::string& path);

  void run(std::string_view sql) { Statement(handle_.get(), sql).run(); }
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
