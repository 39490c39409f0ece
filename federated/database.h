// What must survive a crash: tables in one SQLite file. Every statement that changes something is on the disk
// when it returns (write-ahead log, synchronous = FULL), and several together are by a Transaction.
#pragma once

#include <sqlite3.h>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace conclave {

/// One prepared statement; steps through its rows. Not to be used after its database is gone.
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
  /// Moves to the next row; false where there is none. Throws Error with SQLite's reason.
  bool next();
  /// Runs a statement without rows to its end.
  void run() {
    while (next()) {
    }
  }

  // Of the present row, columns from 0.
  std::int64_t integer(int column) const;
  double real(int column) const;
  std::string text(int column) const;  ///< or a blob's bytes

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
  /// Opens or makes `path`. Throws Error where it is no such file or damaged, or held by another process.
  explicit Database(const std::string& path);

  void run(std::string_view sql) { Statement(handle_.get(), sql).run(); }
  Statement prepare(std::string_view sql) const { return {handle_.get(), sql}; }
  /// False where there is no such table, too.
  bool has_column(std::string_view table, std::string_view column) const {
    return prepare("SELECT 1 FROM pragma_table_info(?1) WHERE name = ?2").bind(table, column).next();
  }

 private:
  struct Close {
    void operator()(sqlite3* database) const { sqlite3_close_v2(database); }
  };
  std::unique_ptr<sqlite3, Close> handle_;
};

/// What is done in its life is done together at commit(), or not at all.
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
