#include "recipes/service/access_log.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <catch2/catch.hpp>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "core/file.h"
#include "tests/data/temporary_directory.h"

namespace conclave::service {
namespace {

AccessLog::Entry of(std::string_view address, std::string_view path = "/") {
  return {.address = address, .method = "GET", .path = path};
}

std::vector<std::string> addresses_in(const std::string& path) {
  std::istringstream text(read_file(path, ""));
  std::vector<std::string> addresses;
  for (std::string line; std::getline(text, line);)
    addresses.push_back(nlohmann::json::parse(line).at("address"));
  return addresses;
}

TEST_CASE("entries are in the log in their order, whichever thread writes them", "[service]") {
  const TemporaryDirectory folder;
  const std::string path = folder.path() + "/log";
  {
    AccessLog log(path);
    log.note_later(of("first"));
    log.note(of("second"));
    CHECK(addresses_in(path) == std::vector<std::string>{"first", "second"});
    log.note_later(of("last"));
  }
  CHECK(addresses_in(path) == std::vector<std::string>{"first", "second", "last"});
}

TEST_CASE("entries that wait while a log is rotated are in the old file, in their order", "[service]") {
  const TemporaryDirectory folder;
  const std::string path = folder.path() + "/log", old = folder.path() + "/old";
  std::vector<std::string> before, after;
  {
    AccessLog log(path);
    std::filesystem::rename(path, old);
    for (int i = 0; i < 500; ++i) log.note_later(of(before.emplace_back("before " + std::to_string(i))));
    log.reopen();
    for (int i = 0; i < 500; ++i) log.note_later(of(after.emplace_back("after " + std::to_string(i))));
  }
  CHECK(addresses_in(old) == before);
  CHECK(addresses_in(path) == after);
}

TEST_CASE("no thread waits for a log that takes no more, and losses are counted", "[service]") {
  const TemporaryDirectory folder;
  const std::string path = folder.path() + "/pipe", long_path(1000, 'x');
  REQUIRE(mkfifo(path.c_str(), 0600) == 0);
  const int reader = ::open(path.c_str(), O_RDONLY | O_NONBLOCK);  // which does not read yet
  std::optional<AccessLog> log(path);
  for (int i = 0; i < 3000; ++i) log->note_later(of("a", long_path));
  ::fcntl(reader, F_SETFL, 0);
  std::thread end([&] { log.reset(); });  // writes what waits
  std::array<char, 65536> some;
  std::string text;
  for (ssize_t size = 0; (size = ::read(reader, some.data(), some.size())) > 0;)
    text.append(some.data(), static_cast<std::size_t>(size));
  end.join();
  ::close(reader);
  std::istringstream lines(text);
  int logged = 0, lost = 0;
  for (std::string line; std::getline(lines, line);)
    if (const int more = nlohmann::json::parse(line).value("not_logged", 0); more > 0)
      lost += more;
    else
      ++logged;
  CHECK(logged >= 1024);
  CHECK(lost > 0);
  CHECK(logged + lost == 3000);
}

}  // namespace
}  // namespace conclave::service
