#include "core/mapped_vector.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>
#include <random>
#include <vector>

#include "core/durable_file.h"
#include "core/error.h"

namespace conclave {
namespace {

constexpr std::size_t kBlock = std::size_t{1} << 18;  // floats that are written at a time

std::string new_name(const std::filesystem::path& directory) {
  std::random_device random;
  return (directory / fmt::format(".vector-{:08x}{:08x}", random(), random())).string();
}

// All of it is written, so that a full disk is an Error here and no signal at a later access.
void write_all(FileDescriptor& file, std::size_t size, float value) {
  const std::vector<float> block(std::min(size, kBlock), value);
  for (std::size_t at = 0; at < size; at += block.size())
    file.write(block.data(), std::min(block.size(), size - at) * sizeof(float));
}

}  // namespace

MappedVector::MappedVector(std::size_t size, const std::filesystem::path& directory, float value)
    : size_(size), in_file_(!directory.empty()) {
  require(size > 0, "a mapped vector without elements");
  std::optional<FileDescriptor> file;
  if (in_file_) {
    const std::string name = new_name(directory);
    file.emplace(name, O_RDWR | O_CREAT | O_EXCL, 0600U);
    ::unlink(name.c_str());
    write_all(*file, size, value);
  }
  void* const mapped = file ? file->map(size * sizeof(float))
                            : ::mmap(nullptr, size * sizeof(float), PROT_READ | PROT_WRITE,
                                     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  require(mapped != MAP_FAILED, "no room for {} MiB: {}", size * sizeof(float) >> 20, std::strerror(errno));
  data_ = static_cast<float*>(mapped);
  if (!file && value != 0) std::ranges::fill(values(), value);
}

MappedVector::~MappedVector() { ::munmap(data_, size_ * sizeof(float)); }

void MappedVector::give_back() const {
  // In a shared mapping of a file no change is lost.
  if (in_file_) ::madvise(data_, size_ * sizeof(float), MADV_DONTNEED);
}

}  // namespace conclave
