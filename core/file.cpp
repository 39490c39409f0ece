#include "core/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <random>

#include "core/durable_file.h"
#include "core/error.h"

namespace conclave {
namespace {

struct Descriptor {
  int value;
  ~Descriptor() {
    if (value >= 0) ::close(value);
  }
};

}  // namespace

std::string read_file(const std::string& path, std::string_view advice, std::optional<std::size_t> most) {
  const std::string then = advice.empty() ? "" : fmt::format("; {}", advice);
  const Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  struct stat status {};
  require(file.value >= 0 && ::fstat(file.value, &status) == 0, "{}: cannot be opened ({}){}", path,
          std::strerror(errno), then);
  require(most || S_ISREG(status.st_mode), "{}: is not a regular file{}", path, then);
  const auto size = static_cast<std::size_t>(status.st_size);  // 0 of a pipe
  const std::size_t room = most ? *most + 1 : size;  // one byte above the bound shows that there are more
  std::string bytes(std::min(room, std::max<std::size_t>(size + 1, 4096)), '\0');
  std::size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t count = ::read(file.value, bytes.data() + done, bytes.size() - done);
    if (count < 0 && errno == EINTR) continue;
    require(count >= 0, "{}: cannot be read ({}){}", path, std::strerror(errno), then);
    if (count == 0) break;
    done += static_cast<std::size_t>(count);
    if (done == bytes.size()) bytes.resize(std::min(room, 2 * done));
  }
  require(!most || done <= *most, "{}: longer than {} KiB, which no such file is{}", path,
          most.value_or(0) / 1024, then);
  bytes.resize(done);
  return bytes;
}

void write_file_atomically(const std::string& path, std::string_view bytes) {
  AtomicFile file(path, fmt::format("{}.{:08x}.tmp", path, std::random_device()()));
  file.write(bytes);
  file.commit();
}

void replace_file(const std::string& path, std::string_view bytes, unsigned mode) {
  AtomicFile file(path);
  file.write(bytes, mode);
  file.commit();
}

std::size_t find_invalid_utf8(std::string_view text) {
  const auto byte = [&](std::size_t i) -> unsigned { return static_cast<unsigned char>(text[i]); };
  std::size_t i = 0;
  while (i < text.size()) {
    const unsigned lead = byte(i);
    if (lead < 0x80) {
      ++i;
      continue;
    }
    const std::size_t more = lead >= 0xC2 && lead < 0xE0 ? 1 : lead >= 0xE0 && lead < 0xF0 ? 2 : 3;
    if (lead < 0xC2 || lead > 0xF4 || text.size() - i <= more) return i;
    for (std::size_t k = 1; k <= more; ++k)
      if ((byte(i + k) & 0xC0) != 0x80) return i;
    const unsigned second = byte(i + 1);
    const bool overlong = (lead == 0xE0 && second < 0xA0) || (lead == 0xF0 && second < 0x90);
    const bool surrogate = lead == 0xED && second > 0x9F, beyond = lead == 0xF4 && second > 0x8F;
    if (overlong || surrogate || beyond) return i;
    i += more + 1;
  }
  return std::string_view::npos;
}

}  // namespace conclave
