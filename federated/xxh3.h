// XXH3 of bytes as they come, which finds what disks and memory do by accident.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>

namespace conclave {

class Xxh3 {
 public:
  Xxh3();
  Xxh3(const Xxh3& other);
  Xxh3& operator=(const Xxh3& other);
  ~Xxh3();

  void add(std::string_view bytes);
  /// XXH3-64 of all that was added.
  std::uint64_t checksum() const;
  /// XXH3-128 of all that was added, in canonical order.
  std::array<std::uint8_t, 16> digest() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace conclave
