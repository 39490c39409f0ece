#include "recipes/service/access_log.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <optional>
#include <thread>

#include "core/file.h"
#include "tests/data/temporary_directory.h"

namespace conclave::service {
namespace {

AccessLog::Entry of(std::string_view address, std::string_view path = "/") {
  return {.address = address, .method = "GET", .path = path};
}

TEST_CASE("entries are in the log in their order, whichever thread writes them", "[service]") {
  const TemporaryDirectory folder;
  const std::string path = folder.path() + "/log";
  {
    AccessLog log(path);
    log.note_later(of("first"));
    log.note(of("second"));
    CHECK(read_file(path, "").find("second") > read_file(path, "").find("first"));
    log.note_later(of("last"));
  }
  CHECK(std::ranges::count(read_file(path, ""), '\n') == 3);
}

TEST_CASE("a thread that must not wait goes on while a log takes no more", "[service]") {
  const TemporaryDirectory folder;
  const std::string path = folder.path() + "/pipe", long_path(1000, 'x');
  REQUIRE(mkfifo(path.c_str(), 0600) == 0);
  const int reader = ::open(path.c_str(), O_RDONLY | O_NONBLOCK);  // which does not read yet
  std::optional<AccessLog> log(path);
  for (int i = 0; i < 3000; ++i) log->note_later(of("a", long_path));
  ::fcntl(reader, F_SETFL, 0);
  std::thread end([&] { log.reset(); });  // writes what waits
  std::array<char, 65536> some;
  std::int64_t lines = 0;
  for (ssize_t size = 0; (size = ::read(reader, some.data(), some.size())) > 0;)
    lines += std::count(some.begin(), some.begin() + size, '\n');
  end.join();
  ::close(reader);
  CHECK(lines >= 1024);
  CHECK(lines < 3000);
}

}  // namespace
}  // namespace conclave::service
