// Serialization of messages: little-endian numbers. Every size is checked before memory is allocated for it.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"

namespace conclave::secure_aggregation {

using Bytes = std::vector<std::byte>;
using ByteView = std::span<const std::byte>;

static_assert(std::endian::native == std::endian::little);

class WireWriter {
 public:
  WireWriter& u8(std::uint8_t value) { return number(value); }
  WireWriter& u32(std::uint32_t value) { return number(value); }
  WireWriter& u64(std::uint64_t value) { return number(value); }
  WireWriter& raw(ByteView bytes) {
    // With insert(), GCC 12 warns of an overflow that cannot happen.
    bytes_.resize(bytes_.size() + bytes.size());
    if (!bytes.empty()) std::memcpy(bytes_.data() + bytes_.size() - bytes.size(), bytes.data(), bytes.size());
    return *this;
  }
  /// Its length, then its characters.
  WireWriter& text(std::string_view value) {
    u32(static_cast<std::uint32_t>(value.size()));
    return raw(std::as_bytes(std::span(value)));
  }
  void reserve(std::size_t size) { bytes_.reserve(size); }
  ByteView view() const { return bytes_; }
  Bytes take() { return std::move(bytes_); }

 private:
  template <class T>
  WireWriter& number(T value) {
    return raw(std::as_bytes(std::span(&value, 1)));
  }
  Bytes bytes_;
};

/// Reads what a WireWriter wrote, or throws an Error that begins with `what`.
class WireReader {
 public:
  WireReader(ByteView bytes, std::string_view what) : rest_(bytes), what_(what) {}

  std::uint8_t u8() { return number<std::uint8_t>(); }
  std::uint32_t u32() { return number<std::uint32_t>(); }
  std::uint64_t u64() { return number<std::uint64_t>(); }
  /// The next bytes, without a copy.
  ByteView raw(std::size_t size) {
    require(size <= rest_.size(), "{}: cut short, {} bytes are missing", what_, size - rest_.size());
    const ByteView taken = rest_.first(size);
    rest_ = rest_.subspan(size);
    return taken;
  }
  template <std::size_t N>
  std::array<std::byte, N> array() {
    std::array<std::byte, N> result;
    std::ranges::copy(raw(N), result.begin());
    return result;
  }
  /// A number of items that follow, each of at least `least` bytes. Throws Error if the rest is too short for
  /// them.
  std::size_t count(std::size_t least) {
    const std::size_t items = u32();
    require(items <= rest_.size() / least, "{}: announces {} items, which do not fit into {} bytes", what_,
            items, rest_.size());
    return items;
  }
  std::string text(std::size_t most) {
    const std::size_t size = count(1);
    require(size <= most, "{}: a text of {} bytes, where {} are allowed", what_, size, most);
    const ByteView bytes = raw(size);
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }
  ByteView rest() { return raw(rest_.size()); }
  void done() const { require(rest_.empty(), "{}: {} bytes too many", what_, rest_.size()); }

 private:
  template <class T>
  T number() {
    T value;
    std::memcpy(&value, raw(sizeof value).data(), sizeof value);
    return value;
  }
  ByteView rest_;
  std::string_view what_;
};

}  // namespace conclave::secure_aggregation
