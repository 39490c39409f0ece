// Numbers in a file without a name that is mapped into memory. A program that goes through vectors as long as
// a model block by block, and gives back what it has passed, needs memory for its blocks only: the system
// keeps the pages in its cache while it has room for them, and on disk otherwise.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>

namespace conclave {

class MappedVector {
 public:
  /// `size` floats of this value. The file is in `directory`, which must exist, and is gone when the process
  /// ends. If `directory` is empty, the vector is in memory and give_back() has no effect. Throws Error if
  /// there is no room.
  MappedVector(std::size_t size, const std::filesystem::path& directory, float value = 0);
  ~MappedVector();
  MappedVector(const MappedVector&) = delete;
  MappedVector& operator=(const MappedVector&) = delete;

  std::size_t size() const { return size_; }
  std::span<float> values() const { return {data_, size_}; }
  /// The process gives back the memory of all pages. The values stay: the next access brings them back.
  void give_back() const;

 private:
  float* data_ = nullptr;
  std::size_t size_;
  bool in_file_;
};

}  // namespace conclave
